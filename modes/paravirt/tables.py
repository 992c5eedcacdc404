"""Page tables under direct paging: the CPU walks the guest's own, so every entry is checked before the CPU can see it.

An entry that is present takes references: of a frame that it maps (as writable, if it is a writable mapping), or of
the table of the next lower level. The rules and errors are Xen's (arch/x86/mm.c): flags that a domain may not use are
EINVAL, frames that are no RAM EPERM, a frame of another domain or a type in the way EBUSY for a mapping and EINVAL
for a table. Xen adds the user bit to every present entry, because the kernel runs at ring 3 too; what keeps the
kernel's half from user programs is that their top-level table does not have it.

Simplified: no pages of 2 MiB, no linear (recursive) page tables; the check of one tree of tables is not interrupted.
"""

from __future__ import annotations

import struct

from hv.silicon.memory import Memory
from hv.silicon.x86_64.paging import ADDRESS, LARGE, NX, PRESENT, USER, WRITABLE
from modes.paravirt.abi import EBUSY, EINVAL, EPERM, XEN_SLOTS, Refused
from modes.paravirt.frames import INVALID_MFN, Frames, Kind

ACCESSED, DIRTY, GLOBAL, AVAILABLE = 1 << 5, 1 << 6, 1 << 8, 7 << 9
AVAILABLE_HIGH = 0x3FF << 52  # bit 62 is Xen's, for mapped grants
ALLOWED = PRESENT | WRITABLE | USER | ACCESSED | DIRTY | AVAILABLE | AVAILABLE_HIGH | NX
ALLOWED_L1 = ALLOWED | GLOBAL
DECIDES = PRESENT | WRITABLE | ADDRESS  # a change of anything else needs no new check
TABLE = struct.Struct("<512Q")


def frame_of(entry: int) -> int:
    """The machine frame number in an entry."""
    return (entry & ADDRESS) >> 12


class PageTables:
    """The tables of one domain. `xen_slots` is what every top-level table has in Xen's slots."""

    def __init__(self, memory: Memory, frames: Frames, domid: int, xen_slots: bytes) -> None:
        self.memory, self.frames, self.domid, self.xen_slots = memory, frames, domid, xen_slots

    # --- one entry --------------------------------------------------------------------------------------------

    def _take(self, level: int, entry: int) -> None:
        """What a present entry of a table of `level` refers to gets its references."""
        mfn = frame_of(entry)
        if level > 1:
            if entry & ~(ALLOWED | ADDRESS):
                raise Refused(EINVAL)
            self.frames.take_as(mfn, Kind(level - 1), self.domid)
            return
        if entry & ~(ALLOWED_L1 | ADDRESS):
            raise Refused(EINVAL)
        if self.frames.index(mfn) < 0:
            raise Refused(EINVAL if mfn == INVALID_MFN else EPERM)
        if entry & WRITABLE:
            self.frames.take_as(mfn, Kind.WRITABLE, self.domid, EBUSY)
        else:
            self.frames.take(mfn, self.domid, EBUSY)

    def _drop(self, level: int, entry: int) -> None:
        if level > 1 or entry & WRITABLE:
            self.frames.drop_as(frame_of(entry))
        else:
            self.frames.drop(frame_of(entry))

    def update(self, address: int, new: int, *, keep_accessed: bool = False) -> None:
        """Write the entry at machine address `address`, in a frame that is a page table (Xen's mod_lN_entry)."""
        level = self.frames.kind[self.frames.index(address >> 12)]
        old = self.memory.read_u64(address)
        if level == Kind.L4 and address >> 3 & 511 in XEN_SLOTS:
            raise Refused(EPERM)
        if keep_accessed:
            new |= old & (ACCESSED | DIRTY)
        if new & PRESENT:
            same = not (old ^ new) & DECIDES and not new & ~((ALLOWED_L1 if level == 1 else ALLOWED) | ADDRESS)
            if not same:
                self._take(level, new)
            self.memory.write_u64(address, new | USER)
            if same:
                return
        else:
            self.memory.write_u64(address, new)
        if old & PRESENT:
            self._drop(level, old)

    # --- a whole table ----------------------------------------------------------------------------------------

    def promote(self, mfn: int, kind: Kind) -> None:
        """The frame becomes a table: check all entries. On a refusal, what was taken is given back."""
        entries = list(TABLE.unpack(self.memory.read(mfn << 12, 0x1000)))
        slots = self._slots(kind, entries)
        for done, slot in enumerate(slots):
            try:
                self._take(kind, entries[slot])
            except Refused:
                for earlier in slots[:done]:
                    self._drop(kind, entries[earlier])
                raise
        for slot in slots:
            entries[slot] |= USER
        if kind == Kind.L4:
            entries[XEN_SLOTS.start : XEN_SLOTS.stop] = struct.unpack("<16Q", self.xen_slots)
        self.memory.write(mfn << 12, TABLE.pack(*entries))

    def demote(self, mfn: int, kind: Kind) -> None:
        """The frame is a table no longer."""
        entries = list(TABLE.unpack(self.memory.read(mfn << 12, 0x1000)))
        for slot in self._slots(kind, entries):
            self._drop(kind, entries[slot])
        if kind == Kind.L4:
            self.memory.write((mfn << 12) + 8 * XEN_SLOTS.start, bytes(8 * len(XEN_SLOTS)))

    @staticmethod
    def _slots(kind: Kind, entries: list[int]) -> list[int]:
        return [i for i, entry in enumerate(entries) if entry & PRESENT and not (kind == Kind.L4 and i in XEN_SLOTS)]

    # --- walks ------------------------------------------------------------------------------------------------

    def entry_address(self, root: int, linear: int) -> int | None:
        """Machine address of the level-1 entry for a linear address under the table `root` (an mfn); None: no L1."""
        table = root << 12
        for shift in (39, 30, 21):
            entry = self.memory.read_u64(table + (linear >> shift & 511) * 8)
            if not entry & PRESENT or entry & LARGE:
                return None
            table = entry & ADDRESS
        return table + (linear >> 12 & 511) * 8
