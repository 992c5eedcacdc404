"""Executes an instruction that touched an emulated device register.

The hypervisor knows the address of the access and nothing else, so it reads the instruction at RIP and does what the
CPU would have done, flags included, as KVM's emulator does. It knows what compilers and drivers use on registers:
moves, arithmetic and logic with a register or a constant, bit tests, exchanges, and string moves, which with REP are
one exit per instruction and page. A string move's other side may be memory or another register.
Simplified: an access that crosses a page goes to the first page's device; CMPS and SCAS are not known.
"""

from __future__ import annotations

from collections.abc import Callable

import capstone
from capstone import x86

from hv.silicon.memory import BusError
from hv.silicon.x86_64.cpu import Cpu
from hv.silicon.x86_64.pc import Pc
from hv.x86_64.decode import MASKS, address_of, read_register, register_name, write_register

CF, PF, AF, ZF, SF, OF, DF = 1, 4, 0x10, 0x40, 0x80, 0x800, 0x400
ARITHMETIC = CF | PF | AF | ZF | SF | OF
REPEATS = (0xF2, 0xF3)
Translate = Callable[[int, bool], int | None]  # linear address, is it written -> guest-physical address


def _result_flags(value: int, size: int) -> int:
    parity = PF if not (value & 0xFF).bit_count() & 1 else 0
    return parity | (0 if value else ZF) | (SF if value >> 8 * size - 1 else 0)


def add(a: int, b: int, size: int, carry: int = 0) -> tuple[int, int]:
    """a + b + carry and its flags (APM vol. 1, 3.1.4)."""
    value = a + b + carry & MASKS[size]
    flags = _result_flags(value, size) | (a ^ b ^ value) & AF
    flags |= CF if a + b + carry > MASKS[size] else 0
    return value, flags | (OF if (a ^ value) & (b ^ value) & 1 << 8 * size - 1 else 0)


def subtract(a: int, b: int, size: int, borrow: int = 0) -> tuple[int, int]:
    """a - b - borrow and its flags."""
    value = a - b - borrow & MASKS[size]
    flags = _result_flags(value, size) | (a ^ b ^ value) & AF
    flags |= CF if a < b + borrow else 0
    return value, flags | (OF if (a ^ b) & (a ^ value) & 1 << 8 * size - 1 else 0)


def logic(value: int, size: int) -> tuple[int, int]:
    """A result of AND, OR, XOR, TEST: no carry, no overflow."""
    return value, _result_flags(value, size)


Combine = Callable[[int, int, int, int], tuple[int, int]]  # destination, source, size, carry -> result, flags
TWO_OPERANDS: dict[int, Combine] = {
    x86.X86_INS_ADD: lambda a, b, size, carry: add(a, b, size),
    x86.X86_INS_ADC: add,
    x86.X86_INS_SUB: lambda a, b, size, carry: subtract(a, b, size),
    x86.X86_INS_SBB: subtract,
    x86.X86_INS_CMP: lambda a, b, size, carry: subtract(a, b, size),
    x86.X86_INS_AND: lambda a, b, size, carry: logic(a & b, size),
    x86.X86_INS_TEST: lambda a, b, size, carry: logic(a & b, size),
    x86.X86_INS_OR: lambda a, b, size, carry: logic(a | b, size),
    x86.X86_INS_XOR: lambda a, b, size, carry: logic(a ^ b, size),
}
WITHOUT_RESULT = frozenset((x86.X86_INS_CMP, x86.X86_INS_TEST, x86.X86_INS_BT))
BIT_TESTS: dict[int, Callable[[int, int], int]] = {
    x86.X86_INS_BT: lambda value, bit: value,
    x86.X86_INS_BTS: lambda value, bit: value | bit,
    x86.X86_INS_BTR: lambda value, bit: value & ~bit,
    x86.X86_INS_BTC: lambda value, bit: value ^ bit,
}
LOADS = {x86.X86_INS_MOV: False, x86.X86_INS_MOVABS: False, x86.X86_INS_MOVZX: False, x86.X86_INS_MOVSX: True,
         x86.X86_INS_MOVSXD: True}  # fmt: skip
STRINGS = {0xA4: "move", 0xA5: "move", 0xAA: "store", 0xAB: "store", 0xAC: "load", 0xAD: "load"}  # by opcode


class Emulation:
    """One instruction of `cpu` on the registers of `board`, which were touched at guest-physical `gpa`."""

    def __init__(self, cpu: Cpu, board: Pc, gpa: int, instruction: capstone.CsInsn, translate: Translate) -> None:
        self.cpu, self.board, self.gpa, self.i, self.translate = cpu, board, gpa, instruction, translate

    def run(self) -> bool:
        """Do it, and go to the next instruction. False when it is none that is known, or its address another one."""
        i = self.i
        kind = STRINGS.get(i.opcode[0]) if i.opcode[1] == 0 else None
        if kind is not None:
            return self._string(kind)
        memory = next((operand for operand in i.operands if operand.type == x86.X86_OP_MEM), None)
        if memory is None or not self._known():
            return False
        size = memory.size
        address = address_of(self.cpu, i, memory)
        if i.id in BIT_TESTS and i.operands[1].type == x86.X86_OP_REG:  # the bit may lie far from the operand
            offset = self._value(i.operands[1], size)
            offset -= (offset >> 8 * size - 1) << 8 * size
            address = address + (offset // (8 * size)) * size & MASKS[8]
        written = memory is i.operands[0] and i.id not in WITHOUT_RESULT
        if self.translate(address, written) != self.gpa:
            return False
        self._plain(memory, size)
        self.cpu.skip(i.size)
        return True

    def _known(self) -> bool:
        i = self.i
        names = [register_name(operand.reg) for operand in i.operands if operand.type == x86.X86_OP_REG]
        try:
            for name in names:
                read_register(self.cpu, name)
        except KeyError:
            return False  # a segment register, for one
        one = i.id in (x86.X86_INS_INC, x86.X86_INS_DEC, x86.X86_INS_NOT, x86.X86_INS_NEG)
        two = i.id in LOADS or i.id in TWO_OPERANDS or i.id in BIT_TESTS
        return len(i.operands) == (1 if one else 2) and (one or two or i.id == x86.X86_INS_XCHG)

    # --- operands ---------------------------------------------------------------------------------------------

    def _read(self, gpa: int, size: int) -> int:
        """Memory or a device's register."""
        try:
            return int.from_bytes(self.board.ram.dma_read(gpa, size), "little")
        except BusError:
            return self.board.mmio_read(self.cpu.index, gpa, size) & MASKS[size]

    def _write(self, gpa: int, size: int, value: int) -> None:
        try:
            self.board.ram.dma_write(gpa, value.to_bytes(size, "little"))
        except BusError:
            self.board.mmio_write(self.cpu.index, gpa, size, value)

    def _value(self, operand: x86.X86Op, size: int) -> int:
        value = operand.imm if operand.type == x86.X86_OP_IMM else read_register(self.cpu, self._name(operand))
        return value & MASKS[size]

    def _name(self, operand: x86.X86Op) -> str:
        return register_name(operand.reg)

    def _set_flags(self, flags: int, mask: int = ARITHMETIC) -> None:
        self.cpu.rflags = self.cpu.rflags & ~mask | flags

    # --- instructions -----------------------------------------------------------------------------------------

    def _plain(self, memory: x86.X86Op, size: int) -> None:
        i, gpa = self.i, self.gpa
        if len(i.operands) == 1:
            self._one_operand(size)
            return
        target, source = i.operands
        if i.id in LOADS:
            if memory is target:
                self._write(gpa, size, self._value(source, size))
            else:
                value = self._read(gpa, size)
                if LOADS[i.id] and value >> 8 * size - 1:
                    value -= 1 << 8 * size
                write_register(self.cpu, self._name(target), value)
        elif i.id == x86.X86_INS_XCHG:
            name = self._name(source if memory is target else target)
            value = self._read(gpa, size)
            self._write(gpa, size, read_register(self.cpu, name))
            write_register(self.cpu, name, value)
        elif i.id in BIT_TESTS:
            place = self._value(source, size) % (8 * size)
            value = self._read(gpa, size)
            self._set_flags(value >> place & 1, CF)
            if i.id not in WITHOUT_RESULT:
                self._write(gpa, size, BIT_TESTS[i.id](value, 1 << place))
        else:
            read = self._read(gpa, size)
            a, b = (read, self._value(source, size)) if memory is target else (self._value(target, size), read)
            value, flags = TWO_OPERANDS[i.id](a, b, size, self.cpu.rflags & CF)
            self._set_flags(flags)
            if i.id in WITHOUT_RESULT:
                return
            if memory is target:
                self._write(gpa, size, value)
            else:
                write_register(self.cpu, self._name(target), value)

    def _one_operand(self, size: int) -> None:
        i = self.i
        before = self._read(self.gpa, size)
        if i.id == x86.X86_INS_NOT:
            value = ~before & MASKS[size]
        elif i.id == x86.X86_INS_NEG:
            value, flags = subtract(0, before, size)
            self._set_flags(flags)
        else:
            value, flags = add(before, 1, size) if i.id == x86.X86_INS_INC else subtract(before, 1, size)
            self._set_flags(flags & ~CF, ARITHMETIC & ~CF)
        self._write(self.gpa, size, value)

    # --- strings ----------------------------------------------------------------------------------------------

    def _string(self, kind: str) -> bool:
        """MOVS, STOS and LODS; with REP as far as the pages of both sides go."""
        i, cpu = self.i, self.cpu
        wide = {2: ("cx", "si", "di"), 4: ("ecx", "esi", "edi"), 8: ("rcx", "rsi", "rdi")}[i.addr_size]
        counter, source, target = wide
        size = next(operand.size for operand in i.operands if operand.type == x86.X86_OP_MEM)
        accumulator = {1: "al", 2: "ax", 4: "eax", 8: "rax"}[size]
        step = -size if cpu.rflags & DF else size
        repeated = i.prefix[0] in REPEATS
        if repeated and not read_register(cpu, counter):
            cpu.skip(i.size)
            return True
        memories = [operand for operand in i.operands if operand.type == x86.X86_OP_MEM]
        first = [address_of(cpu, i, operand) for operand in memories]
        moving = [name for name, used in ((target, kind != "load"), (source, kind != "store")) if used]
        done = 0
        while True:
            linear = [address_of(cpu, i, operand) for operand in memories]
            if any(now >> 12 != before >> 12 for now, before in zip(linear, first, strict=True)):
                break
            places = [self.translate(at, kind != "load" and n == 0) for n, at in enumerate(linear)]
            if any(place is None for place in places) or (not done and self.gpa not in places):
                return False
            where = [place for place in places if place is not None]
            value = read_register(cpu, accumulator) if kind == "store" else self._read(where[-1], size)
            if kind == "load":
                write_register(cpu, accumulator, value)
            else:
                self._write(where[0], size, value)
            for name in moving:
                write_register(cpu, name, read_register(cpu, name) + step)
            done += 1
            if not repeated:
                break
            write_register(cpu, counter, read_register(cpu, counter) - 1)
            if not read_register(cpu, counter):
                break
        if repeated:
            cpu.m.retired += done
        if not repeated or not read_register(cpu, counter):
            cpu.skip(i.size)
        return True
