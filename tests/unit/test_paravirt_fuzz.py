"""The fuzzer of hypercalls finds a bug planted in each check of modes/paravirt, and none where none is planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from hv.silicon.memory import Memory
from hv.silicon.x86_64.paging import PRESENT, USER, WRITABLE
from modes.paravirt import descriptors, domain, events, guest_memory, tables
from modes.paravirt.abi import EINVAL, MmuExt, Refused
from modes.paravirt.calls import entry as entry_calls
from modes.paravirt.calls import memory as memory_calls
from modes.paravirt.frames import Frames, Kind
from modes.paravirt.tables import PageTables, frame_of
from tests.fuzz.paravirt import case

MOST_CASES = 150  # in which a planted bug must be found
Patch = Callable[[pytest.MonkeyPatch], None]


def test_nothing_is_found_and_every_kind_of_answer_is_reached() -> None:
    reached: Counter[str] = Counter()
    for seed in range(40):
        reached.update(case(seed))
    calls = {name.split()[0] for name in reached}
    assert {"mmu_update", "mmuext_op", "update_va_mapping", "set_gdt", "memory_op", "multicall", "store"} <= calls
    for name in (
        "mmu_update ok",
        "mmu_update -22",
        "mmu_update -1",
        "mmuext_op ok",
        "update_va_mapping -16",
        "set_gdt ok",
    ):
        assert reached[name], name


# --- the bugs ---------------------------------------------------------------------------------------------------------


def owner_not_checked(patch: pytest.MonkeyPatch) -> None:
    def take(self: Frames, mfn: int, domid: int, errno: int = EINVAL) -> int:
        i = self.index(mfn)
        if i < 0:
            raise Refused(errno)
        self.refs[i] += 1
        return i

    patch.setattr(Frames, "take", take)


def type_not_checked(patch: pytest.MonkeyPatch) -> None:
    def take_type(self: Frames, mfn: int, i: int, kind: Kind, errno: int = EINVAL) -> None:
        if not self.types[i]:
            self.kind[i] = kind
        self.types[i] += 1

    patch.setattr(Frames, "take_type", take_type)


def table_not_validated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageTables, "promote", lambda self, mfn, kind: None)


def table_not_taken_apart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageTables, "demote", lambda self, mfn, kind: None)


def refused_promotion_keeps_what_it_took(patch: pytest.MonkeyPatch) -> None:
    original = PageTables._drop
    state = {"promoting": False}
    promote = PageTables.promote

    def promoting(self: PageTables, mfn: int, kind: Kind) -> None:
        before, state["promoting"] = state["promoting"], True
        try:
            promote(self, mfn, kind)
        finally:
            state["promoting"] = before

    patch.setattr(PageTables, "promote", promoting)
    patch.setattr(
        PageTables, "_drop", lambda self, level, entry: None if state["promoting"] else original(self, level, entry)
    )


def writable_mapping_taken_for_a_readable_one(patch: pytest.MonkeyPatch) -> None:
    def take(self: PageTables, level: int, entry: int) -> None:
        if level > 1:
            self.frames.take_as(frame_of(entry), Kind(level - 1), self.domid)
        else:
            self.frames.take(frame_of(entry), self.domid)

    def drop(self: PageTables, level: int, entry: int) -> None:
        (self.frames.drop_as if level > 1 else self.frames.drop)(frame_of(entry))

    patch.setattr(PageTables, "_take", take)
    patch.setattr(PageTables, "_drop", drop)


def flags_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tables, "ALLOWED", (1 << 64) - 1)
    patch.setattr(tables, "ALLOWED_L1", (1 << 64) - 1)


def old_entry_not_given_back(patch: pytest.MonkeyPatch) -> None:
    def update(self: PageTables, address: int, new: int, *, keep_accessed: bool = False) -> None:
        level = self.frames.kind[self.frames.index(address >> 12)]
        if level == Kind.L4 and address >> 3 & 511 in range(256, 272):
            raise Refused(EINVAL)
        if new & PRESENT:
            self._take(level, new)
        self.memory.write_u64(address, new | USER)

    patch.setattr(PageTables, "update", update)


def change_of_rights_alone_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tables, "DECIDES", tables.DECIDES & ~WRITABLE)


def xen_slots_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tables, "XEN_SLOTS", range(256, 256))


def a_table_once_is_a_table_for_ever(patch: pytest.MonkeyPatch) -> None:
    def is_table(v: Any, mfn: int) -> bool:
        return v.domain.frames.owned(mfn, v.domain.domid) and v.domain.frames.kind[v.domain.frames.index(mfn)] in range(
            1, 5
        )

    patch.setattr(memory_calls, "is_table", is_table)


def pinned_twice(patch: pytest.MonkeyPatch) -> None:
    def pin(self: Frames, mfn: int, kind: Kind, domid: int) -> None:
        self.take_as(mfn, kind, domid)
        self.pinned[self.index(mfn)] = 1

    patch.setattr(Frames, "pin", pin)


def unpinned_twice(patch: pytest.MonkeyPatch) -> None:
    def unpin(self: Frames, mfn: int, domid: int) -> None:
        i = self.index(mfn)
        if i < 0 or self.owner[i] != domid or not self.types[i]:
            raise Refused(EINVAL)
        self.pinned[i] = 0
        self.drop_as(mfn)

    patch.setattr(Frames, "unpin", unpin)


def frame_given_back_while_in_use(patch: pytest.MonkeyPatch) -> None:
    def release(self: Frames, mfn: int, domid: int) -> None:
        i = self.index(mfn)
        if i < 0 or self.owner[i] != domid:
            raise Refused(EINVAL)
        self._free(mfn, i)

    patch.setattr(Frames, "release", release)


def base_pointer_not_counted(patch: pytest.MonkeyPatch) -> None:
    def new_base(v: Any, mfn: int, _: int = 0) -> None:
        v.domain.frames.take_as(mfn, Kind.L4, v.domain.domid)
        v.domain.frames.drop_as(mfn)
        v.s.root = mfn
        v.load_root()

    patch.setitem(memory_calls.EXTENDED_OPS, MmuExt.NEW_BASEPTR, new_base)


def user_base_of_any_kind(patch: pytest.MonkeyPatch) -> None:
    def new_user_base(v: Any, mfn: int, _: int) -> None:
        v.domain.frames.take(mfn, v.domain.domid)
        v.s.user_root = mfn

    patch.setitem(memory_calls.EXTENDED_OPS, MmuExt.NEW_USER_BASEPTR, new_user_base)


def cleared_whatever_it_is(patch: pytest.MonkeyPatch) -> None:
    def clear(v: Any, mfn: int, _: int) -> None:
        if v.domain.frames.index(mfn) < 0:
            raise Refused(EINVAL)
        v.domain.memory.write(mfn << 12, bytes(0x1000))

    patch.setitem(memory_calls.EXTENDED_OPS, MmuExt.CLEAR_PAGE, clear)


def copied_whatever_it_is(patch: pytest.MonkeyPatch) -> None:
    def copy(v: Any, to: int, source: int) -> None:
        if v.domain.frames.index(to) < 0 or v.domain.frames.index(source) < 0:
            raise Refused(EINVAL)
        v.domain.memory.write(to << 12, v.domain.memory.read(source << 12, 0x1000))

    patch.setitem(memory_calls.EXTENDED_OPS, MmuExt.COPY_PAGE, copy)


def descriptors_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(descriptors, "checked", lambda descriptor: descriptor)
    patch.setattr(entry_calls, "checked", lambda descriptor: descriptor)


def descriptor_page_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(domain, "check_page", lambda memory, mfn: None)


def descriptor_written_anywhere(patch: pytest.MonkeyPatch) -> None:
    def update(v: Any, a: list[int]) -> int:
        if a[0] & 7 or v.domain.frames.index(a[0] >> 12) < 0:
            raise Refused(EINVAL)
        v.domain.memory.write_u64(a[0], descriptors.checked(a[1]))
        return 0

    from modes.paravirt.calls.table import CALLS

    patch.setitem(CALLS, "update_descriptor", update)


def gdt_refused_half_way(patch: pytest.MonkeyPatch) -> None:
    def set_gdt(self: Any, vcpu: Any, frames: list[int], entries: int) -> None:
        for mfn in frames:
            self.frames.take_as(mfn, Kind.DESCRIPTORS, self.domid)
        vcpu.s.gdt = frames

    patch.setattr(domain.Domain, "set_gdt", set_gdt)


def vcpu_info_not_counted(patch: pytest.MonkeyPatch) -> None:
    original = Frames.take_as

    def move(self: Any, vcpu: Any, mfn: int, offset: int) -> None:
        if offset > 0xFC0 or not self.frames.owned(mfn, self.domid):
            raise Refused(EINVAL)
        vcpu.s.info = mfn << 12 | offset

    patch.setattr(Frames, "take_as", original)
    patch.setattr(domain.Domain, "move_info", move)


def pointers_without_rights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guest_memory, "WRITABLE", 0)


def foreign_domain_allowed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory_calls, "check_domain", lambda v, domid: None)
    owner_not_checked(patch)


def direct_write_unchecked(patch: pytest.MonkeyPatch) -> None:
    def write(v: Any, address: int, value: int, *, keep_accessed: bool = False) -> None:
        v.domain.memory.write_u64(address, value)

    patch.setattr(memory_calls, "write_entry", write)


def port_out_of_range(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(events.Events, "channel", lambda self, port: self.channels[port])


def memory_beyond_ram(patch: pytest.MonkeyPatch) -> None:
    def update(v: Any, pointer: int, value: int) -> None:
        memory: Memory = v.domain.memory
        memory.write_u64(pointer & ~7, value)

    patch.setattr(memory_calls, "_update", update)


BUGS: list[Patch] = [
    owner_not_checked, type_not_checked, table_not_validated, table_not_taken_apart,
    refused_promotion_keeps_what_it_took, writable_mapping_taken_for_a_readable_one, flags_not_checked,
    old_entry_not_given_back, change_of_rights_alone_not_checked, xen_slots_open,
    a_table_once_is_a_table_for_ever, pinned_twice, unpinned_twice,
    frame_given_back_while_in_use, base_pointer_not_counted, user_base_of_any_kind, cleared_whatever_it_is,
    copied_whatever_it_is, descriptors_not_checked, descriptor_page_not_checked, descriptor_written_anywhere,
    gdt_refused_half_way, vcpu_info_not_counted, pointers_without_rights, foreign_domain_allowed,
    direct_write_unchecked, port_out_of_range, memory_beyond_ram,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a violation, or whatever Python makes of the bug
        all(case(seed) for seed in range(MOST_CASES))
