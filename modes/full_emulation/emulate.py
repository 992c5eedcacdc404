"""The instructions that the hypervisor executes for the guest: privileged ones, and the sensitive ones made to trap.

capstone decodes. Every handler performs one instruction on the virtual CPU and returns the reason of the exit; what the
hardware would refuse it refuses with GuestFault, before it has changed anything (APM vol. 3, each instruction's page).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import capstone
from capstone import x86

from hv.silicon.x86_64.msr import EFER, BadMsr, read_msr, write_msr
from hv.silicon.x86_64.state import RAX, RCX, RDX
from hv.x86_64.board import Board
from hv.x86_64.decode import MASKS, address_of, read_register, register_name, write_register
from hv.x86_64.guest_cpuid import answer_cpuid
from hv.x86_64.ports import string_transfer
from modes.full_emulation.core import Core
from modes.full_emulation.reflect import (
    CODE,
    CONFORMING,
    GP,
    NP,
    PRESENT,
    SS_VECTOR,
    UD,
    interrupt_return,
    system_return,
)
from modes.full_emulation.state import (
    FLAG_IF,
    FLAG_IOPL,
    FLAG_RF,
    FLAG_VM,
    FS,
    GS,
    SS,
)
from modes.shadow.registers import CR0_PE, CR0_TS, GuestFault

RDI = 7
FLAG_ZF, FLAG_DF = 1 << 6, 1 << 10
USER_CHANGEABLE = 0x24_4DD5  # ID AC NT OF DF TF SF ZF AF PF CF
SEGMENT_REGISTERS = {
    x86.X86_REG_ES: 0, x86.X86_REG_CS: 1, x86.X86_REG_SS: 2, x86.X86_REG_DS: 3, x86.X86_REG_FS: 4, x86.X86_REG_GS: 5,
}  # fmt: skip
WRITABLE_DATA, DESCRIPTOR_ACCESSED, NOT_SYSTEM = 1 << 41, 1 << 40, 1 << 44


class Emulator:
    """One instruction at a time."""

    def __init__(self, core: Core, board: Board) -> None:
        self.core, self.board = core, board
        self.cpu = core.cpu

    def run(self, instruction: capstone.CsInsn) -> str | None:
        """Execute it. None when it is none that the hypervisor executes."""
        handler = HANDLERS.get(instruction.id)
        return None if handler is None else handler(self, instruction)

    # --- helpers ----------------------------------------------------------------------------------------------

    def privileged(self) -> None:
        if self.core.v.cpl:
            raise GuestFault(GP)

    def done(self, i: capstone.CsInsn, reason: str) -> str:
        self.cpu.skip(i.size)
        return reason

    def address(self, i: capstone.CsInsn, operand: x86.X86Op) -> int:
        return address_of(self.cpu, i, operand) & self.core.mask

    def get(self, i: capstone.CsInsn, operand: x86.X86Op, size: int) -> int:
        if operand.type == x86.X86_OP_MEM:
            return self.core.read_int(self.address(i, operand), size)
        return read_register(self.cpu, register_name(operand.reg)) & MASKS[size]

    def put_word(self, i: capstone.CsInsn, operand: x86.X86Op, value: int) -> None:
        """A 16-bit value: memory takes two bytes, a register is filled up with zeros."""
        if operand.type == x86.X86_OP_MEM:
            self.core.write(self.address(i, operand), struct.pack("<H", value & 0xFFFF))
        else:
            write_register(self.cpu, register_name(operand.reg), value)

    # --- flags and waiting ------------------------------------------------------------------------------------

    def cli(self, i: capstone.CsInsn) -> str:
        v = self.core.v
        if v.cpl > v.iopl:
            raise GuestFault(GP)
        v.interrupts = False
        return self.done(i, "cli")

    def sti(self, i: capstone.CsInsn) -> str:
        v = self.core.v
        if v.cpl > v.iopl:
            raise GuestFault(GP)
        was, v.interrupts = v.interrupts, True
        self.cpu.skip(i.size)
        if not was:
            v.shadow = self.cpu.rip
        return "sti"

    def hlt(self, i: capstone.CsInsn) -> str:
        self.privileged()
        self.cpu.halted = True
        return self.done(i, "hlt")

    def pushf(self, i: capstone.CsInsn) -> str:
        size = FLAG_SIZES[i.id]
        stack = self.cpu.rsp - size
        self.core.push(stack & self.core.mask, size, self.core.flags & ~(FLAG_RF | FLAG_VM))
        self.cpu.rsp = stack & self.core.mask
        return self.done(i, "pushf")

    def popf(self, i: capstone.CsInsn) -> str:
        core, v = self.core, self.core.v
        size = FLAG_SIZES[i.id]
        new = core.read_stack(self.cpu.rsp, size)
        changeable = USER_CHANGEABLE | (FLAG_IOPL if not v.cpl else 0) | (FLAG_IF if v.cpl <= v.iopl else 0)
        changeable &= MASKS[size]
        core.flags = (core.flags & ~changeable | new & changeable) & ~FLAG_RF
        self.cpu.rsp = self.cpu.rsp + size & core.mask
        return self.done(i, "popf")

    # --- control registers ------------------------------------------------------------------------------------

    def mov(self, i: capstone.CsInsn) -> str | None:
        """MOV with a control, debug or segment register."""
        target, source = i.operands
        if target.type == x86.X86_OP_REG and target.reg in SEGMENT_REGISTERS:
            self.load_segment(SEGMENT_REGISTERS[target.reg], self.get(i, source, 2))
            self.cpu.skip(i.size)
            if target.reg == x86.X86_REG_SS:
                self.core.v.shadow = self.cpu.rip
            return "segment"
        if source.type == x86.X86_OP_REG and source.reg in SEGMENT_REGISTERS:
            self.put_word(i, target, self.core.v.selectors[SEGMENT_REGISTERS[source.reg]])
            return self.done(i, "segment")
        if target.type != x86.X86_OP_REG or source.type != x86.X86_OP_REG:
            return None
        to, of = register_name(target.reg), register_name(source.reg)
        if to[:2] in ("cr", "dr"):
            self.privileged()
            value = read_register(self.cpu, of)
            if to[0] == "c":
                self.write_cr(int(to[2:]), value)
                return self.done(i, "cr8_write" if to == "cr8" else "cr_access")
            self.core.v.dr[int(to[2:])] = value & 0xFFFF_2300 | 0x400 if to == "dr7" else value
            return self.done(i, "privileged")
        if of[:2] in ("cr", "dr"):
            self.privileged()
            number = int(of[2:])
            write_register(self.cpu, to, self.read_cr(number) if of[0] == "c" else self.core.v.dr[number])
            return self.done(i, "cr_access" if of[0] == "c" else "privileged")
        return None

    def read_cr(self, number: int) -> int:
        v = self.core.v
        values = {0: v.cr0, 2: v.cr2, 3: v.cr3, 4: v.cr4, 8: self.cpu.tpr}
        if number not in values:
            raise GuestFault(UD)
        return values[number]

    def write_cr(self, number: int, value: int) -> None:
        v = self.core.v
        if number == 0:
            v.write_cr0(value, long_code=v.long_code)
        elif number == 2:
            v.cr2 = value
        elif number == 3:
            v.cr3 = value
        elif number == 4:
            v.write_cr4(value)
        elif number == 8:
            if value >> 4:
                raise GuestFault(GP)
            self.cpu.tpr = value
        else:
            raise GuestFault(UD)
        if number in (0, 3, 4):
            self.core.pager.synchronise()

    def clts(self, i: capstone.CsInsn) -> str:
        self.privileged()
        self.core.v.cr0 &= ~CR0_TS
        return self.done(i, "cr_access")

    def lmsw(self, i: capstone.CsInsn) -> str:
        self.privileged()
        v = self.core.v
        value = self.get(i, i.operands[0], 2)
        v.cr0 = v.cr0 & ~0xE | value & 0xF | v.cr0 & CR0_PE
        return self.done(i, "cr_access")

    def smsw(self, i: capstone.CsInsn) -> str:
        self.put_word(i, i.operands[0], self.core.v.cr0)
        return self.done(i, "cr_access")

    def invlpg(self, i: capstone.CsInsn) -> str:
        self.privileged()
        self.core.pager.synchronise_page(self.address(i, i.operands[0]))
        return self.done(i, "invlpg")

    def nothing(self, i: capstone.CsInsn) -> str:
        """WBINVD, INVD: there are no caches to see."""
        self.privileged()
        return self.done(i, "privileged")

    def not_offered(self, i: capstone.CsInsn) -> str:
        """SVM is not offered to the guest."""
        self.privileged()
        raise GuestFault(UD)

    def undefined(self, i: capstone.CsInsn) -> str:
        """XSETBV: CR4.OSXSAVE is never set."""
        raise GuestFault(UD)

    def refused(self, i: capstone.CsInsn) -> str:
        """RDPMC: no counters."""
        raise GuestFault(GP)

    # --- MSRs, CPUID, time ------------------------------------------------------------------------------------

    def rdmsr(self, i: capstone.CsInsn) -> str:
        self.privileged()
        regs = self.cpu.regs
        number = regs[RCX] & 0xFFFF_FFFF
        try:
            value = self.core.v.efer if number == EFER else read_msr(self.cpu, number)
        except BadMsr:
            raise GuestFault(GP) from None
        regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
        return self.done(i, "msr")

    def wrmsr(self, i: capstone.CsInsn) -> str:
        self.privileged()
        regs, v = self.cpu.regs, self.core.v
        number = regs[RCX] & 0xFFFF_FFFF
        value = (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF
        if number == EFER:
            v.write_efer(value)
            self.core.pager.drop_all()  # EFER.NXE decides what an entry means
        else:
            try:
                write_msr(self.cpu, number, value)
            except BadMsr:
                raise GuestFault(GP) from None
        return self.done(i, "msr")

    def swapgs(self, i: capstone.CsInsn) -> str:
        self.privileged()
        state = self.cpu.state
        state.segs[GS].base, state.kernelgsbase = state.kernelgsbase, state.segs[GS].base
        return self.done(i, "swapgs")

    def cpuid(self, i: capstone.CsInsn) -> str:
        answer_cpuid(self.cpu, self.board.platform)
        return self.done(i, "cpuid")

    def rdtsc(self, i: capstone.CsInsn) -> str:
        if self.core.v.cr4 & 4 and self.core.v.cpl:
            raise GuestFault(GP)
        self.cpu.skip(i.size)
        value = read_msr(self.cpu, 0x10)
        regs = self.cpu.regs
        regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
        if i.id == x86.X86_INS_RDTSCP:
            regs[RCX] = read_msr(self.cpu, 0xC000_0103) & 0xFFFF_FFFF
        return "rdtsc"

    # --- descriptor tables and segments -----------------------------------------------------------------------

    def load_table(self, i: capstone.CsInsn) -> str:
        """LGDT, LIDT."""
        self.privileged()
        core = self.core
        size = 8 if core.v.long_code else 4
        raw = core.read(self.address(i, i.operands[0]), 2 + size)
        value = int.from_bytes(raw[2:], "little"), int.from_bytes(raw[:2], "little")
        if i.id == x86.X86_INS_LGDT:
            core.v.gdt = value
        else:
            core.v.idt = value
        return self.done(i, "descriptor_table")

    def store_table(self, i: capstone.CsInsn) -> str:
        """SGDT, SIDT."""
        core = self.core
        base, limit = core.v.gdt if i.id == x86.X86_INS_SGDT else core.v.idt
        size = 8 if core.v.long_code else 4
        core.write(self.address(i, i.operands[0]), struct.pack("<H", limit) + base.to_bytes(8, "little")[:size])
        return self.done(i, "descriptor_table")

    def load_system(self, i: capstone.CsInsn) -> str:
        """LLDT, LTR."""
        self.privileged()
        core, v = self.core, self.core.v
        selector = self.get(i, i.operands[0], 2)
        ltr = i.id == x86.X86_INS_LTR
        if not selector & 0xFFFC and not ltr:
            v.ldt = selector, 0, 0
            return self.done(i, "descriptor_table")
        if not selector & 0xFFFC or selector & 4:
            raise GuestFault(GP, selector & 0xFFFC)
        low = core.descriptor(selector)
        if (selector | 15) > v.gdt[1]:
            raise GuestFault(GP, selector & 0xFFFC)
        kind = low >> 40 & 0x1F
        if kind not in ((1, 9) if ltr else (2,)):
            raise GuestFault(GP, selector & 0xFFFC)
        if not low & PRESENT:
            raise GuestFault(NP, selector & 0xFFFC)
        place = v.gdt[0] + (selector & ~7)
        high = core.read_int(place + 8, 8, system=True) & 0xFFFF_FFFF if v.long_mode else 0
        base = low >> 16 & 0xFF_FFFF | low >> 32 & 0xFF00_0000 | high << 32
        if ltr:
            core.write(place + 5, bytes((low >> 40 & 0xFF | 2,)), system=True)  # busy
            v.tr = selector, base, _limit(low)
        else:
            v.ldt = selector, base, _limit(low)
        return self.done(i, "descriptor_table")

    def store_system(self, i: capstone.CsInsn) -> str:
        """SLDT, STR."""
        v = self.core.v
        self.put_word(i, i.operands[0], (v.ldt if i.id == x86.X86_INS_SLDT else v.tr)[0])
        return self.done(i, "descriptor_table")

    def load_segment(self, index: int, selector: int) -> None:
        """A data segment register gets a selector (APM vol. 2, 4.10)."""
        core, v = self.core, self.core.v
        rpl, named = selector & 3, selector & 0xFFFC
        if not named:
            if index == SS and (v.cpl == 3 or not v.long_code):
                raise GuestFault(GP)
            base = 0
        else:
            descriptor = core.descriptor(selector)
            dpl, code = descriptor >> 45 & 3, bool(descriptor & CODE)
            if not descriptor & NOT_SYSTEM:
                raise GuestFault(GP, named)
            if index == SS:
                if code or not descriptor & WRITABLE_DATA or dpl != v.cpl or rpl != v.cpl:
                    raise GuestFault(GP, named)
            elif (code and not descriptor & WRITABLE_DATA) or (
                not (code and descriptor & CONFORMING) and dpl < max(v.cpl, rpl)
            ):
                raise GuestFault(GP, named)
            if not descriptor & PRESENT:
                raise GuestFault(SS_VECTOR if index == SS else NP, named)
            if not descriptor & DESCRIPTOR_ACCESSED:
                table = v.ldt[1] if selector & 4 else v.gdt[0]
                core.write(table + (selector & ~7) + 5, bytes((descriptor >> 40 & 0xFF | 1,)), system=True)
            base = descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000
        v.selectors[index] = selector
        if index in (FS, GS):
            self.cpu.state.segs[index].base = base

    def push(self, i: capstone.CsInsn) -> str | None:
        index = SEGMENT_REGISTERS.get(i.operands[0].reg)
        if index is None:
            return None
        size = self.stack_size(i)
        stack = self.cpu.rsp - size & self.core.mask
        self.core.push(stack, size, self.core.v.selectors[index])
        self.cpu.rsp = stack
        return self.done(i, "segment")

    def pop(self, i: capstone.CsInsn) -> str | None:
        index = SEGMENT_REGISTERS.get(i.operands[0].reg)
        if index is None:
            return None
        size = self.stack_size(i)
        self.load_segment(index, self.core.read_stack(self.cpu.rsp, size) & 0xFFFF)
        self.cpu.rsp = self.cpu.rsp + size & self.core.mask
        return self.done(i, "segment")

    def stack_size(self, i: capstone.CsInsn) -> int:
        if i.prefix[2] == 0x66:
            return 2
        return 8 if self.core.v.long_code else 4

    def look_at_segment(self, i: capstone.CsInsn) -> str:
        """LAR, LSL, VERR, VERW: answers in ZF, no fault for a bad selector."""
        core = self.core
        selector = self.get(i, i.operands[-1], 2)
        try:
            descriptor = core.descriptor(selector) if selector & 0xFFFC else None
        except GuestFault as fault:
            if fault.address is not None:
                raise
            descriptor = None
        good = descriptor is not None and self.visible(i.id, selector, descriptor)
        if good and len(i.operands) > 1:
            assert descriptor is not None
            value = _limit(descriptor) if i.id == x86.X86_INS_LSL else descriptor >> 32 & 0x00F0_FF00
            name = register_name(i.operands[0].reg)
            write_register(self.cpu, name, value)
        core.flags = core.flags | FLAG_ZF if good else core.flags & ~FLAG_ZF
        return self.done(i, "segment")

    def visible(self, what: int, selector: int, descriptor: int) -> bool:
        kind, dpl = descriptor >> 40 & 0xF, descriptor >> 45 & 3
        code, conforming = bool(descriptor & CODE), bool(descriptor & CONFORMING)
        allowed = dpl >= max(self.core.v.cpl, selector & 3)
        if what in (x86.X86_INS_LAR, x86.X86_INS_LSL):
            if descriptor & NOT_SYSTEM:
                return (code and conforming) or allowed
            return allowed and kind in ((1, 2, 3, 9, 11) if what == x86.X86_INS_LSL else (1, 2, 3, 4, 5, 9, 11, 12))
        if not descriptor & NOT_SYSTEM:
            return False
        if what == x86.X86_INS_VERR:
            return (not code or bool(descriptor & WRITABLE_DATA)) and ((code and conforming) or allowed)
        return not code and bool(descriptor & WRITABLE_DATA) and allowed

    # --- far transfers ----------------------------------------------------------------------------------------

    def far(self, selector: int, rip: int, *, returning: bool = False) -> None:
        """CS:RIP get new values. Simplified: no call gates and no task switches."""
        core, v = self.core, self.core.v
        named, rpl = selector & 0xFFFC, selector & 3
        if not named:
            raise GuestFault(GP)
        descriptor = core.descriptor(selector)
        dpl = descriptor >> 45 & 3
        if not (descriptor & NOT_SYSTEM and descriptor & CODE):
            raise GuestFault(GP, named)
        if returning:
            wrong = rpl < v.cpl or (dpl > rpl if descriptor & CONFORMING else dpl != rpl)
        else:
            wrong = dpl > v.cpl if descriptor & CONFORMING else rpl > v.cpl or dpl != v.cpl
        if wrong:
            raise GuestFault(GP, named)
        if not descriptor & PRESENT:
            raise GuestFault(NP, named)
        if descriptor >> 53 & 1 and rip >> 47 not in (0, 0x1FFFF):
            raise GuestFault(GP)
        core.enter_code(selector, descriptor, rpl if returning else v.cpl)
        self.cpu.rip = rip
        self.cpu.m.retired += 1

    def far_pointer(self, i: capstone.CsInsn) -> tuple[int, int, int]:
        """Selector, offset and operand size of a far JMP or CALL."""
        if i.operands[0].type == x86.X86_OP_IMM:
            immediates = [operand.imm for operand in i.operands]
            return immediates[0] & 0xFFFF, immediates[1] & 0xFFFF_FFFF, 4
        size = 8 if i.rex & 8 else 2 if i.prefix[2] == 0x66 else 4
        raw = self.core.read(self.address(i, i.operands[0]), size + 2)
        return int.from_bytes(raw[size:], "little"), int.from_bytes(raw[:size], "little"), size

    def far_jump(self, i: capstone.CsInsn) -> str:
        selector, rip, _ = self.far_pointer(i)
        self.far(selector, rip)
        return "segment"

    def far_call(self, i: capstone.CsInsn) -> str:
        core = self.core
        selector, rip, size = self.far_pointer(i)
        back, cs, stack = self.cpu.rip + i.size, core.v.selectors[1], self.cpu.rsp
        core.push(stack - size & core.mask, size, cs)
        core.push(stack - 2 * size & core.mask, size, back)
        self.far(selector, rip)
        self.cpu.rsp = stack - 2 * size & core.mask
        return "segment"

    def far_return(self, i: capstone.CsInsn) -> str:
        core, v, cpu = self.core, self.core.v, self.cpu
        size = 8 if i.rex & 8 else 2 if i.prefix[2] == 0x66 else 4
        extra = i.operands[0].imm if i.operands else 0
        stack, old = cpu.rsp, v.cpl
        rip, selector = core.read_stack(stack, size), core.read_stack(stack + size, size) & 0xFFFF
        after, ss = stack + 2 * size + extra, v.selectors[SS]
        if selector & 3 > old:
            inner = after
            after, ss = core.read_stack(inner, size) + extra, core.read_stack(inner + size, size) & 0xFFFF
        self.far(selector, rip, returning=True)
        v.selectors[SS] = ss
        cpu.rsp = after & core.mask
        return "segment"

    def iret(self, i: capstone.CsInsn) -> str:
        interrupt_return(self.core, {x86.X86_INS_IRET: 2, x86.X86_INS_IRETD: 4, x86.X86_INS_IRETQ: 8}[i.id])
        return "iret"

    def sysret(self, i: capstone.CsInsn) -> str:
        system_return(self.core, wide=bool(i.rex & 8))
        return "sysret"

    # --- ports ------------------------------------------------------------------------------------------------

    def check_port(self, port: int, size: int) -> None:
        """The I/O permission bitmap of the guest's TSS (APM vol. 2, 12.2.4)."""
        core, v = self.core, self.core.v
        if v.cpl <= v.iopl:
            return
        _, base, limit = v.tr
        if limit < 103:
            raise GuestFault(GP)
        at = core.read_int(base + 0x66, 2, system=True) + port // 8
        if at + 1 > limit or core.read_int(base + at, 2, system=True) >> port % 8 & (1 << size) - 1:
            raise GuestFault(GP)

    def port(self, i: capstone.CsInsn) -> str:
        """IN, OUT."""
        is_in = i.id == x86.X86_INS_IN
        data, number = i.operands if is_in else i.operands[::-1]
        port = number.imm & 0xFF if number.type == x86.X86_OP_IMM else self.cpu.regs[RDX] & 0xFFFF
        size = data.size
        self.check_port(port, size)
        name = register_name(data.reg)
        if is_in:
            write_register(self.cpu, name, self.board.ports.read(port, size))
        else:
            self.board.ports.write(port, size, read_register(self.cpu, name))
        return self.done(i, "ioio")

    def string_port(self, i: capstone.CsInsn) -> str:
        """INS, OUTS; with REP as far as the page goes."""
        core, regs = self.core, self.cpu.regs
        is_in = i.id in (x86.X86_INS_INSB, x86.X86_INS_INSW, x86.X86_INS_INSD)
        size = STRING_SIZES[i.id]
        repeated = i.prefix[0] in (0xF2, 0xF3)
        port = regs[RDX] & 0xFFFF
        self.check_port(port, size)
        step = -size if core.flags & FLAG_DF else size
        string_transfer(self.cpu, core.mask, self.board.ports, port, step, is_in, repeated, core.read, core.write)
        if not repeated or not regs[RCX]:
            self.cpu.skip(i.size)
        return "ioio"


def _limit(descriptor: int) -> int:
    limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000
    return limit << 12 | 0xFFF if descriptor >> 55 & 1 else limit


FLAG_SIZES = {
    x86.X86_INS_PUSHF: 2, x86.X86_INS_PUSHFD: 4, x86.X86_INS_PUSHFQ: 8,
    x86.X86_INS_POPF: 2, x86.X86_INS_POPFD: 4, x86.X86_INS_POPFQ: 8,
}  # fmt: skip
STRING_SIZES = {
    x86.X86_INS_INSB: 1, x86.X86_INS_INSW: 2, x86.X86_INS_INSD: 4,
    x86.X86_INS_OUTSB: 1, x86.X86_INS_OUTSW: 2, x86.X86_INS_OUTSD: 4,
}  # fmt: skip
HANDLERS: dict[int, Callable[[Emulator, capstone.CsInsn], str | None]] = {
    x86.X86_INS_CLI: Emulator.cli,
    x86.X86_INS_STI: Emulator.sti,
    x86.X86_INS_HLT: Emulator.hlt,
    x86.X86_INS_MOV: Emulator.mov,
    x86.X86_INS_CLTS: Emulator.clts,
    x86.X86_INS_LMSW: Emulator.lmsw,
    x86.X86_INS_SMSW: Emulator.smsw,
    x86.X86_INS_INVLPG: Emulator.invlpg,
    x86.X86_INS_WBINVD: Emulator.nothing,
    x86.X86_INS_INVD: Emulator.nothing,
    x86.X86_INS_RDMSR: Emulator.rdmsr,
    x86.X86_INS_WRMSR: Emulator.wrmsr,
    x86.X86_INS_SWAPGS: Emulator.swapgs,
    x86.X86_INS_CPUID: Emulator.cpuid,
    x86.X86_INS_RDTSC: Emulator.rdtsc,
    x86.X86_INS_RDTSCP: Emulator.rdtsc,
    x86.X86_INS_RDPMC: Emulator.refused,
    x86.X86_INS_XSETBV: Emulator.undefined,
    x86.X86_INS_LGDT: Emulator.load_table,
    x86.X86_INS_LIDT: Emulator.load_table,
    x86.X86_INS_SGDT: Emulator.store_table,
    x86.X86_INS_SIDT: Emulator.store_table,
    x86.X86_INS_LLDT: Emulator.load_system,
    x86.X86_INS_LTR: Emulator.load_system,
    x86.X86_INS_SLDT: Emulator.store_system,
    x86.X86_INS_STR: Emulator.store_system,
    x86.X86_INS_PUSH: Emulator.push,
    x86.X86_INS_POP: Emulator.pop,
    x86.X86_INS_LJMP: Emulator.far_jump,
    x86.X86_INS_LCALL: Emulator.far_call,
    x86.X86_INS_RETF: Emulator.far_return,
    x86.X86_INS_RETFQ: Emulator.far_return,
    x86.X86_INS_IRET: Emulator.iret,
    x86.X86_INS_IRETD: Emulator.iret,
    x86.X86_INS_IRETQ: Emulator.iret,
    x86.X86_INS_SYSRET: Emulator.sysret,
    x86.X86_INS_SYSRETQ: Emulator.sysret,
    x86.X86_INS_IN: Emulator.port,
    x86.X86_INS_OUT: Emulator.port,
    **dict.fromkeys(STRING_SIZES, Emulator.string_port),
    **{number: (Emulator.pushf if number in list(FLAG_SIZES)[:3] else Emulator.popf) for number in FLAG_SIZES},
    **dict.fromkeys(
        (x86.X86_INS_LAR, x86.X86_INS_LSL, x86.X86_INS_VERR, x86.X86_INS_VERW), Emulator.look_at_segment
    ),
    **dict.fromkeys(
        (
            x86.X86_INS_VMRUN, x86.X86_INS_VMLOAD, x86.X86_INS_VMSAVE, x86.X86_INS_STGI, x86.X86_INS_CLGI,
            x86.X86_INS_SKINIT, x86.X86_INS_INVLPGA,
        ),
        Emulator.not_offered,
    ),
}  # fmt: skip
