"""16-bit code, in which a CPU starts: executed by software, since ring 3 knows no real mode.

A start-up message begins it, and a far jump to 32-bit code ends it: only from there on the real CPU runs the guest. So
it costs no exit. VirtualBox's raw mode and the first VMware gave real mode to an interpreter too.
Simplified: only what start-up code needs. MOV (also from and to segment registers and CR0), LGDT, LIDT, LMSW, SMSW,
AND, OR, XOR, ADD, SUB, CMP, TEST, INC, DEC, LEA, PUSH, POP, CLI, CLD, NOP, WBINVD, jumps, CALL and RET. Any other
instruction ends the guest with one line. There are no interrupts, and each instruction takes the time of a plain one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import capstone
from capstone import x86

from hv.silicon.x86_64.cpu import Shutdown
from hv.silicon.x86_64.state import CF
from hv.x86_64.decode import MASKS, read_register, write_register
from modes.full_emulation.core import Core
from modes.full_emulation.state import CS, DS, SS
from modes.shadow.registers import CR0_PE, GuestFault

MOST_INSTRUCTIONS = 10_000  # of one start; who needs more is lost
SEGMENTS = {
    x86.X86_REG_ES: 0, x86.X86_REG_CS: 1, x86.X86_REG_SS: 2, x86.X86_REG_DS: 3, x86.X86_REG_FS: 4, x86.X86_REG_GS: 5,
}  # fmt: skip
ZF, SF, OF, PF, DF = 1 << 6, 1 << 7, 1 << 11, 1 << 2, 1 << 10
DEFAULT_32 = 1 << 54


@functools.cache
def _decoder() -> capstone.Cs:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16)
    decoder.detail = True
    return decoder


def run_real_mode(core: Core) -> None:
    """Run from CS:IP to the first 32-bit instruction. Raises Shutdown for what is not emulated."""
    interpreter = Interpreter(core)
    for _ in range(MOST_INSTRUCTIONS):
        interpreter.step()
        if interpreter.done:
            return
    raise Shutdown(f"CPU {core.cpu.index} ran {MOST_INSTRUCTIONS} 16-bit instructions, which is more than hv emulates")


class Interpreter:
    """`ip` and `flags` are the CPU's; `bases` those of its segments, real or from the descriptors it has loaded."""

    def __init__(self, core: Core) -> None:
        self.core, self.cpu, self.v = core, core.cpu, core.v
        self.bases = [selector << 4 for selector in self.v.selectors]
        self.ip, self.flags = self.cpu.rip, core.flags
        self.done = False

    def step(self) -> None:
        """Execute the instruction at CS:IP."""
        try:
            code = self.core.read(self.bases[CS] + self.ip, 15, system=True)
            instruction = next(_decoder().disasm(code, 0, 1), None)
            handler = None if instruction is None else HANDLERS.get(instruction.id)
            if instruction is None or handler is None or instruction.prefix[0]:
                raise self.unknown(instruction)
            self.ip = self.ip + instruction.size & 0xFFFF
            handler(self, instruction)
        except GuestFault as fault:
            raise Shutdown(f"exception {fault.vector} in the 16-bit code of CPU {self.cpu.index}") from None
        self.cpu.m.retired += 1

    def unknown(self, instruction: capstone.CsInsn | None) -> Shutdown:
        what = (
            "an unknown instruction" if instruction is None else f"{instruction.mnemonic} {instruction.op_str}".strip()
        )
        where = f"{self.v.selectors[CS]:04x}:{self.ip:04x}"
        return Shutdown(f"{what} at {where}, in the 16-bit code of CPU {self.cpu.index}, which hv does not emulate")

    # --- operands -------------------------------------------------------------------------------------------------

    def offset(self, i: capstone.CsInsn, operand: x86.X86Op) -> int:
        mem = operand.mem
        offset: int = mem.disp
        if mem.base:
            offset += read_register(self.cpu, i.reg_name(mem.base))
        if mem.index not in (0, x86.X86_REG_EIZ):
            offset += read_register(self.cpu, i.reg_name(mem.index)) * mem.scale
        return offset & MASKS[i.addr_size]

    def address(self, i: capstone.CsInsn, operand: x86.X86Op) -> int:
        stack = operand.mem.base in (x86.X86_REG_BP, x86.X86_REG_EBP, x86.X86_REG_ESP)
        segment = SEGMENTS.get(operand.mem.segment, SS if stack else DS)
        return self.bases[segment] + self.offset(i, operand) & MASKS[4]

    def get(self, i: capstone.CsInsn, operand: x86.X86Op) -> int:
        if operand.type == x86.X86_OP_IMM:
            return int(operand.imm) & MASKS[operand.size]
        if operand.type == x86.X86_OP_MEM:
            return self.core.read_int(self.address(i, operand), operand.size)
        if operand.reg in SEGMENTS:
            return self.v.selectors[SEGMENTS[operand.reg]]
        if operand.reg == x86.X86_REG_CR0:
            return self.v.cr0
        return self.register(i, operand.reg)

    def register(self, i: capstone.CsInsn, number: int) -> int:
        try:
            return read_register(self.cpu, i.reg_name(number))
        except KeyError:
            raise self.unknown(i) from None

    def put(self, i: capstone.CsInsn, operand: x86.X86Op, value: int) -> None:
        if operand.type == x86.X86_OP_MEM:
            self.core.write(self.address(i, operand), (value & MASKS[operand.size]).to_bytes(operand.size, "little"))
        elif operand.reg in SEGMENTS and operand.reg != x86.X86_REG_CS:
            self.load_segment(SEGMENTS[operand.reg], value & 0xFFFF)
        elif operand.reg == x86.X86_REG_CR0:
            self.v.write_cr0(value, long_code=False)
        else:
            self.register(i, operand.reg)
            # Not as in 64-bit mode: what a 32-bit write does to the upper half nobody can see here.
            write_register(self.cpu, i.reg_name(operand.reg), value & MASKS[operand.size])

    def load_segment(self, index: int, selector: int) -> None:
        """In real mode the base is 16 times the selector, in protected mode the descriptor's."""
        self.bases[index] = selector << 4
        if self.v.cr0 & CR0_PE:
            self.bases[index] = _base(self.core.descriptor(selector)) if selector & 0xFFFC else 0
        self.v.selectors[index] = selector

    # --- instructions ---------------------------------------------------------------------------------------------

    def move(self, i: capstone.CsInsn) -> None:
        target, source = i.operands
        self.put(i, target, self.get(i, source))

    def load_address(self, i: capstone.CsInsn) -> None:
        self.put(i, i.operands[0], self.offset(i, i.operands[1]))

    def arithmetic(self, i: capstone.CsInsn) -> None:
        """AND, OR, XOR, TEST, ADD, SUB, CMP, INC, DEC with their flags (APM vol. 1, 3.1.4); AF stays as it was."""
        target = i.operands[0]
        bits = 8 * target.size
        a, b = self.get(i, target), self.get(i, i.operands[1]) if len(i.operands) > 1 else 1
        kind = KINDS[i.id]
        wide = {"and": a & b, "or": a | b, "xor": a ^ b, "add": a + b, "sub": a - b}[kind]
        value = wide & MASKS[target.size]
        sign = 1 << bits - 1
        flags = self.flags & ~(ZF | SF | PF | OF)
        if i.id not in (x86.X86_INS_INC, x86.X86_INS_DEC):
            flags = flags & ~CF | (CF if wide != value else 0)
        flags |= (ZF if not value else 0) | (SF if value & sign else 0)
        flags |= 0 if (value & 0xFF).bit_count() & 1 else PF
        overflow = {"add": ~(a ^ b) & (a ^ value), "sub": (a ^ b) & (a ^ value)}.get(kind, 0)
        self.flags = flags | (OF if overflow & sign else 0)
        if i.id not in (x86.X86_INS_CMP, x86.X86_INS_TEST):
            self.put(i, target, value)

    def push(self, i: capstone.CsInsn) -> None:
        self.push_value(self.get(i, i.operands[0]), i.operands[0].size)

    def push_value(self, value: int, size: int) -> None:
        sp = read_register(self.cpu, "sp") - size & 0xFFFF
        self.core.write(self.bases[SS] + sp, (value & MASKS[size]).to_bytes(size, "little"))
        write_register(self.cpu, "sp", sp)

    def pop(self, i: capstone.CsInsn) -> None:
        self.put(i, i.operands[0], self.pop_value(i.operands[0].size))

    def pop_value(self, size: int) -> int:
        sp = read_register(self.cpu, "sp")
        value = self.core.read_int(self.bases[SS] + sp, size)
        write_register(self.cpu, "sp", sp + size & 0xFFFF)
        return value

    def table(self, i: capstone.CsInsn) -> None:
        """LGDT and LIDT: with 16-bit operands only 24 bits of the base count."""
        at = self.address(i, i.operands[0])
        limit, base = self.core.read_int(at, 2), self.core.read_int(at + 2, 4)
        value = (base if i.prefix[2] == 0x66 else base & 0xFF_FFFF), limit
        if i.id == x86.X86_INS_LGDT:
            self.v.gdt = value
        else:
            self.v.idt = value

    def load_status_word(self, i: capstone.CsInsn) -> None:
        """LMSW can set PE, and not clear it."""
        word = self.get(i, i.operands[0]) & 0xF
        self.v.write_cr0(self.v.cr0 & ~0xE | word, long_code=False)

    def store_status_word(self, i: capstone.CsInsn) -> None:
        self.put(i, i.operands[0], self.v.cr0)

    def plain(self, i: capstone.CsInsn) -> None:
        if i.id == x86.X86_INS_CLD:
            self.flags &= ~DF

    def jump(self, i: capstone.CsInsn) -> None:
        if self.condition(i):
            self.ip = self.near_target(i) & 0xFFFF

    def near_target(self, i: capstone.CsInsn) -> int:
        """Relative to IP, or absolute from a register or memory. Code was decoded as if it lay at 0."""
        operand = i.operands[0]
        if operand.type == x86.X86_OP_IMM:
            return self.ip - int(i.size) + int(operand.imm)
        return self.get(i, operand)

    def condition(self, i: capstone.CsInsn) -> bool:
        f = self.flags
        less = bool(f & SF) != bool(f & OF)
        answers = {
            x86.X86_INS_JMP: True, x86.X86_INS_JE: bool(f & ZF), x86.X86_INS_JNE: not f & ZF,
            x86.X86_INS_JB: bool(f & CF), x86.X86_INS_JAE: not f & CF, x86.X86_INS_JBE: bool(f & (CF | ZF)),
            x86.X86_INS_JA: not f & (CF | ZF), x86.X86_INS_JS: bool(f & SF), x86.X86_INS_JNS: not f & SF,
            x86.X86_INS_JL: less, x86.X86_INS_JGE: not less, x86.X86_INS_JLE: less or bool(f & ZF),
            x86.X86_INS_JG: not less and not f & ZF,
        }  # fmt: skip
        return answers[i.id]

    def call(self, i: capstone.CsInsn) -> None:
        target = self.near_target(i)
        self.push_value(self.ip, 4 if i.prefix[2] == 0x66 else 2)
        self.ip = target & 0xFFFF

    def ret(self, i: capstone.CsInsn) -> None:
        self.ip = self.pop_value(4 if i.prefix[2] == 0x66 else 2) & 0xFFFF

    def far_jump(self, i: capstone.CsInsn) -> None:
        """In protected mode this is where 16-bit code ends, if the descriptor says so."""
        operand = i.operands[0]
        if operand.type == x86.X86_OP_IMM:
            selector, offset = (int(part.imm) for part in i.operands)
        else:
            size = 4 if i.prefix[2] == 0x66 else 2
            at = self.address(i, operand)
            offset, selector = self.core.read_int(at, size), self.core.read_int(at + size, 2)
        selector &= 0xFFFF
        if not self.v.cr0 & CR0_PE:
            self.v.selectors[CS], self.bases[CS], self.ip = selector, selector << 4, offset & 0xFFFF
            return
        descriptor = self.core.descriptor(selector)
        if not descriptor & DEFAULT_32:
            raise self.unknown(i)
        self.core.enter_code(selector, descriptor, 0)
        self.cpu.rip = offset & MASKS[4]
        self.core.flags = self.flags
        self.done = True


def _base(descriptor: int) -> int:
    return descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000


KINDS = {
    x86.X86_INS_AND: "and", x86.X86_INS_TEST: "and", x86.X86_INS_OR: "or", x86.X86_INS_XOR: "xor",
    x86.X86_INS_ADD: "add", x86.X86_INS_INC: "add", x86.X86_INS_SUB: "sub", x86.X86_INS_CMP: "sub",
    x86.X86_INS_DEC: "sub",
}  # fmt: skip
JUMPS = (
    x86.X86_INS_JMP, x86.X86_INS_JE, x86.X86_INS_JNE, x86.X86_INS_JB, x86.X86_INS_JAE, x86.X86_INS_JBE, x86.X86_INS_JA,
    x86.X86_INS_JS, x86.X86_INS_JNS, x86.X86_INS_JL, x86.X86_INS_JGE, x86.X86_INS_JLE, x86.X86_INS_JG,
)  # fmt: skip
HANDLERS: dict[int, Callable[[Interpreter, capstone.CsInsn], None]] = {
    x86.X86_INS_MOV: Interpreter.move,
    x86.X86_INS_LEA: Interpreter.load_address,
    **dict.fromkeys(KINDS, Interpreter.arithmetic),
    x86.X86_INS_PUSH: Interpreter.push,
    x86.X86_INS_POP: Interpreter.pop,
    x86.X86_INS_LGDT: Interpreter.table,
    x86.X86_INS_LIDT: Interpreter.table,
    x86.X86_INS_LMSW: Interpreter.load_status_word,
    x86.X86_INS_SMSW: Interpreter.store_status_word,
    **dict.fromkeys((x86.X86_INS_CLI, x86.X86_INS_CLD, x86.X86_INS_NOP, x86.X86_INS_WBINVD), Interpreter.plain),
    **dict.fromkeys(JUMPS, Interpreter.jump),
    x86.X86_INS_CALL: Interpreter.call,
    x86.X86_INS_RET: Interpreter.ret,
    x86.X86_INS_LJMP: Interpreter.far_jump,
}
