"""Who owns each machine frame, and what it may be used as: the rule on which all protection under Xen PV rests.

A frame has two counts. References say how often it is used at all: while there are any it cannot go to another domain.
Type references say how often it is used *as* something: as a writable page, as a page table of level 1 to 4, or as a
page of descriptors. It has one type at a time; the type may change when that count is zero. So no page table is ever
writable, and whatever the CPU walks has been checked. (Barham et al. 2003, 3.3.3; Xen, asm-x86/mm.h.)

Becoming a table means that all of its entries are checked, each of which takes references in turn: that is the
owner's `Keeper`, a domain. A refused promotion leaves no trace.
"""

from __future__ import annotations

import enum
from array import array
from typing import Protocol

import msgspec

from modes.paravirt.abi import DOMID_INVALID, EINVAL, Refused

MOST = (1 << 26) - 1  # references, so that no count ever runs over
INVALID_MFN = (1 << 40) - 1  # all address bits of a page-table entry


class Kind(enum.IntEnum):
    """What type references are held for."""

    NONE = 0
    L1 = 1
    L2 = 2
    L3 = 3
    L4 = 4
    DESCRIPTORS = 5
    WRITABLE = 6


class Keeper(Protocol):
    """What happens to a domain's frames as they change their kind."""

    def promote(self, mfn: int, kind: Kind) -> None:
        """It becomes a table or a page of descriptors, or Refused."""

    def demote(self, mfn: int, kind: Kind) -> None:
        """It is one no longer."""

    def scrub(self, mfn: int) -> None:
        """Nobody has it any more: the next owner must not find the last one's data."""


class FramesState(msgspec.Struct):
    """The whole table as bytes."""

    owner: bytes
    kind: bytes
    types: bytes
    refs: bytes
    pinned: bytes
    allocated: bytes


class Frames:
    """The frame table of some ranges of machine memory, each (first frame number, frames)."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self.ranges = ranges
        size = sum(count for _, count in ranges)
        self.owner = array("H", [DOMID_INVALID]) * size
        self.kind = bytearray(size)
        self.types = array("I", [0]) * size
        self.refs = array("I", [0]) * size
        self.pinned = bytearray(size)
        self.allocated = bytearray(size)  # the owner has it; without, it is on its way out
        self.stale = False  # a TLB may know a frame as writable that has another type now: flush
        self.keepers: dict[int, Keeper] = {}  # by domain

    def index(self, mfn: int) -> int:
        """Where a frame stands in the arrays; -1 for one that is no RAM."""
        before = 0
        for first, count in self.ranges:
            if first <= mfn < first + count:
                return before + mfn - first
            before += count
        return -1

    def give(self, mfn: int, domid: int) -> None:
        """Allocate a free frame to a domain."""
        i = self.index(mfn)
        self.owner[i], self.kind[i], self.allocated[i] = domid, Kind.NONE, 1

    def share(self, mfn: int, domid: int) -> None:
        """A page of Xen's own that the domain may map, writable too: for ever that, and never a table."""
        i = self.index(mfn)
        self.owner[i], self.kind[i], self.types[i], self.refs[i] = domid, Kind.WRITABLE, 1, 1

    def owned(self, mfn: int, domid: int) -> bool:
        i = self.index(mfn)
        return i >= 0 and self.owner[i] == domid

    # --- references -------------------------------------------------------------------------------------------

    def take(self, mfn: int, domid: int, errno: int = EINVAL) -> int:
        """One more reference to a frame of the domain. Returns its index."""
        i = self.index(mfn)
        if i < 0 or self.owner[i] != domid or self.refs[i] == MOST:
            raise Refused(errno)
        self.refs[i] += 1
        return i

    def drop(self, mfn: int) -> None:
        i = self.index(mfn)
        self.refs[i] -= 1
        if not self.refs[i] and not self.allocated[i]:
            self._free(mfn, i)

    def release(self, mfn: int, domid: int) -> None:
        """The domain gives the frame back; it is free when the last reference goes."""
        i = self.index(mfn)
        if i < 0 or self.owner[i] != domid or not self.allocated[i]:
            raise Refused(EINVAL)
        self.allocated[i] = 0
        if not self.refs[i]:
            self._free(mfn, i)

    def _free(self, mfn: int, i: int) -> None:
        keeper = self.keepers[self.owner[i]]
        self.owner[i], self.kind[i] = DOMID_INVALID, Kind.NONE
        self.stale = True
        keeper.scrub(mfn)

    # --- types ------------------------------------------------------------------------------------------------

    def take_as(self, mfn: int, kind: Kind, domid: int, errno: int = EINVAL) -> None:
        """A reference and a type reference together; neither when it raises Refused."""
        i = self.take(mfn, domid, errno)
        try:
            self.take_type(mfn, i, kind, errno)
        except Refused:
            self.drop(mfn)
            raise

    def take_type(self, mfn: int, i: int, kind: Kind, errno: int = EINVAL) -> None:
        """One more use of frame `mfn` (at index `i`) as `kind`. The first use makes it that, if it can be that."""
        if self.types[i]:
            if self.kind[i] != kind or self.types[i] == MOST:
                raise Refused(errno)
            self.types[i] += 1
            return
        if self.kind[i] == Kind.WRITABLE != kind:
            self.stale = True
        self.kind[i], self.types[i] = kind, 1
        if kind != Kind.WRITABLE:
            try:
                self.keepers[self.owner[i]].promote(mfn, kind)
            except Refused:
                self.kind[i], self.types[i] = Kind.NONE, 0
                raise

    def drop_as(self, mfn: int) -> None:
        """Give back what take_as took. A table that is none any more gives back what its entries hold."""
        i = self.index(mfn)
        if self.types[i] == 1 and self.kind[i] != Kind.WRITABLE:
            self.keepers[self.owner[i]].demote(mfn, Kind(self.kind[i]))
        self.types[i] -= 1
        self.drop(mfn)

    # --- pins -------------------------------------------------------------------------------------------------

    def pin(self, mfn: int, kind: Kind, domid: int) -> None:
        """Keep a frame a table of this kind, whether or not another table points to it."""
        self.take_as(mfn, kind, domid)
        i = self.index(mfn)
        if self.pinned[i]:
            self.drop_as(mfn)
            raise Refused(EINVAL)
        self.pinned[i] = 1

    def unpin(self, mfn: int, domid: int) -> None:
        i = self.index(mfn)
        if i < 0 or self.owner[i] != domid or not self.pinned[i]:
            raise Refused(EINVAL)
        self.pinned[i] = 0
        self.drop_as(mfn)

    # --- snapshots --------------------------------------------------------------------------------------------

    def state(self) -> FramesState:
        return FramesState(
            self.owner.tobytes(), bytes(self.kind), self.types.tobytes(), self.refs.tobytes(), bytes(self.pinned),
            bytes(self.allocated),
        )  # fmt: skip

    def set_state(self, state: FramesState) -> None:
        self.owner, self.types, self.refs = array("H", state.owner), array("I", state.types), array("I", state.refs)
        self.kind, self.pinned, self.allocated = (
            bytearray(state.kind), bytearray(state.pinned), bytearray(state.allocated),
        )  # fmt: skip
