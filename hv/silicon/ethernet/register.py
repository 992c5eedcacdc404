"""A table of a controller's registers, and accesses to it that are not of one whole register."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

ALL = 0xFFFF_FFFF


class Register(msgspec.Struct, frozen=True):
    """`count` registers of 32 bits from `offset`, `step` bytes apart. `writable`: the bits that a write changes."""

    name: str
    offset: int
    writable: int = ALL
    reset: int = 0
    count: int = 1
    step: int = 4
    kept: bool = False  # a software reset does not touch it


def by_offset(registers: Iterable[Register]) -> dict[int, Register]:
    return {register.offset + register.step * i: register for register in registers for i in range(register.count)}


def read_part(read: Callable[[int], int], offset: int, size: int) -> int:
    """An access of any size and alignment is one of whole registers, of which some bytes are looked at."""
    first = offset & ~3
    value = 0
    for at in range(first, offset + size, 4):
        value |= read(at) << 8 * (at - first)
    return value >> 8 * (offset - first) & (1 << 8 * size) - 1


def write_whole(write: Callable[[int, int], None], offset: int, size: int, value: int) -> None:
    """Only registers that are written as a whole are written."""
    for at in range(-(-offset // 4) * 4, offset + size - 3, 4):
        write(at, value >> 8 * (at - offset) & ALL)
