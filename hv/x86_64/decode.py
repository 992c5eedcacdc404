"""Instructions as a hypervisor sees them: decoded by capstone, their registers and addresses those of a CPU."""

from __future__ import annotations

import functools

import capstone
import msgspec
from capstone import x86

from hv.silicon.x86_64.cpu import Cpu
from hv.silicon.x86_64.state import HF_CS32, HF_CS64, REGISTERS

MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}


FAR = {3: x86.X86_INS_LCALL, 5: x86.X86_INS_LJMP}


class Store(msgspec.Struct, frozen=True):
    """A plain store: an instruction of `length` bytes that writes `value` to linear `address`."""

    length: int
    size: int
    address: int
    value: int


@functools.cache
def _decoder(mode: int) -> capstone.Cs:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    decoder.detail = True
    return decoder


@functools.cache
def _register_table() -> dict[str, tuple[int, int, int]]:
    """Register name -> (number, size in bytes, shift)."""
    table = {}
    wide = ("eax ecx edx ebx esp ebp esi edi", "ax cx dx bx sp bp si di", "al cl dl bl spl bpl sil dil")
    for number, name in enumerate(REGISTERS):
        table[name] = (number, 8, 0)
        if number < 8:
            for names, size in zip(wide, (4, 2, 1), strict=True):
                table[names.split()[number]] = (number, size, 0)
        else:
            for suffix, size in (("d", 4), ("w", 2), ("b", 1)):
                table[name + suffix] = (number, size, 0)
    for number, name in enumerate(("ah", "ch", "dh", "bh")):
        table[name] = (number, 1, 8)
    return table


@functools.cache
def register_name(number: int) -> str:
    """The name of a register, which Capstone looks up anew each time."""
    name: str = _decoder(capstone.CS_MODE_64).reg_name(number)
    return name


def read_register(cpu: Cpu, name: str) -> int:
    number, size, shift = _register_table()[name]
    return cpu.regs[number] >> shift & MASKS[size]


def write_register(cpu: Cpu, name: str, value: int) -> None:
    """As the CPU does: a 32-bit write clears the upper half, smaller ones keep the rest."""
    number, size, shift = _register_table()[name]
    mask = MASKS[8] if size == 4 else MASKS[size] << shift
    cpu.regs[number] = cpu.regs[number] & ~mask | (value & MASKS[size]) << shift


def decode(code: bytes, is_64: bool) -> capstone.CsInsn | None:
    """The instruction that `code` begins with. Capstone 5 takes some far CALLs and JMPs (FF /3 and /5) for near."""
    return _decode(code, capstone.CS_MODE_64 if is_64 else capstone.CS_MODE_32)


def _decode(code: bytes, mode: int) -> capstone.CsInsn | None:
    found = next(_decoder(mode).disasm(code, 0, 1), None)
    if found is not None and found.opcode[0] == 0xFF and (found.modrm >> 3 & 7) in FAR:
        found._raw.id = FAR[found.modrm >> 3 & 7]
    return found


def decode_here(cpu: Cpu) -> capstone.CsInsn | None:
    """The instruction at RIP, in the size of the code segment that it is in."""
    code, hflags = cpu.instruction_bytes(), cpu.state.hflags
    is_16 = not hflags & (HF_CS32 | HF_CS64)
    return _decode(code, capstone.CS_MODE_16) if is_16 else decode(code, bool(hflags & HF_CS64))


def store_of(cpu: Cpu, instruction: capstone.CsInsn | None) -> Store | None:
    """What an instruction at RIP stores, or None when it is no MOV from a register or a constant to memory."""
    if instruction is None or instruction.id not in (x86.X86_INS_MOV, x86.X86_INS_MOVABS):
        return None
    target, source = instruction.operands
    if target.type != x86.X86_OP_MEM:
        return None
    if source.type == x86.X86_OP_REG and register_name(source.reg) not in _register_table():
        return None  # a segment register, for one
    value = source.imm if source.type == x86.X86_OP_IMM else read_register(cpu, register_name(source.reg))
    size = target.size
    return Store(instruction.size, size, address_of(cpu, instruction, target), value & MASKS[size])


SEGMENTS = {
    x86.X86_REG_ES: 0, x86.X86_REG_CS: 1, x86.X86_REG_SS: 2, x86.X86_REG_DS: 3, x86.X86_REG_FS: 4, x86.X86_REG_GS: 5,
}  # fmt: skip
OF_THE_STACK = frozenset((x86.X86_REG_BP, x86.X86_REG_EBP, x86.X86_REG_ESP))


def _segmented(cpu: Cpu, instruction: capstone.CsInsn, mem: x86.X86OpMem, offset: int) -> int:
    """The linear address of an offset in 16-bit code: in DS, SS or the segment that a prefix names."""
    segment = SEGMENTS.get(mem.segment, 2 if mem.base in OF_THE_STACK else 3)
    base: int = cpu.state.segs[segment].base
    return base + (offset & MASKS[instruction.addr_size]) & MASKS[4]


def address_of(cpu: Cpu, instruction: capstone.CsInsn, operand: x86.X86Op) -> int:
    """The linear address of a memory operand. Segments are flat but for FS and GS, and but for those of 16-bit code."""
    mem = operand.mem
    address: int = mem.disp
    if mem.base:
        name = register_name(mem.base)
        address += cpu.state.eip + instruction.size if name in ("rip", "eip") else read_register(cpu, name)
    if mem.index not in (0, x86.X86_REG_RIZ, x86.X86_REG_EIZ):  # the last two are "none", spelled out
        address += read_register(cpu, register_name(mem.index)) * mem.scale
    if not cpu.state.hflags & (HF_CS64 | HF_CS32):
        return _segmented(cpu, instruction, mem, address)
    if mem.segment in (x86.X86_REG_FS, x86.X86_REG_GS):
        address += cpu.state.segs[4 if mem.segment == x86.X86_REG_FS else 5].base
    return address & MASKS[8 if cpu.state.hflags & HF_CS64 else 4]
