"""Grant tables: who may use a frame, what the owner sees of it, and what is refused (Xen, public/grant_table.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from modes.paravirt.abi import EINVAL, ENOSYS, HYPERCALLS
from modes.paravirt.frames import Kind
from modes.paravirt.grants import GrantRefused
from tests.pv_rig import ARGUMENTS, L1, OTHER, WINDOW
from tests.store_rig import StoreRig

GRANT_TABLE_OP = {name: number for number, name in HYPERCALLS.items()}["grant_table_op"]
MMUEXT_OP = {name: number for number, name in HYPERCALLS.items()}["mmuext_op"]
MEMORY_OP = {name: number for number, name in HYPERCALLS.items()}["memory_op"]
MAP, UNMAP, SETUP, TRANSFER, COPY, QUERY, SET_VERSION, GET_VERSION = 0, 1, 2, 4, 5, 6, 8, 10
GENERAL, BAD_DOMAIN, BAD_REF, BAD_HANDLE, BAD_ADDRESS, DENIED, BAD_PAGE, BAD_COPY = -1, -2, -3, -4, -5, -8, -9, -10
SELF = 0x7FF0
REF, FRAME = 8, 70
READING, WRITING = 8, 16


@pytest.fixture
def rig() -> Iterator[StoreRig]:
    rig = StoreRig()
    rig.memory.write(rig.mfn(FRAME) << 12, b"hello")
    yield rig
    rig.domain.grants.drop_all()
    rig.check()


def refusal(rig: StoreRig, ref: int, *, write: bool, domid: int = 0) -> int:
    with pytest.raises(GrantRefused) as refused:
        rig.domain.grants.map(ref, write=write, domid=domid)
    return int(refused.value.status)


def one(rig: StoreRig, command: int, layout: str, *values: int, status_at: int) -> int:
    """One operation of the hypercall; its status."""
    pointer = rig.arguments(layout, *values)
    assert rig.call(GRANT_TABLE_OP, command, pointer, 1) == 0
    return int(struct.unpack("<h", rig.memory.read((rig.mfn(10) << 12) + status_at, 2))[0])


# --- back ends --------------------------------------------------------------------------------------------------------


def test_a_mapping_is_memory_and_the_owner_sees_it(rig: StoreRig) -> None:
    rig.grant(REF, FRAME)
    view = rig.domain.grants.map(REF, write=True)
    assert view.read(0, 5) == b"hello"
    view.write(4090, b"behind")
    assert rig.memory.read((rig.mfn(FRAME) << 12) + 4090, 6) == b"behind"
    assert rig.flags(REF) == 1 | READING | WRITING
    second = rig.domain.grants.map(REF, write=False)
    rig.domain.grants.unmap(view.handle)
    assert rig.flags(REF) == 1 | READING
    rig.domain.grants.unmap(second.handle)
    assert rig.flags(REF) == 1
    with pytest.raises(GrantRefused):
        rig.domain.grants.unmap(view.handle)


def test_a_view_ends_at_its_page(rig: StoreRig) -> None:
    rig.grant(REF, FRAME)
    view = rig.domain.grants.map(REF, write=True)
    for offset, size in ((4092, 5), (-1, 4), (0, 4097), (4097, 0)):
        with pytest.raises(GrantRefused):
            view.read(offset, size)
        with pytest.raises(GrantRefused):
            rig.domain.grants.read(REF, offset, size)
    with pytest.raises(GrantRefused):
        view.write(4095, b"ab")


@pytest.mark.parametrize(
    ("flags", "domid", "frame", "write", "status"),
    [
        (0, 0, FRAME, False, GENERAL),  # no grant
        (2, 0, FRAME, False, GENERAL),  # to be transferred
        (3, 0, FRAME, False, GENERAL),  # transitive, of version 2
        (1, 2, FRAME, False, GENERAL),  # another domain's
        (1 | 4, 0, FRAME, True, GENERAL),  # read only
        (1, 0, OTHER[0], False, BAD_PAGE),  # a frame of another domain
        (1, 0, 5000, True, BAD_PAGE),  # no RAM
        (1, 0, L1, True, BAD_PAGE),  # a page table
    ],
)
def test_what_is_no_grant(rig: StoreRig, flags: int, domid: int, frame: int, write: bool, status: int) -> None:
    rig.grant(REF, frame, flags, domid)
    assert refusal(rig, REF, write=write) == status
    assert rig.flags(REF) == flags
    grants = rig.domain.grants
    with pytest.raises(GrantRefused):
        grants.write(REF, 0, b"x") if write else grants.read(REF, 0, 1)
    assert rig.domain.grants.s.refused == 2


def test_references_beyond_the_table(rig: StoreRig) -> None:
    assert refusal(rig, 0, write=False) == BAD_REF  # it has no page yet
    rig.grant(REF, FRAME)
    for ref in (512, 1 << 32, -1):
        assert refusal(rig, ref, write=False) == BAD_REF


def test_a_page_table_may_be_read_by_a_grant(rig: StoreRig) -> None:
    rig.grant(REF, L1, 1 | 4)
    assert rig.domain.grants.read(REF, 0, 8) == rig.memory.read(rig.mfn(L1) << 12, 8)


def test_a_revoked_or_reused_grant_is_what_it_was_while_it_is_held(rig: StoreRig) -> None:
    rig.grant(REF, FRAME)
    view = rig.domain.grants.map(REF, write=True)
    rig.grant(REF, FRAME + 1, 1 | 4, 0)  # the owner changes it under a user's hands
    assert rig.domain.grants.map(REF, write=False).address == view.address
    rig.grant(REF, FRAME + 1, 0)
    view.write(0, b"HELLO")
    assert rig.memory.read(rig.mfn(FRAME) << 12, 5) == b"HELLO"
    rig.domain.grants.drop_all()
    assert refusal(rig, REF, write=False) == GENERAL


def test_a_held_frame_stays_what_it_is(rig: StoreRig) -> None:
    """It becomes no page table, and goes to nobody else, until it is let go."""
    rig.grant(REF, FRAME)
    view = rig.domain.grants.map(REF, write=True)
    pin = rig.arguments("<I4xQQ", 0, rig.mfn(FRAME), 0)
    assert rig.call(MMUEXT_OP, pin, 1, 0, SELF) == -EINVAL
    give = rig.arguments("<QQIIH6xQ", ARGUMENTS + 32, 1, 0, 0, SELF, rig.mfn(FRAME))
    assert rig.call(MEMORY_OP, 1, give) == 1
    view.write(0, b"still")
    i = rig.frames.index(rig.mfn(FRAME))
    assert (rig.frames.owner[i], rig.frames.allocated[i]) == (1, 0)
    rig.domain.grants.unmap(view.handle)
    assert rig.frames.owner[i] == 0x7FF4  # nobody's
    assert rig.memory.read(rig.mfn(FRAME) << 12, 5) == bytes(5)
    assert refusal(rig, REF, write=False) == BAD_PAGE


def test_a_table_is_not_written_by_a_copy(rig: StoreRig) -> None:
    rig.grant(REF, FRAME)
    pin = rig.arguments("<I4xQQ", 0, rig.mfn(FRAME), 0)
    rig.memory.write(rig.mfn(FRAME) << 12, bytes(5))
    assert rig.call(MMUEXT_OP, pin, 1, 0, SELF) == 0
    with pytest.raises(GrantRefused):
        rig.domain.grants.write(REF, 0, struct.pack("<Q", rig.mfn(OTHER[0]) << 12 | 7))
    assert rig.domain.grants.read(REF, 0, 4) == bytes(4)


def test_the_same_after_a_snapshot(rig: StoreRig) -> None:
    rig.grant(REF, FRAME)
    handle = rig.domain.grants.map(REF, write=True).handle
    assert rig.domain.grants.view(handle).read(0, 5) == b"hello"


# --- the hypercall ----------------------------------------------------------------------------------------------------


def test_the_table_is_set_up_and_described(rig: StoreRig) -> None:
    assert one(rig, SETUP, "<H2xIh6xQ", SELF, 2, 99, ARGUMENTS + 64, status_at=8) == 0
    frames = struct.unpack("<2Q", rig.memory.read((rig.mfn(10) << 12) + 64, 16))
    assert list(frames) == rig.domain.grants.s.frames
    assert one(rig, QUERY, "<H2xIIh", SELF, 0, 0, 99, status_at=12) == 0
    assert struct.unpack("<II", rig.memory.read((rig.mfn(10) << 12) + 4, 8)) == (2, 64)
    for domid, status in ((0, DENIED), (2, BAD_DOMAIN)):
        assert one(rig, SETUP, "<H2xIh6xQ", domid, 1, 99, ARGUMENTS + 64, status_at=8) == status
        assert one(rig, QUERY, "<H2xIIh", domid, 0, 0, 99, status_at=12) == status
    assert one(rig, SETUP, "<H2xIh6xQ", SELF, 65, 99, ARGUMENTS + 64, status_at=8) == GENERAL
    assert one(rig, SETUP, "<H2xIh6xQ", SELF, 1, 99, 0x1234_5000, status_at=8) == BAD_ADDRESS


def test_versions_and_what_is_refused(rig: StoreRig) -> None:
    for version, result in ((1, 0), (2, -ENOSYS), (3, -EINVAL), (0, -EINVAL)):
        assert rig.call(GRANT_TABLE_OP, SET_VERSION, rig.arguments("<I", version), 1) == result
    assert rig.call(GRANT_TABLE_OP, GET_VERSION, rig.arguments("<H2xI", SELF, 0), 1) == 0
    assert rig.memory.read((rig.mfn(10) << 12) + 4, 4) == b"\1\0\0\0"
    for command in (3, TRANSFER, 7, 9, 11, 12, 13, 99):
        assert rig.call(GRANT_TABLE_OP, command, ARGUMENTS, 1) == -ENOSYS
    assert rig.call(GRANT_TABLE_OP, SETUP, ARGUMENTS, 2) == -EINVAL
    assert rig.call(GRANT_TABLE_OP, COPY, ARGUMENTS, 1 << 31) == -EINVAL
    assert rig.call(GRANT_TABLE_OP, COPY, ARGUMENTS, 0) == 0


def copy(rig: StoreRig, source: tuple[int, int, int], target: tuple[int, int, int], size: int, flags: int) -> int:
    return one(rig, COPY, "<QHH4xQHH4xHHh", *source, *target, size, flags, 99, status_at=36)


def test_a_guest_copies_by_its_own_grants(rig: StoreRig) -> None:
    rig.grant(REF, FRAME, 1, 1)  # to itself
    rig.grant(REF + 1, FRAME + 1, 1 | 4, 1)
    assert copy(rig, (REF, 1, 1), (rig.mfn(FRAME + 1), SELF, 8), 4, 1) == 0
    assert rig.memory.read((rig.mfn(FRAME + 1) << 12) + 8, 4) == b"ello"
    assert copy(rig, (rig.mfn(FRAME + 1), SELF, 8), (REF, 1, 4092), 4, 2) == 0
    assert rig.memory.read((rig.mfn(FRAME) << 12) + 4092, 4) == b"ello"
    own, other = (rig.mfn(FRAME), SELF, 0), (rig.mfn(OTHER[0]), SELF, 0)
    assert copy(rig, own, (REF + 1, 1, 0), 4, 2) == GENERAL  # read only
    assert copy(rig, (REF, 0, 0), own, 4, 1) == BAD_REF  # domain 0 has no grants
    assert copy(rig, (REF, 5, 0), own, 4, 1) == BAD_DOMAIN
    assert copy(rig, (rig.mfn(FRAME), 0, 0), own, 4, 0) == DENIED
    assert copy(rig, own, other, 4, 0) == copy(rig, other, own, 4, 0) == BAD_PAGE
    assert copy(rig, own, (rig.mfn(L1), SELF, 0), 4, 0) == BAD_PAGE
    assert copy(rig, (rig.mfn(FRAME), SELF, 4094), own, 4, 0) == BAD_COPY
    assert rig.flags(REF) == 1


def test_a_guest_maps_its_own_grant_into_its_tables(rig: StoreRig) -> None:
    place = WINDOW + (100 << 12)  # an empty slot of the last table
    rig.grant(REF, FRAME, 1, 1)
    assert one(rig, MAP, "<QIIHhIQ", place, 2, REF, 1, 99, 0, 0, status_at=18) == 0
    handle = int.from_bytes(rig.memory.read((rig.mfn(10) << 12) + 20, 4), "little")
    assert rig.v.memory.read(place, 5) == b"hello"
    assert rig.frames.kind[rig.frames.index(rig.mfn(FRAME))] == Kind.WRITABLE
    assert rig.flags(REF) == 1 | READING | WRITING
    assert one(rig, UNMAP, "<QQIh", place + 0x1000, 0, handle, 99, status_at=20) == GENERAL  # it is not there
    assert one(rig, UNMAP, "<QQIh", place, 0, handle, 99, status_at=20) == 0
    assert rig.flags(REF) == 1
    assert rig.get(L1, 100) & 1 == 0
    assert one(rig, UNMAP, "<QQIh", place, 0, handle, 99, status_at=20) == BAD_HANDLE
    for domid, status in ((0, BAD_REF), (SELF, BAD_DOMAIN)):
        assert one(rig, MAP, "<QIIHhIQ", place, 2, REF, domid, 99, 0, 0, status_at=18) == status
    assert one(rig, MAP, "<QIIHhIQ", 0x5000_0000_0000, 2, REF, 1, 99, 0, 0, status_at=18) == GENERAL
    assert rig.flags(REF) == 1


def test_a_mapping_by_its_entry_has_the_bits_that_are_the_guests(rig: StoreRig) -> None:
    """As Linux's gntdev maps for programs: the entry's address, and a software bit (9) that marks it as special."""
    entry, flags = (rig.mfn(L1) << 12) + 8 * 100, 2 | 4 | 8 | 16 | 1 << 16
    rig.grant(REF, FRAME, 1 | 4, 1)
    assert one(rig, MAP, "<QIIHhIQ", entry, flags, REF, 1, 99, 0, 0, status_at=18) == 0
    handle = int.from_bytes(rig.memory.read((rig.mfn(10) << 12) + 20, 4), "little")
    assert rig.get(L1, 100) == rig.mfn(FRAME) << 12 | 1 | 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 63
    assert one(rig, UNMAP, "<QQIh", entry, 0, handle, 99, status_at=20) == 0
    assert rig.get(L1, 100) & 1 == 0


def test_a_mapping_of_domain_0_is_not_the_guests_to_end(rig: StoreRig) -> None:
    rig.grant(REF, FRAME)
    view = rig.domain.grants.map(REF, write=True)
    assert one(rig, UNMAP, "<QQIh", 0, 0, view.handle, 99, status_at=20) == BAD_HANDLE
    view.write(0, b"x")
