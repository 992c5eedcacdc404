"""A page walk in Python, for everything that looks at a guest's memory from outside: decoder, backtrace, microcode.

It reads the tables as the CPU would (APM vol. 2, 5.3: 4-level long-mode paging with 2 MiB and 1 GiB pages; 5.2: PAE),
but sets no accessed or dirty bit and raises nothing. Simplified: no legacy 32-bit format; a PAE root begins a page.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.silicon.memory import BusError

PRESENT, WRITABLE, USER, LARGE, NX = 1, 2, 4, 1 << 7, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000


def walk(read_u64: Callable[[int], int], root: int, address: int, levels: int = 4) -> int | None:
    """What `address` maps to under the table at `root`, or None where nothing is mapped. PAE has 3 `levels`.

    `read_u64` reads an entry from the address space in which the tables lie; it may raise BusError.
    """
    table = root & ADDRESS
    for shift in (39, 30, 21, 12)[4 - levels :]:
        try:
            entry = read_u64(table + (address >> shift & 511) * 8)
        except BusError:
            return None
        if not entry & PRESENT:
            return None
        if shift == 12 or (entry & LARGE and shift < 39):
            mask = (1 << shift) - 1
            return entry & ADDRESS & ~mask | address & mask
        table = entry & ADDRESS
    return None
