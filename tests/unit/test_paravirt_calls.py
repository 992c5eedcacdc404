"""Hypercalls called directly: what they check, which error they give, and that a refused one leaves no trace."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from modes.paravirt.abi import (
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOENT,
    ENOSYS,
    EPERM,
    ESRCH,
    HYPERCALLS,
    Evtchn,
    MemoryOp,
    MmuExt,
)
from modes.paravirt.builder import lay_out, scatter, table_counts
from modes.paravirt.calls.again import MOST_ENTRIES, Again
from modes.paravirt.calls.table import call, hypercall_page
from modes.paravirt.common import clock_scale
from modes.paravirt.frames import Kind
from tests.pv_rig import ARGUMENTS, FIRST, L1, L2, L3, L4, OTHER, WINDOW, Rig

NUMBER = {name: number for number, name in HYPERCALLS.items()}
SELF = 0x7FF0
FREE, TABLE = 70, 71  # own frames that nothing maps


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.check()


def update(rig: Rig, frame: int, slot: int, value: int, command: int = 0) -> int:
    """One entry by mmu_update."""
    pointer = rig.arguments("<QQ", (rig.mfn(frame) << 12) + 8 * slot | command, value)
    return rig.call(NUMBER["mmu_update"], pointer, 1, 0, SELF)


def extended(rig: Rig, command: MmuExt, first: int = 0, second: int = 0) -> int:
    return rig.call(NUMBER["mmuext_op"], rig.arguments("<I4xQQ", command, first, second), 1, 0, SELF)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_mapping_takes_references_and_gives_them_back(rig: Rig) -> None:
    i = rig.frames.index(rig.mfn(FREE))
    assert update(rig, L1, 100, rig.mfn(FREE) << 12 | 3) == 0
    assert (rig.frames.refs[i], rig.frames.types[i], rig.frames.kind[i]) == (1, 1, Kind.WRITABLE)
    assert rig.get(L1, 100) == rig.mfn(FREE) << 12 | 7  # with the user bit: the kernel is at ring 3
    assert update(rig, L1, 100, rig.mfn(FREE) << 12 | 1) == 0
    assert (rig.frames.refs[i], rig.frames.types[i]) == (1, 0)
    assert update(rig, L1, 100, 0) == 0
    assert rig.frames.refs[i] == 0


@pytest.mark.parametrize(
    ("value", "errno"),
    [
        ((FIRST + L1) << 12 | 3, EBUSY),  # a table, writable
        ((FIRST + OTHER.start) << 12 | 1, EBUSY),  # another domain's frame
        (1 << 39 | 1, EPERM),  # no memory
        ((1 << 40) - 1 << 12 | 1, EINVAL),
        ((FIRST + FREE) << 12 | 0x81, EINVAL),  # a flag that a domain must not use
        ((FIRST + FREE) << 12 | 1 << 62 | 1, EINVAL),
    ],
)
def test_a_mapping_that_is_refused_changes_nothing(rig: Rig, value: int, errno: int) -> None:
    assert update(rig, L1, 100, value) == -errno
    assert rig.get(L1, 100) == 0


def test_a_table_is_writable_to_nobody_and_what_is_writable_is_no_table(rig: Rig) -> None:
    assert extended(rig, MmuExt.PIN_L1_TABLE, rig.mfn(40)) == -EINVAL  # mapped writable
    assert rig.call(NUMBER["update_va_mapping"], WINDOW + (40 << 12), rig.mfn(40) << 12 | 1, 0) == 0
    assert extended(rig, MmuExt.PIN_L1_TABLE, rig.mfn(40)) == 0
    assert rig.call(NUMBER["update_va_mapping"], WINDOW + (40 << 12), rig.mfn(40) << 12 | 3, 0) == -EBUSY
    assert extended(rig, MmuExt.PIN_L1_TABLE, rig.mfn(40)) == -EINVAL  # pinned already
    assert extended(rig, MmuExt.UNPIN_TABLE, rig.mfn(40)) == 0
    assert extended(rig, MmuExt.UNPIN_TABLE, rig.mfn(40)) == -EINVAL


def test_a_tree_of_tables_is_checked_as_a_whole_and_a_bad_leaf_leaves_no_trace(rig: Rig) -> None:
    rig.put(TABLE, 0, rig.mfn(FREE) << 12 | 3)
    rig.put(TABLE, 511, rig.mfn(OTHER.start) << 12 | 1)
    rig.put(72, 0, rig.mfn(TABLE) << 12 | 7)
    before = rig.frames.state()
    assert extended(rig, MmuExt.PIN_L2_TABLE, rig.mfn(72)) == -EBUSY
    after = rig.frames.state()
    assert (after.refs, after.types, after.pinned) == (before.refs, before.types, before.pinned)
    rig.put(TABLE, 511, 0)
    assert extended(rig, MmuExt.PIN_L2_TABLE, rig.mfn(72)) == 0


def test_xen_s_slots_are_xen_s(rig: Rig) -> None:
    assert update(rig, L4, 256, 0) == -EPERM
    assert update(rig, L4, 272, 0) == 0
    rig.put(TABLE, 260, rig.mfn(FREE) << 12 | 7)
    assert extended(rig, MmuExt.PIN_L4_TABLE, rig.mfn(TABLE)) == 0
    assert rig.get(TABLE, 260) == rig.xen.top[4]


def test_a_new_root_must_be_one(rig: Rig) -> None:
    assert extended(rig, MmuExt.NEW_BASEPTR, rig.mfn(L3)) == -EINVAL
    assert extended(rig, MmuExt.NEW_BASEPTR, rig.mfn(OTHER.start)) == -EINVAL
    rig.put(TABLE, WINDOW >> 39, rig.mfn(L3) << 12 | 7)
    assert extended(rig, MmuExt.NEW_USER_BASEPTR, rig.mfn(TABLE)) == 0
    assert extended(rig, MmuExt.NEW_BASEPTR, rig.mfn(TABLE)) == 0
    assert rig.frames.types[rig.frames.index(rig.mfn(TABLE))] == 2
    assert extended(rig, MmuExt.NEW_USER_BASEPTR, 0) == 0


def test_accessed_and_dirty_bits_can_be_kept(rig: Rig) -> None:
    rig.put(L1, 20, rig.get(L1, 20) | 0x60)
    assert update(rig, L1, 20, rig.mfn(20) << 12 | 1, command=2) == 0
    assert rig.get(L1, 20) & 0x60 == 0x60


def test_a_list_that_is_refused_half_way_says_how_far_it_came(rig: Rig) -> None:
    slot = (rig.mfn(L1) << 12) + 800
    at = rig.arguments("<6Q", slot, rig.mfn(FREE) << 12 | 1, slot + 8, 1 << 39 | 1, slot + 16, 0)
    assert rig.call(NUMBER["mmu_update"], at, 3, ARGUMENTS + 256, SELF) == -EPERM
    assert rig.memory.read(rig.mfn(10) * 0x1000 + 256, 4) == struct.pack("<I", 1)


def test_a_long_list_is_worked_on_in_pieces(rig: Rig) -> None:
    """5000 entries in frames 20 to 39, which the window shows one after the other."""
    count = 5000
    entry = struct.pack("<QQ", rig.mfn(FREE) << 12 | 1, FREE)
    for i in range(20):
        rig.memory.write(rig.mfn(20 + i) << 12, entry * 256)
    arguments = [WINDOW + (20 << 12), count, ARGUMENTS, SELF, 0]
    rig.v.entries = 0
    with pytest.raises(Again) as again:
        call(rig.v, NUMBER["mmu_update"], arguments)
    assert again.value.arguments[0] == arguments[0] + 16 * MOST_ENTRIES
    assert rig.call(NUMBER["mmu_update"], *arguments) == 0
    assert rig.memory.read(rig.mfn(10) << 12, 4) == struct.pack("<I", count)


@pytest.mark.parametrize(
    ("domid", "errno"), [(0, EPERM), (0x7FF1, EPERM), (2, ESRCH), (0x1_7FF0, EPERM), (0x3_7FF0, ESRCH)]
)
def test_other_domains_are_not_its_to_name(rig: Rig, domid: int, errno: int) -> None:
    """Neither for the frames that an entry names (bits 15 to 0) nor for the tables (1 + domain, above)."""
    pointer = rig.arguments("<QQ", (rig.mfn(L1) << 12) + 800, 0)
    assert rig.call(NUMBER["mmu_update"], pointer, 1, 0, domid) == -errno


def test_a_frame_given_back_is_empty_when_it_comes_again(rig: Rig) -> None:
    rig.memory.write(rig.mfn(FREE) << 12, b"secret")
    at = rig.arguments("<QQIIH6xQ", ARGUMENTS + 32, 1, 0, 0, SELF, rig.mfn(FREE))
    assert rig.call(NUMBER["memory_op"], MemoryOp.DECREASE_RESERVATION, at) == 1
    assert not rig.frames.owned(rig.mfn(FREE), 1)
    assert update(rig, L1, 100, rig.mfn(FREE) << 12 | 1) == -EBUSY
    at = rig.arguments("<QQIIH6xQ", ARGUMENTS + 32, 1, 0, 0, SELF, 0)
    assert rig.call(NUMBER["memory_op"], MemoryOp.INCREASE_RESERVATION, at) == 1
    assert rig.memory.read(rig.mfn(10) * 0x1000 + 32, 8) == struct.pack("<Q", rig.mfn(FREE))
    assert rig.memory.read(rig.mfn(FREE) << 12, 6) == bytes(6)


def test_a_frame_that_is_mapped_stays_until_it_is_not(rig: Rig) -> None:
    at = rig.arguments("<QQIIH6xQ", ARGUMENTS + 32, 1, 0, 0, SELF, rig.mfn(30))
    assert rig.call(NUMBER["memory_op"], MemoryOp.DECREASE_RESERVATION, at) == 1
    assert rig.frames.owned(rig.mfn(30), 1)
    assert rig.call(NUMBER["update_va_mapping"], WINDOW + (30 << 12), 0, 2) == 0
    assert not rig.frames.owned(rig.mfn(30), 1)


# --- descriptors, pointers, events ------------------------------------------------------------------------------------


def test_a_descriptor_opens_nothing_but_ring_3(rig: Rig) -> None:
    rig.put(FREE, 1, 0x00AF_9A00_0000_FFFF)
    assert rig.call(NUMBER["set_gdt"], rig.arguments("<Q", rig.mfn(FREE)), 8) == 0
    assert rig.get(FREE, 1) == 0x00AF_FA00_0000_FFFF
    at = rig.mfn(FREE) << 12
    assert rig.call(NUMBER["update_descriptor"], at + 16, 0x00CF_9200_0000_FFFF) == 0
    assert rig.get(FREE, 2) == 0x00CF_F200_0000_FFFF
    assert rig.call(NUMBER["update_descriptor"], at + 24, 0x0000_8900_0000_0067) == -EINVAL  # a TSS
    assert rig.call(NUMBER["update_descriptor"], at + 4, 0) == -EINVAL
    assert rig.call(NUMBER["set_gdt"], rig.arguments("<Q", rig.mfn(L2)), 8) == -EINVAL
    assert rig.call(NUMBER["set_gdt"], ARGUMENTS, 7169) == -EINVAL


@pytest.mark.parametrize("pointer", [0, 0xFFFF_8000_0000_0000, 1 << 47, WINDOW + (64 << 12), (1 << 64) - 1])
def test_a_pointer_that_is_not_the_guest_s_is_a_fault(rig: Rig, pointer: int) -> None:
    assert rig.call(NUMBER["mmu_update"], pointer, 1, 0, SELF) == -EFAULT
    assert rig.call(NUMBER["event_channel_op"], Evtchn.SEND, pointer) == -EFAULT


def test_what_the_guest_may_only_read_is_not_written_for_it(rig: Rig) -> None:
    assert rig.call(NUMBER["xen_version"], 5, WINDOW + (L1 << 12)) == -EFAULT


def test_the_features_are_those_that_a_pv_domain_can_live_with(rig: Rig) -> None:
    """One of them, 0, would mean that page tables need not be write-protected: such a kernel's could not be pinned."""
    assert rig.call(NUMBER["xen_version"], 6, rig.arguments("<II", 0, 0)) == 0
    features = int.from_bytes(rig.memory.read((rig.mfn(10) << 12) + 4, 4), "little")
    assert [bit for bit in range(32) if features >> bit & 1] == [5, 6, 7, 17]


def test_event_channels(rig: Rig) -> None:
    def operate(command: Evtchn, layout: str, *values: int) -> int:
        return rig.call(NUMBER["event_channel_op"], command, rig.arguments(layout, *values))

    def answer(at: int) -> int:
        return int.from_bytes(rig.memory.read((rig.mfn(10) << 12) + at, 4), "little")

    assert operate(Evtchn.BIND_VIRQ, "<III", 0, 0, 0) == 0
    timer = answer(8)
    assert operate(Evtchn.BIND_VIRQ, "<III", 0, 0, 0) == -EEXIST
    assert operate(Evtchn.BIND_VIRQ, "<III", 99, 0, 0) == -EINVAL
    assert operate(Evtchn.BIND_VIRQ, "<III", 0, 5, 0) == -ENOENT
    assert operate(Evtchn.SEND, "<I", timer) == -EINVAL  # Xen's to send
    assert operate(Evtchn.ALLOC_UNBOUND, "<HHI", SELF, SELF, 0) == 0
    one = answer(4)
    assert operate(Evtchn.BIND_INTERDOMAIN, "<H2xII", SELF, one, 0) == 0
    other = answer(8)
    assert rig.domain.events.is_pending(other)  # once, in case something was sent before
    assert operate(Evtchn.SEND, "<I", other) == 0
    assert rig.domain.events.is_pending(one)
    assert operate(Evtchn.CLOSE, "<I", other) == 0
    assert operate(Evtchn.STATUS, "<H2xIIIII", SELF, one, 0, 0, 0, 0) == 0
    assert answer(8) == 1  # unbound again
    assert operate(Evtchn.CLOSE, "<I", other) == -EINVAL
    assert operate(Evtchn.BIND_PIRQ, "<III", 1, 0, 0) == -EPERM


def test_a_number_that_nobody_has_is_not_there(rig: Rig) -> None:
    assert rig.call(63) == -ENOSYS
    assert rig.call(NUMBER["platform_op"]) == -EPERM


# --- the builder, the clock, the stubs --------------------------------------------------------------------------------


@pytest.mark.parametrize("mib", [16, 64, 66, 1024])
def test_the_frames_are_scattered_and_each_is_used_once(mib: int) -> None:
    mfns = scatter(mib * 256)
    assert sorted(mfns) == list(range(mib * 256))
    assert sum(a == b for a, b in enumerate(mfns)) <= 2


@pytest.mark.parametrize("pages", [300, 1024, 5000])
def test_the_first_tables_map_themselves_and_end_at_4_mib(pages: int) -> None:
    base = 0xFFFF_FFFF_8000_0000
    layout = lay_out(pages, 16384, base)
    assert layout.stack - layout.tables == sum(table_counts(base, layout.end))
    assert layout.end % 1024 == 0
    assert layout.end * 4096 >= (layout.stack + 1) * 4096 + 512 * 1024


@pytest.mark.parametrize("hz", [400_000_000, 1_000_000_000, 2_500_000_000, 4_294_967_295])
def test_the_clock_s_scale_gives_nanoseconds(hz: int) -> None:
    multiplier, shift = clock_scale(hz)
    ticks = hz * 10  # ten seconds
    scaled = ticks << shift if shift >= 0 else ticks >> -shift
    assert abs((scaled * multiplier >> 32) - 10_000_000_000) < 100
    assert multiplier < 1 << 32


def test_the_stubs_load_their_number_and_iret_is_jumped_at() -> None:
    page = hypercall_page()
    assert len(page) == 4096
    assert page[32 * 26 :][:14].hex() == "514153b81a0000000f05415b59c3"
    assert page[32 * 23 :][:11].hex() == "51415350b8170000000f05"
