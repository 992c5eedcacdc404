"""The decoder of r/m operands against Capstone, for every ModRM and SIB byte."""

from __future__ import annotations

import capstone
import pytest
from capstone import x86

from hv.silicon.x86_64.operand import SEGMENT_PREFIXES, place_of
from hv.silicon.x86_64.state import REGISTERS

VALUES = [0x1111_2222_0000_0000 + (i << 20) for i in range(16)]
RIP = 0x40_0000
NARROW = dict(zip("eax ecx edx ebx esp ebp esi edi".split(), range(8), strict=True))


def number_of(name: str) -> int:
    if name in NARROW:
        return NARROW[name]
    return REGISTERS.index(name.rstrip("dw")) if name[-1] in "dw" and name[1].isdigit() else REGISTERS.index(name)


@pytest.mark.parametrize("long_code", [True, False], ids=["64-bit", "32-bit"])
@pytest.mark.parametrize(
    "prefix", [b"", b"\x41", b"\x42", b"\x43", b"\x4f", b"\x67", b"\x64", b"\x65\x66\x40", b"\x36\x67\x45"]
)
def test_every_form_of_ltr(long_code: bool, prefix: bytes) -> None:
    if not long_code and (b"\x67" in prefix or any(0x40 <= byte <= 0x4F for byte in prefix)):
        return
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64 if long_code else capstone.CS_MODE_32)
    decoder.detail = True
    seen = 0
    for modrm in (mod << 6 | 3 << 3 | rm for mod in range(4) for rm in range(8)):
        for sib in range(256) if modrm & 7 == 4 and modrm < 0xC0 else (0x90,):
            code = prefix + bytes((0x0F, 0x00, modrm, sib, 0x84, 0x83, 0x82, 0x81))
            instruction = next(decoder.disasm(code, RIP))
            assert instruction.mnemonic == "ltr"
            place = place_of(code[: instruction.size], VALUES, RIP, long_code=long_code)
            assert place is not None
            (operand,) = instruction.operands
            if operand.type == x86.X86_OP_REG:
                assert place.register == number_of({"ax": "rax", "cx": "rcx", "dx": "rdx", "bx": "rbx", "sp": "rsp",
                    "bp": "rbp", "si": "rsi", "di": "rdi"}.get(instruction.reg_name(operand.reg),
                                                               instruction.reg_name(operand.reg)))  # fmt: skip
                continue
            mem = operand.mem
            address = mem.disp
            if mem.base:
                name = instruction.reg_name(mem.base)
                address += RIP + instruction.size if name in ("rip", "eip") else VALUES[number_of(name)]
            if mem.index not in (0, x86.X86_REG_RIZ, x86.X86_REG_EIZ):
                address += VALUES[number_of(instruction.reg_name(mem.index))] * mem.scale
            narrow = not long_code or b"\x67" in prefix
            assert place.offset == address & (0xFFFF_FFFF if narrow else (1 << 64) - 1), instruction.op_str
            wanted = [SEGMENT_PREFIXES[byte] for byte in prefix if byte in SEGMENT_PREFIXES]
            assert not wanted or place.segment == wanted[0]
            seen += 1
    assert seen > 700


def test_an_address_of_16_bits_is_not_decoded() -> None:
    assert place_of(b"\x67\x0f\x00\x1e\x00\x10", VALUES, RIP, long_code=False) is None
