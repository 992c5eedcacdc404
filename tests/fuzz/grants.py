"""Random grants: a guest writes its table as it likes, back ends map and copy, the guest changes what its frames are.

After a few steps everything is counted again from what lies in memory (tests/pv_rig.py), and compared with what the
back ends hold: no frame that is not the guest's, none written that is a page table, and the owner sees who uses what.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

from modes.paravirt.abi import GUEST_DOMID, HYPERCALLS
from modes.paravirt.grants import GrantRefused, View
from tests.pv_rig import ARGUMENTS, FIRST, FRAMES, L1, OTHER, WINDOW, Violation
from tests.store_rig import StoreRig

NUMBERS = {name: number for number, name in HYPERCALLS.items()}
STEPS, CHECK_EVERY = 60, 10
REFS = (8, 9, 10, 11, 12, 13, 511)
READING, WRITING = 8, 16
STATUS_AT = {0: 18, 1: 20}  # offset in the operation's arguments
PERMIT, READ_ONLY = 1, 4


class Player:
    """`views` is what domain 0 holds, by handle; `grants` what the guest has written last, by reference."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.rig = StoreRig()
        self.reached: set[str] = set()
        self.table = self.rig.domain.grants
        self.views: dict[int, tuple[View, int, bool]] = {}  # handle -> view, reference, to write
        self.written: dict[int, tuple[int, int, int]] = {}  # reference -> flags, domid, frame
        self.dirty: set[int] = set()  # references that the guest has written while they were in use

    def frame(self) -> int:
        """Of the rig: its own, tables, the other domain's, none."""
        r = self.r
        near = [r.randrange(64, 72) for _ in range(4)]
        return r.choice((*near, r.randrange(4), 20, r.choice(OTHER), r.randrange(300)))

    def result(self, name: str, status: int) -> None:
        self.reached.add(f"{name} {status or 'ok'}")

    # --- the guest --------------------------------------------------------------------------------------------

    def write_entry(self) -> None:
        ref, frame = self.r.choice(REFS), self.frame()
        flags = self.r.choice((1, 1, 1, 1, 5, 0, 2, 3, 9, 0x1D, 0x101, self.r.getrandbits(16)))
        domid = self.r.choice((0, 0, 0, 0, 1, 1, 2, 0x7FF0))
        if ref in self.table.s.uses:
            self.dirty.add(ref)
        self.rig.grant(ref, frame, flags, domid)
        self.written[ref] = flags, domid, self.rig.mfn(frame)

    def pin(self) -> None:
        command = self.r.choice((0, 0, 0, 4, 4, 16, 17))
        self.rig.memory.write(self.rig.mfn(10) << 12, struct.pack("<I4xQQ", command, FIRST + self.frame(), FIRST + 64))
        self.result("mmuext", self.rig.call(NUMBERS["mmuext_op"], ARGUMENTS, 1, 0, 0x7FF0))

    def give_back(self) -> None:
        command = self.r.choice((1, 1, 0, 6))
        self.rig.arguments("<QQIIH6xQ", ARGUMENTS + 32, 1, 0, 0, 0x7FF0, FIRST + self.frame())
        self.rig.call(NUMBERS["memory_op"], command, ARGUMENTS)

    def remap(self) -> None:
        value = FIRST + self.frame() << 12 | self.r.choice((0, 5, 7))
        self.rig.call(NUMBERS["update_va_mapping"], WINDOW + (self.r.randrange(90, 110) << 12), value, 0)

    def grant_call(self) -> None:
        """The hypercall, with a sensible operation or none."""
        r = self.r
        command = r.choice((0, 0, 0, 1, 1, 2, 6, 8, 10, r.randrange(16)))
        if command == 0:
            place = WINDOW + (r.randrange(90, 110) << 12)
            if r.random() < 0.3:  # or a page-table entry itself
                place = (FIRST + r.choice((L1, L1, self.frame())) << 12) + 8 * r.randrange(90, 110)
            flags, domid = r.choice((2, 6, 10, 18, 22, 1, 0)), r.choice((1, 1, 0, 2))
            self.rig.arguments("<QIIHhIQ", place, flags, r.choice(REFS), domid, 0, 0, 0)
        elif command == 1:
            place = r.choice((0, WINDOW + (r.randrange(90, 110) << 12), (FIRST + L1 << 12) + 8 * r.randrange(90, 110)))
            handles = [*self.table.s.handles, 0, 1, r.getrandbits(32)]
            self.rig.arguments("<QQIh", place, 0, r.choice(handles), 0)
        else:
            self.rig.arguments("<H2xIh6xQ", r.choice((0x7FF0, 1, 0, 2)), r.choice((0, 1, 2, 64, 65)), 0, ARGUMENTS + 64)
        at = ARGUMENTS if r.random() < 0.95 else r.choice((0, WINDOW + (L1 << 12), 1 << 63))
        result = self.rig.call(NUMBERS["grant_table_op"], command, at, r.choice((1, 1, 1, 2, 0, 1 << 31)))
        if not result and command in STATUS_AT:
            where = (self.rig.mfn(10) << 12) + STATUS_AT[command]
            result = int.from_bytes(self.rig.memory.read(where, 2), "little", signed=True)
        self.result(f"op {command}", result)

    def copy(self) -> None:
        """One by the hypercall, from and to references or frames."""
        r, flags, ends = self.r, self.r.randrange(4), []
        for is_ref in (flags & 1, flags & 2):
            thing = r.choice(REFS) if is_ref else FIRST + self.frame() if r.random() < 0.95 else r.getrandbits(64)
            domid = r.choice((*[1 if is_ref else 0x7FF0] * 8, 1, 0, 2))
            ends += [thing, domid, r.choice((0, 0, 0, 8, 4000, 65535))]
        size = r.choice((8, 8, 8, 96, 97, 4096, 65535, 0))
        self.rig.arguments("<QHH4xQHH4xHHh", *ends, size, flags, 0)
        self.rig.call(NUMBERS["grant_table_op"], 5, ARGUMENTS, 1)
        status = int.from_bytes(self.rig.memory.read((self.rig.mfn(10) << 12) + 36, 2), "little", signed=True)
        if not status and max(ends[2], ends[5]) + size > 4096:
            raise Violation("a copy went beyond its page")
        self.result("op 5", status)

    # --- back ends --------------------------------------------------------------------------------------------

    def may(self, ref: int, *, write: bool) -> bool:
        """Could domain 0 use it now? If nobody uses it yet: what the guest has written last decides."""
        flags, domid, mfn = self.written.get(ref, (0, 0, 0))
        owned = self.rig.frames.owned(mfn, GUEST_DOMID)
        return flags & 3 == PERMIT and not domid and owned and not (write and flags & READ_ONLY)

    def map(self) -> None:
        ref, write = self.r.choice((*REFS, 0, 512, 513, -1, 1 << 40)), self.r.random() < 0.5
        unused = ref not in self.table.s.uses
        try:
            view = self.table.map(ref, write=write)
        except GrantRefused as refused:
            self.result("map", refused.status)
            return
        if unused:
            if not self.may(ref, write=write) or view.address >> 12 != self.written[ref][2]:
                raise Violation(f"reference {ref} may not be mapped")
            self.dirty.discard(ref)
        elif any(other.address != view.address for other, used, _ in self.views.values() if used == ref):
            raise Violation(f"reference {ref} is two frames at once")
        self.views[view.handle] = view, ref, write
        self.result("map", 0)

    def unmap(self) -> None:
        handle = self.r.choice((*self.views, self.r.randrange(20)))
        held = handle in self.views
        if not held and handle in self.table.s.handles:
            return  # the guest's own mapping, which a back end does not know
        try:
            self.table.unmap(handle)
        except GrantRefused as refused:
            if held:
                raise Violation(f"handle {handle} cannot be unmapped: {refused.status}") from None
            return
        if not held:
            raise Violation(f"handle {handle} was nobody's")
        del self.views[handle]

    def access(self) -> None:
        """Through a view, or a copy."""
        offset, size = self.r.choice(((0, 8), (4088, 8), (4089, 8), (0, 4096), (-8, 8), (4096, 1), (4095, 2)))
        data = self.r.randbytes(size)
        try:
            if self.views and self.r.random() < 0.6:
                view, _, write = self.r.choice(list(self.views.values()))
                target = self.rig.frames.index(view.address >> 12)
                if self.r.random() < 0.5:
                    view.read(offset, size)
                else:
                    view.write(offset, data)
                    if not write or self.rig.frames.kind[target] != 6:
                        raise Violation("written through a view that is for reading")
            elif self.r.random() < 0.5:
                self.table.read(self.r.choice(REFS), offset, size)
            else:
                self.table.write(self.r.choice(REFS), offset, data)
        except GrantRefused as refused:
            self.result("access", refused.status)
            return
        if offset < 0 or offset + size > 4096:
            raise Violation("an access went beyond its page")
        self.result("access", 0)

    # --- the check --------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.rig.check()
        for handle, (view, ref, write) in self.views.items():
            if handle not in self.table.s.handles:
                raise Violation(f"handle {handle} of domain 0 is gone")
            i = self.rig.frames.index(view.address >> 12)
            if not 0 <= i < FRAMES or self.rig.frames.owner[i] != GUEST_DOMID:
                raise Violation(f"reference {ref} leads to a frame that is not the guest's")
            if write and (self.rig.frames.kind[i] != 6 or not self.rig.frames.types[i]):
                raise Violation(f"reference {ref} is written, but its frame is no writable one")
            flags = self.rig.flags(ref)
            if ref not in self.dirty and (not flags & READING or (write and not flags & WRITING)):
                raise Violation(f"the owner does not see that reference {ref} is used: {flags:#x}")
        for ref in self.written.keys() - self.table.s.uses.keys() - self.dirty:
            if self.rig.flags(ref) & ~self.written[ref][0] & (READING | WRITING):
                raise Violation(f"the owner sees reference {ref} used, but it is not")

    def play(self) -> Iterable[str]:
        steps = [
            self.write_entry, self.write_entry, self.write_entry, self.map, self.map, self.map, self.unmap, self.access,
            self.access, self.pin, self.give_back, self.remap, self.grant_call, self.copy, self.copy,
        ]  # fmt: skip
        for step in range(STEPS):
            self.r.choice(steps)()
            if step % CHECK_EVERY == CHECK_EVERY - 1:
                self.check()
        self.table.drop_all()
        self.views.clear()
        if self.table.s.uses:
            raise Violation("a use is left when all mappings are gone")
        self.check()
        return sorted(self.reached)


def case(seed: int) -> Iterable[str]:
    return Player(seed).play()
