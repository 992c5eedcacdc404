"""Long lists in pieces: a hypercall may do so much in one exit, and then goes on in the next."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

from modes.paravirt.abi import Refused
from modes.paravirt.common import XenVcpu

MOST_ENTRIES = 4096  # list entries that one exit works on
PREEMPTED = 1 << 31  # in the count of mmu_update and mmuext_op: this is a continuation
U32 = struct.Struct("<I")


class Again(Exception):
    """Execute the hypercall again with these arguments."""

    def __init__(self, *arguments: int) -> None:
        super().__init__()
        self.arguments = arguments


def each(v: XenVcpu, name: str, arguments: list[int], size: int, do: Callable[[int], None]) -> int:
    """What mmu_update and mmuext_op share: (list, count, *done, foreign domain). `do(address)` does one entry."""
    first, count, done_at, foreign = arguments[:4]
    count &= 0xFFFF_FFFF
    before = 0
    if count & PREEMPTED:
        count -= PREEMPTED
        before = v.memory.unpack(U32, done_at)[0] if done_at else 0
    done, result, again = 0, 0, False
    try:
        while done < count:
            if v.entries >= MOST_ENTRIES:
                again = True
                break
            v.entries += 1
            if done:
                v.bill(name)
            do(first + size * done)
            done += 1
    except Refused as refused:
        result = -refused.errno
    if done_at:
        with contextlib.suppress(Refused):  # as in Xen: the work is done, whether or not the guest hears of it
            v.memory.pack(U32, done_at, before + done & 0xFFFF_FFFF)
    if again:
        raise Again(first + size * done, count - done | PREEMPTED, done_at, foreign)
    return result
