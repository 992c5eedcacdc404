"""The r/m operand of an instruction of two opcode bytes: a register, or a place in memory (APM vol. 3, 1.2 to 1.5).

Simplified: no 16-bit addresses, as 16-bit code has them. No instruction of the silicon's own needs more than this.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

RSP, RBP = 4, 5
CS, SS, DS = 1, 2, 3
SEGMENT_PREFIXES = {0x26: 0, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: 4, 0x65: 5}
OPERAND_SIZE, ADDRESS_SIZE = 0x66, 0x67


class Place(msgspec.Struct, frozen=True):
    """Where an operand is: general register `register`, or at `offset` in segment `segment`."""

    register: int = -1
    segment: int = DS
    offset: int = 0


def place_of(code: bytes, registers: Sequence[int], rip: int, *, long_code: bool) -> Place | None:
    """The r/m operand of the instruction at `rip`; None if it has an address of 16 bits or is cut off."""
    segment, rex, narrow = -1, 0, not long_code
    at = 0
    while at < len(code):
        if code[at] in SEGMENT_PREFIXES:
            segment = SEGMENT_PREFIXES[code[at]]
        elif code[at] == ADDRESS_SIZE:
            if not long_code:
                return None
            narrow = True
        elif long_code and code[at] & 0xF0 == 0x40:
            rex = code[at]
        elif code[at] != OPERAND_SIZE:
            break
        at += 1
    at += 2  # the opcode
    code += bytes(at + 6 - len(code)) if len(code) < at + 6 else b""
    mod, base = code[at] >> 6, code[at] & 7
    at += 1
    if mod == 3:
        return Place(register=base | (rex & 1) << 3)
    offset, has_sib = 0, base == RSP
    if has_sib:
        scale, index, base = code[at] >> 6, code[at] >> 3 & 7 | (rex & 2) << 2, code[at] & 7
        at += 1
        if index != RSP:
            offset = registers[index] << scale
    no_base = mod == 0 and base == RBP
    width = 4 if no_base or mod == 2 else mod
    offset += int.from_bytes(code[at : at + width], "little", signed=True)
    at += width
    if not no_base:
        offset += registers[base | (rex & 1) << 3]
    elif long_code and not has_sib:
        offset += rip + at
    if segment < 0:
        segment = SS if not no_base and base in (RSP, RBP) and not rex & 1 else DS
    return Place(segment=segment, offset=offset & (0xFFFF_FFFF if narrow else 0xFFFF_FFFF_FFFF_FFFF))
