"""Rewrites the guest kernel's instructions, one after the other, as code for the cache.

An innocuous instruction is copied; a RIP-relative operand is made to reach what it reached. A sensitive one becomes a
short sequence on the virtual CPU in the window, or a call-out, which the hypervisor performs and which is an exit.
Direct branches go to translations; an indirect one looks its own up, and lands on it (look_up and landing).

Every instruction of the translation has a Place: which instruction of the guest it belongs to, and what makes the CPU's
state the guest's own there. A sequence has one instruction at which it takes effect. Before that one the place says how
to go back to the sequence's start, behind it how to go on to its end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import NamedTuple

import capstone
import msgspec
from capstone import x86

from modes.full_emulation.emulate import FLAG_SIZES, HANDLERS, SEGMENT_REGISTERS
from modes.full_emulation.state import FLAG_IOPL, FLAG_TF
from modes.full_emulation.translator import emit
from modes.full_emulation.translator.emit import RCX, RDX
from modes.full_emulation.translator.window import (
    CR,
    CR8,
    FLAGS_BYTE,
    GDTR,
    IDTR,
    IF,
    LDTR,
    REGISTERS,
    SELECTORS,
    SIZE,
    TOO_BIG,
    TR,
    VALUE,
    Window,
)

# What to do to be at the guest's instruction of a place. The low 16 bits: registers to take from where they are kept.
AT_TARGET = 1 << 16  # the guest's RIP is in RCX: an indirect branch has taken effect
PUSHED = 1 << 17  # 8 bytes more than yet due are on the stack
FINISH = 1 << 18  # the flags are spoilt, but the instruction sets them: complete it first
AFTER_STI = 1 << 19  # no interrupt may come here
# Why the code comes out here: an instruction for the hypervisor, one that the real CPU must do at its own address, a
# jump that is not linked, an indirect branch whose target is not in the table.
CALL_OUT, STEP, STUB, MISS = 1 << 20, 1 << 21, 1 << 22, 1 << 23
REGISTER_BITS = 0xFFFF
# How the guest comes to the next instruction: from the one before it, by a return, or perhaps never.
NEXT, RETURNS, ELSEWHERE = range(3)
BIT_RCX, BIT_RDX = 1 << RCX, 1 << RDX

MOST_INSTRUCTIONS = 128  # of the guest in one block
MOST_BYTES = 1 << 14  # that a block can take
SCRATCH = ("rcx", "rdx", "rbx", "rsi", "rdi")
NUMBER = {"rax": 0, "rcx": 1, "rdx": 2, "rbx": 3, "rsi": 6, "rdi": 7}


class Place(NamedTuple):
    rip: int
    fix: int


class Jump(NamedTuple):
    """A jump in the cache to the translation of `target`: where its displacement is, and where it goes unlinked."""

    site: int
    stub: int
    target: int


class Block(msgspec.Struct):
    """What a run of the guest's instructions has become."""

    at: int  # in the cache
    size: int  # bytes there
    rips: list[int]  # the guest's instructions


class Builder:
    """A block while it is made. `where` has the translations that there are, `landed` the addresses that have a
    landing; `inert_port` says what IN need not do.
    """

    def __init__(
        self, window: Window, at: int, start: int, where: dict[int, int], inert_port: Callable[[int], bool],
        landed: Collection[int],
    ) -> None:  # fmt: skip
        self.window, self.origin, self.start = window, at, start
        self.where, self.inert_port, self.landed = where, inert_port, landed
        self.code = bytearray()
        self.places: dict[int, Place] = {}
        self.found: dict[int, int] = {}  # the guest's instructions in this block
        self.landings: dict[int, int] = {}  # where indirect branches to some of them land
        self.jumps: list[Jump] = []
        self._open: list[tuple[int, int]] = []  # jumps: where the displacement is, the guest's target
        self._outs: list[tuple[int, Place]] = []  # jumps to a call-out
        self._literals: list[tuple[int, int]] = []  # where the distance to a value is, and the value
        self.rip = self.next = start  # the guest's instruction that is translated, and the one behind it
        self.after_sti: int | None = None  # the guest's instruction behind an STI

    @property
    def here(self) -> int:
        return self.origin + len(self.code)

    def put(self, code: bytes, fix: int = 0, rip: int | None = None) -> None:
        """One instruction, with its place."""
        rip = self.rip if rip is None else rip
        if rip == self.after_sti and not fix & AT_TARGET:
            fix |= AFTER_STI
        self.places[self.here] = Place(rip, fix)
        self.code += code

    def at(self, offset: int) -> int:
        """Linear address of an offset in the window."""
        return self.window.base + offset

    def kept(self, register: int) -> int:
        return self.at(REGISTERS + 8 * register)

    # --- blocks -----------------------------------------------------------------------------------------------

    def translate(self, fetch: Callable[[int], capstone.CsInsn | None]) -> None:
        """Translate from `start` to a jump, the page's end, or something that is translated already."""
        then = NEXT
        while then != ELSEWHERE:
            self.rip = self.next
            first = self.rip == self.start
            new_page = self.rip >> 12 != self.start >> 12
            known = self.rip in self.where or self.rip in self.found
            i = None if known or new_page else fetch(self.rip)
            size = 15 if i is None else i.size
            beyond = (self.rip & 0xFFF) + size > 0x1000  # it ends in a page that nobody has fetched yet
            if not first and (known or new_page or beyond or len(self.found) >= MOST_INSTRUCTIONS):
                if then == NEXT:
                    self.jump(self.rip)
                break
            if then == RETURNS:
                self.landing(self.rip)
            self.found[self.rip] = self.here
            if i is None:
                self.put(emit.CALL_OUT, STEP)
                break
            self.next = self.rip + i.size & (1 << 64) - 1
            then = self.instruction(i)
        self.close()

    def instruction(self, i: capstone.CsInsn) -> int:
        """Translate one instruction. Returns how the guest comes to the next one."""
        if is_near_branch(i):
            if i.prefix[2] == 0x66 or i.prefix[3] == 0x67:
                self.put(emit.CALL_OUT, STEP)
                return ELSEWHERE
            return self.branch(i)
        sequence = SEQUENCES.get(i.id)
        if sequence is not None and sequence(self, i):
            return NEXT
        if i.id in HANDLERS and is_sensitive(i):
            self.put(emit.CALL_OUT, CALL_OUT)
            return ELSEWHERE if i.id in LEAVES else NEXT
        self.copy(i)
        return NEXT

    def close(self) -> None:
        """What lies behind the code: stubs of jumps, call-outs that are rarely taken, literals."""
        self.after_sti = None
        for site, place in self._outs:
            self.patch(site, self.here)
            self.put(emit.CALL_OUT, place.fix, place.rip)
        for site, target in self._open:
            self.jumps.append(Jump(site, self.here, target))
            self.patch(site, self.where.get(target) or self.found.get(target) or self.here)
            self.put(emit.CALL_OUT, STUB, target)
        for site, value in self._literals:
            self.patch(site, self.here)
            self.code += struct.pack("<Q", value)

    def patch(self, site: int, target: int) -> None:
        at = site - self.origin
        self.code[at : at + 4] = emit.rel32(site, target)

    # --- jumps ------------------------------------------------------------------------------------------------

    def jump(self, target: int, opcode: bytes = emit.JUMP) -> None:
        """A jump to the translation of `target`, which may not be there yet."""
        self.put(opcode + bytes(4), 0, target if opcode == emit.JUMP else None)
        self._open.append((self.here - 4, target))

    def out(self, fix: int) -> None:
        """A jump to a call-out for this instruction."""
        self.put(emit.JUMP + bytes(4), fix)
        self._outs.append((self.here - 4, Place(self.rip, fix | CALL_OUT)))

    def branch(self, i: capstone.CsInsn) -> int:
        operand = i.operands[0] if i.operands else None
        if i.id == x86.X86_INS_RET:
            self.returns(operand.imm & 0xFFFF if operand is not None else 0)
            return ELSEWHERE
        assert operand is not None
        direct = operand.type == x86.X86_OP_IMM
        if not direct:
            self.take_target(i, operand)
        if i.id == x86.X86_INS_CALL:
            self.push_next(0 if direct else BIT_RCX)
        elif i.id != x86.X86_INS_JMP:
            self.conditional(i, self.target(operand))
            return NEXT
        if direct:
            self.jump(self.target(operand))
        else:
            self.look_up()
        return RETURNS if i.id == x86.X86_INS_CALL else ELSEWHERE

    def target(self, operand: x86.X86Op) -> int:
        """Where a direct branch goes; capstone has decoded it at address 0."""
        return int(self.rip + operand.imm) & (1 << 64) - 1

    def conditional(self, i: capstone.CsInsn, target: int) -> None:
        if i.id not in LOOPS:
            condition = i.opcode[1] if i.opcode[0] == 0x0F else i.opcode[0]
            self.jump(target, bytes((0x0F, 0x80 | condition & 0xF)))
            return
        self.put(bytes((i.opcode[0], 2)))  # these reach 128 bytes only: over the next jump, to the one behind it
        self.put(bytes((0xEB, emit.JUMP_SIZE)), 0, self.next)
        self.jump(target)

    def push_next(self, fix: int) -> None:
        """A call's return address is the guest's own: nothing on its stack shows the cache."""
        if emit.fits(emit.signed(self.next)):
            self.put(emit.push_constant(self.next), fix)
        else:
            self.put(emit.push_near(self.here, self.here), fix)
            self._literals.append((self.here - 4, self.next))

    def take_target(self, i: capstone.CsInsn, operand: x86.X86Op) -> None:
        """RCX = where an indirect branch goes; the guest's own RCX is kept."""
        self.put(emit.keep(RCX, self.kept(RCX)))
        if operand.type == x86.X86_OP_MEM:
            self.with_memory(i, emit.LOAD, RCX, wide=True, fix=BIT_RCX)
        elif operand.reg != x86.X86_REG_RCX:
            self.put(emit.copy_to_rcx(register_number(i.reg_name(operand.reg))), BIT_RCX)

    def returns(self, dropped: int) -> None:
        """RET, or RET imm16: RCX = what lies on the guest's stack."""
        self.put(emit.keep(RCX, self.kept(RCX)))
        if not dropped:
            self.put(emit.POP_RCX, BIT_RCX)
        else:
            self.put(emit.LOAD_RCX_FROM_STACK, BIT_RCX)
            self.put(emit.drop_stack(8 + dropped), BIT_RCX)
        self.look_up()

    def look_up(self) -> None:
        """Go where the guest's address in RCX is translated: its slot in the table of targets holds the landing."""
        self.put(emit.jump_through(self.at(SIZE)), AT_TARGET | BIT_RCX)

    def landing(self, rip: int) -> None:
        """Here an indirect branch to `rip` arrives. The guest gets its RCX back.

        That load is also the check that RCX is `rip`: it adds the distance from `rip` to where RCX is kept. An address
        that shares the slot with `rip` has other top bits, and so has what is loaded from then: it faults.
        """
        if rip in self.landed or rip in self.landings:
            return
        self.landings[rip] = self.here
        fix = AT_TARGET | BIT_RCX
        distance = emit.signed(self.kept(RCX) - rip & (1 << 64) - 1)
        if emit.fits(distance):
            self.put(emit.load_near_rcx(distance), fix)
            return
        self.put(emit.keep(RDX, self.kept(RDX)), fix)
        self.put(emit.constant(RDX, distance), fix | BIT_RDX)
        self.put(emit.LOAD_AT_RCX_PLUS_RDX, fix | BIT_RDX)
        self.put(emit.load(RDX, self.kept(RDX)), BIT_RDX)

    # --- operands in memory -----------------------------------------------------------------------------------

    def copy(self, i: capstone.CsInsn) -> None:
        """An innocuous instruction, as it is; where an operand is relative to RIP, as it must be here."""
        code = bytes(i.bytes)
        address = relative_address(self.rip, i)
        if address is None:
            self.put(code)
            return
        distance = emit.signed(address - self.here - i.size & (1 << 64) - 1)
        if emit.fits(distance) and not i.prefix[3]:
            at = i.disp_offset
            self.put(code[:at] + struct.pack("<i", distance) + code[at + 4 :])
            return
        register = free_register(i)
        if register is None:
            self.put(emit.CALL_OUT, STEP)
            return
        bit = 1 << register
        self.put(emit.keep(register, self.kept(register)))
        self.put(emit.constant(register, address), bit)
        self.put(through_register(i, register), bit)
        self.put(emit.load(register, self.kept(register)), bit, self.next)

    def with_memory(
        self, i: capstone.CsInsn, opcode: bytes, register: int, *, wide: bool, fix: int, add: int = 0
    ) -> None:
        """An instruction with another opcode and a register below 8, and the operand in memory that `i` has.

        For a load, `register` may be one of the address's own. `add` moves the address.
        """
        address = relative_address(self.rip, i)
        segment = bytes((i.prefix[1],)) if i.prefix[1] in (0x64, 0x65) else b""
        word = b"\x66" if opcode == emit.STORE and not wide else b""
        if address is not None:
            address = address + add & (1 << 64) - 1
            start = segment + word + (b"\x48" if wide else b"") + opcode + bytes((register << 3 | 5,))
            distance = emit.signed(address - self.here - len(start) - 4 & (1 << 64) - 1)
            if emit.fits(distance):
                self.put(start + struct.pack("<i", distance), fix)
                return
            pointer = register if opcode == emit.LOAD else next(r for r in (3, 6, 7) if r != register)
            if pointer != register:
                self.put(emit.keep(pointer, self.kept(pointer)), fix)
                fix |= 1 << pointer
            self.put(emit.constant(pointer, address), fix)
            self.put(segment + word + (b"\x48" if wide else b"") + opcode + bytes((register << 3 | pointer,)), fix)
            if pointer != register:
                self.put(emit.load(pointer, self.kept(pointer)), fix)
            return
        rex = 0x40 | (i.rex & 3) | wide << 3
        prefixes = segment + word + (b"\x67" if i.prefix[3] else b"") + (bytes((rex,)) if rex != 0x40 else b"")
        self.put(prefixes + opcode + memory_operand(i, register, add), fix)

    # --- sensitive instructions -------------------------------------------------------------------------------

    def cli(self, i: capstone.CsInsn) -> bool:
        self.put(emit.store_constant_byte(self.at(IF), 0))
        return True

    def sti(self, i: capstone.CsInsn) -> bool:
        self.put(emit.store_constant_byte(self.at(IF), 1))
        self.after_sti = self.next
        return True

    def pushf(self, i: capstone.CsInsn) -> bool:
        """The real IF is always 1: the byte of the pushed flags that it is in is replaced."""
        if FLAG_SIZES[i.id] != 8:
            return False
        fix = PUSHED | BIT_RCX
        self.put(emit.PUSH_FLAGS)
        self.put(emit.keep(RCX, self.kept(RCX)), PUSHED)
        self.put(b"\x0f\xb6\x4c\x24\x01", fix)  # MOVZX ECX, byte [RSP + 1]
        self.put(emit.load_ch(self.at(IF)), fix)
        self.put(bytes((0x8A, 0x89)) + struct.pack("<i", emit.signed(self.at(FLAGS_BYTE))), fix)  # MOV CL, [.. + RCX]
        self.put(b"\x88\x4c\x24\x01", fix)  # MOV [RSP + 1], CL
        self.put(emit.load(RCX, self.kept(RCX)), BIT_RCX, self.next)
        return True

    def popf(self, i: capstone.CsInsn) -> bool:
        """IF goes to the virtual CPU; TF and IOPL are for the hypervisor to set."""
        if FLAG_SIZES[i.id] != 8:
            return False
        spoilt = BIT_RCX | FINISH
        self.put(emit.keep(RCX, self.kept(RCX)))
        self.put(emit.LOAD_RCX_FROM_STACK, BIT_RCX)
        self.put(b"\xf7\xc1" + struct.pack("<I", FLAG_TF | FLAG_IOPL), BIT_RCX)  # TEST ECX, ..
        self.put(b"\x74\x05", spoilt)  # JZ over the jump
        self.out(spoilt)
        self.put(b"\xc1\xe9\x09", spoilt)  # SHR ECX, 9
        self.put(b"\x83\xe1\x01", spoilt)  # AND ECX, 1
        self.put(emit.slot(emit.STORE_BYTE, RCX, self.at(IF), wide=False), spoilt)
        self.put(emit.load(RCX, self.kept(RCX)), spoilt)
        self.put(emit.POP_FLAGS, FINISH)
        return True

    def mov(self, i: capstone.CsInsn) -> bool:
        """MOV from a control or segment register, and to CR8."""
        target, source = i.operands
        if source.type == x86.X86_OP_REG and source.reg in SEGMENT_REGISTERS:
            return self.word_of(i, SELECTORS + 8 * SEGMENT_REGISTERS[source.reg])
        if target.type != x86.X86_OP_REG or source.type != x86.X86_OP_REG:
            return False
        to, of = i.reg_name(target.reg), i.reg_name(source.reg)
        if of in CONTROL_READS:
            self.put(emit.load(register_number(to), self.at(CR + 8 * CONTROL_READS[of])))
            return True
        if of == "cr8":
            self.put(emit.slot(emit.ZERO_EXTEND_BYTE, register_number(to), self.at(CR8), wide=False))
            return True
        if to == "cr8":
            self.write_cr8(register_number(of))
            return True
        return False

    def write_cr8(self, register: int) -> None:
        """A value above 15 is for the hypervisor to refuse. No comparison: the flags are the guest's."""
        self.put(emit.keep(register, self.at(VALUE)))
        self.put(emit.keep(RCX, self.kept(RCX)))
        self.put(emit.load(RCX, self.at(VALUE + 1)), BIT_RCX)
        self.put(emit.OVER_JUMP, BIT_RCX)
        self.out(BIT_RCX)
        self.put(emit.slot(emit.ZERO_EXTEND_BYTE, RCX, self.at(VALUE), wide=False), BIT_RCX)
        self.put(emit.index_byte(RCX, self.at(TOO_BIG)), BIT_RCX)
        self.put(emit.OVER_JUMP, BIT_RCX)
        self.out(BIT_RCX)
        self.put(emit.slot(emit.LOAD_BYTE, RCX, self.at(VALUE), wide=False), BIT_RCX)
        self.put(emit.slot(emit.STORE_BYTE, RCX, self.at(CR8), wide=False), BIT_RCX)
        self.put(emit.load(RCX, self.kept(RCX)), BIT_RCX, self.next)

    def smsw(self, i: capstone.CsInsn) -> bool:
        return self.word_of(i, CR)

    def sldt(self, i: capstone.CsInsn) -> bool:
        return self.word_of(i, LDTR if i.id == x86.X86_INS_SLDT else TR)

    def word_of(self, i: capstone.CsInsn, fact: int) -> bool:
        """16 bits of a fact to memory; to a register as many as it has."""
        operand = i.operands[0]
        if operand.type == x86.X86_OP_REG:
            register, address = register_number(i.reg_name(operand.reg)), self.at(fact)
            word = b"\x66" if operand.size == 2 else b""
            self.put(word + emit.slot(emit.LOAD, register, address, wide=operand.size == 8))
            return True
        register_free = free_register(i)
        if register_free is None:
            return False
        bit = 1 << register_free
        self.put(emit.keep(register_free, self.kept(register_free)))
        self.put(emit.load(register_free, self.at(fact)), bit)
        self.with_memory(i, emit.STORE, register_free, wide=False, fix=bit)
        self.put(emit.load(register_free, self.kept(register_free)), bit, self.next)
        return True

    def store_table(self, i: capstone.CsInsn) -> bool:
        """SGDT, SIDT: limit and base."""
        register = free_register(i)
        if register is None:
            return False
        fact = GDTR if i.id == x86.X86_INS_SGDT else IDTR
        bit = 1 << register
        self.put(emit.keep(register, self.kept(register)))
        self.put(emit.load(register, self.at(fact)), bit)
        self.with_memory(i, emit.STORE, register, wide=False, fix=bit)
        self.put(emit.load(register, self.at(fact + 2)), bit)
        self.with_memory(i, emit.STORE, register, wide=True, fix=bit, add=2)
        self.put(emit.load(register, self.kept(register)), bit, self.next)
        return True

    def push(self, i: capstone.CsInsn) -> bool:
        """PUSH FS, PUSH GS."""
        index = SEGMENT_REGISTERS.get(i.operands[0].reg) if i.operands[0].type == x86.X86_OP_REG else None
        if index is None or i.prefix[2] == 0x66:
            return False
        self.put(emit.push_slot(self.at(SELECTORS + 8 * index)))
        return True

    def rdtsc(self, i: capstone.CsInsn) -> bool:
        """CR4.TSD is off in the real CPU while the guest's kernel runs."""
        self.copy(i)
        return True

    def port(self, i: capstone.CsInsn) -> bool:
        """IN from a port where nobody answers: all ones."""
        data, number = i.operands
        if number.type != x86.X86_OP_IMM or not self.inert_port(number.imm & 0xFF):
            return False
        self.put({1: b"\xb0\xff", 2: b"\x66\xb8\xff\xff", 4: b"\xb8\xff\xff\xff\xff"}[data.size])
        return True


# --- about one instruction of the guest -------------------------------------------------------------------------------


def register_number(name: str) -> int:
    """Of a general register's name, whatever its size (not AH to BH)."""
    return _NUMBERS[name]


def _numbers() -> dict[str, int]:
    out = {}
    for number, letters in enumerate(("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")):
        out.update(dict.fromkeys((letters, "e" + letters, "r" + letters), number))
    for number in range(8, 16):
        out.update(dict.fromkeys((f"r{number}", f"r{number}d", f"r{number}w"), number))
    return out


_NUMBERS = _numbers()


def relative_address(rip: int, i: capstone.CsInsn) -> int | None:
    """The address that a RIP-relative operand of the instruction at `rip` names, or None when there is none."""
    for operand in i.operands:
        if operand.type == x86.X86_OP_MEM and operand.mem.base in (x86.X86_REG_RIP, x86.X86_REG_EIP):
            wide = operand.mem.base == x86.X86_REG_RIP
            return int(rip + i.size + operand.mem.disp) & (1 << 64 if wide else 1 << 32) - 1
    return None


def free_register(i: capstone.CsInsn) -> int | None:
    """A register that the instruction has nothing to do with, and that may be a plain base register."""
    read, written = i.regs_access()
    used = {_NUMBERS.get(i.reg_name(register), -1) for register in (*read, *written)}
    used |= {_HIGH_BYTES.get(i.reg_name(register), -1) for register in (*read, *written)}
    return next((NUMBER[name] for name in SCRATCH if NUMBER[name] not in used), None)


_HIGH_BYTES = {
    **dict.fromkeys(("al", "ah"), 0), **dict.fromkeys(("cl", "ch"), 1), **dict.fromkeys(("dl", "dh"), 2),
    **dict.fromkeys(("bl", "bh"), 3), "sil": 6, "dil": 7,
}  # fmt: skip


def through_register(i: capstone.CsInsn, register: int) -> bytes:
    """The instruction with [register] instead of its RIP-relative operand."""
    code = bytearray(i.bytes)
    at = i.modrm_offset
    code[at] = code[at] & 0x38 | register
    del code[at + 1 : at + 5]
    if i.rex:
        prefix = code.index(i.rex)
        code[prefix] &= ~1  # the base is one of the first eight
    if i.prefix[3] == 0x67:
        code.remove(0x67)
    return bytes(code)


def memory_operand(i: capstone.CsInsn, register: int, add: int) -> bytes:
    """ModRM, SIB and displacement of an instruction's operand in memory, with another register and a moved address."""
    code, at = bytes(i.bytes), i.modrm_offset
    modrm = code[at]
    mode, base = modrm >> 6, modrm & 7
    sib = code[at + 1 : at + 2] if base == 4 else b""
    no_base = mode == 0 and base == 4 and sib[0] & 7 == 5
    size = {0: 4 if no_base else 0, 1: 1, 2: 4}[mode]
    start = at + 1 + len(sib)
    displacement = int.from_bytes(code[start : start + size], "little", signed=True) + add
    wanted = (0 if no_base else 2) << 6 | register << 3 | base
    return bytes((wanted,)) + sib + struct.pack("<i", displacement)


def is_near_branch(i: capstone.CsInsn) -> bool:
    first, second = i.opcode[0], i.opcode[1]
    return i.id in BRANCHES or first & 0xF0 == 0x70 or (first == 0x0F and second & 0xF0 == 0x80)


def is_sensitive(i: capstone.CsInsn) -> bool:
    """MOV, PUSH and POP have handlers for their forms with control, debug and segment registers only."""
    if i.id not in (x86.X86_INS_MOV, x86.X86_INS_PUSH, x86.X86_INS_POP):
        return True
    return any(
        operand.type == x86.X86_OP_REG
        and (operand.reg in SEGMENT_REGISTERS or i.reg_name(operand.reg)[:2] in ("cr", "dr"))
        for operand in i.operands
    )


CONTROL_READS = {"cr0": 0, "cr2": 2, "cr3": 3, "cr4": 4}
LOOPS = frozenset((
    x86.X86_INS_LOOP, x86.X86_INS_LOOPE, x86.X86_INS_LOOPNE, x86.X86_INS_JRCXZ, x86.X86_INS_JECXZ, x86.X86_INS_JCXZ,
))  # fmt: skip
BRANCHES = frozenset((x86.X86_INS_CALL, x86.X86_INS_RET, x86.X86_INS_JMP)) | LOOPS
# After these the guest is somewhere else.
LEAVES = frozenset((
    x86.X86_INS_IRET, x86.X86_INS_IRETD, x86.X86_INS_IRETQ, x86.X86_INS_SYSRET, x86.X86_INS_SYSRETQ, x86.X86_INS_LJMP,
    x86.X86_INS_LCALL, x86.X86_INS_RETF, x86.X86_INS_RETFQ,
))  # fmt: skip
SEQUENCES: dict[int, Callable[[Builder, capstone.CsInsn], bool]] = {
    x86.X86_INS_CLI: Builder.cli,
    x86.X86_INS_STI: Builder.sti,
    x86.X86_INS_MOV: Builder.mov,
    x86.X86_INS_SMSW: Builder.smsw,
    x86.X86_INS_SLDT: Builder.sldt,
    x86.X86_INS_STR: Builder.sldt,
    x86.X86_INS_SGDT: Builder.store_table,
    x86.X86_INS_SIDT: Builder.store_table,
    x86.X86_INS_PUSH: Builder.push,
    x86.X86_INS_RDTSC: Builder.rdtsc,
    x86.X86_INS_RDTSCP: Builder.rdtsc,
    x86.X86_INS_IN: Builder.port,
    **{number: (Builder.pushf if number in list(FLAG_SIZES)[:3] else Builder.popf) for number in FLAG_SIZES},
}
