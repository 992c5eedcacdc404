"""The hypercall grant_table_op (public/grant_table.h): a list of operations of one kind, each with a status of its own.

The guest's own table is set up here, and a guest may use grants: copy by them, and map them into its page tables. The
only grants that there are for it are those that it has made for itself, for domain 0 grants nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from hv.silicon.x86_64.paging import PRESENT, USER, WRITABLE
from modes.paravirt.abi import BACKEND_DOMID, DOMID_SELF, EINVAL, ENOSYS, Refused
from modes.paravirt.calls.again import MOST_ENTRIES, Again
from modes.paravirt.calls.memory import is_table, write_entry
from modes.paravirt.foreign import PAGE
from modes.paravirt.grants import MOST_FRAMES, GrantRefused, Status, View
from modes.paravirt.tables import ACCESSED, DIRTY, frame_of
from modes.paravirt.vcpu import PvVcpu

SETUP, QUERY_SIZE = struct.Struct("<H2xI8xQ"), struct.Struct("<H2x12x")
MAP, UNMAP = struct.Struct("<QIIH14x"), struct.Struct("<QQI4x")
COPY = struct.Struct("<QHH4xQHH4xHH4x")
STATUS, SIZES, MAPPED = struct.Struct("<h"), struct.Struct("<IIh"), struct.Struct("<hIQ")
VERSION, VERSION_OF = struct.Struct("<I"), struct.Struct("<H2x4x")
DEVICE_MAP, HOST_MAP, READ_ONLY, APPLICATION_MAP, CONTAINS_PTE = 1, 2, 4, 8, 16
SOURCE_IS_REF, TARGET_IS_REF = 1, 2


def check_own(v: PvVcpu, domid: int) -> None:
    """The table of another domain is not the guest's business."""
    if domid not in (DOMID_SELF, v.domain.domid):
        raise GrantRefused(Status.PERMISSION_DENIED if domid == BACKEND_DOMID else Status.BAD_DOMAIN)


# --- the table --------------------------------------------------------------------------------------------------------


def _setup(v: PvVcpu, at: int) -> None:
    domid, frames, frame_list = v.memory.unpack(SETUP, at)
    status = Status.OKAY
    try:
        check_own(v, domid)
        mfns = v.domain.grants.grow(frames)
        try:
            v.memory.write(frame_list, struct.pack(f"<{len(mfns)}Q", *mfns))
        except Refused:
            status = Status.BAD_ADDRESS
    except GrantRefused as refused:
        status = refused.status
    v.memory.pack(STATUS, at + 8, status)


def _query_size(v: PvVcpu, at: int) -> None:
    (domid,) = v.memory.unpack(QUERY_SIZE, at)
    sizes = (len(v.domain.grants.s.frames), MOST_FRAMES, Status.OKAY)
    try:
        check_own(v, domid)
    except GrantRefused as refused:
        sizes = (0, 0, refused.status)
    v.memory.pack(SIZES, at + 4, *sizes)


def _set_version(v: PvVcpu, at: int) -> None:
    (version,) = v.memory.unpack(VERSION, at)
    v.memory.pack(VERSION, at, 1)
    if version != 1:
        raise Refused(ENOSYS if version == 2 else EINVAL)


def _get_version(v: PvVcpu, at: int) -> None:
    (domid,) = v.memory.unpack(VERSION_OF, at)
    if domid not in (DOMID_SELF, v.domain.domid):
        raise Refused(EINVAL)
    v.memory.pack(VERSION, at + 4, 1)


# --- mappings ---------------------------------------------------------------------------------------------------------


def _check_granter(v: PvVcpu, domid: int) -> None:
    """Whose grant it is: the guest's own, or one of domain 0's, which has none."""
    if domid != v.domain.domid:
        raise GrantRefused(Status.BAD_REFERENCE if domid == BACKEND_DOMID else Status.BAD_DOMAIN)


def _entry_for(v: PvVcpu, place: int, *, is_entry: bool) -> int:
    """Machine address of the page-table entry that a mapping goes to: named itself, or by the address that it maps."""
    entry = place if is_entry else v.domain.tables.entry_address(v.s.root, place)
    if entry is None or entry & 7 or not is_table(v, entry >> 12):
        raise GrantRefused(Status.GENERAL_ERROR)
    frames = v.domain.frames
    if frames.kind[frames.index(entry >> 12)] != 1:
        raise GrantRefused(Status.GENERAL_ERROR)
    return entry


def _map(v: PvVcpu, at: int) -> None:
    place, flags, ref, domid = v.memory.unpack(MAP, at)
    status, handle, address = Status.OKAY, 0xFFFF_FFFF, 0
    try:
        if not flags & (HOST_MAP | DEVICE_MAP):
            raise GrantRefused(Status.BAD_REFERENCE)
        _check_granter(v, domid)
        view = v.domain.grants.map(ref, write=not flags & READ_ONLY, domid=v.domain.domid, flags=flags)
        try:
            if flags & HOST_MAP:
                _show(v, view, place, flags)
        except GrantRefused:
            v.domain.grants.unmap(view.handle)
            raise
        handle, address = view.handle, view.address if flags & DEVICE_MAP else 0
    except GrantRefused as refused:
        status = refused.status
    v.memory.pack(MAPPED, at + 18, status, handle, address)


def _show(v: PvVcpu, view: View, place: int, flags: int) -> None:
    """The mapping becomes an entry of the guest's tables."""
    rights = PRESENT | ACCESSED | DIRTY | (WRITABLE if view.writable else 0) | (USER if flags & APPLICATION_MAP else 0)
    entry = _entry_for(v, place, is_entry=bool(flags & CONTAINS_PTE))
    try:
        write_entry(v, entry, view.address | rights)
    except Refused:
        raise GrantRefused(Status.GENERAL_ERROR) from None


def _unmap(v: PvVcpu, at: int) -> None:
    place, _, number = v.memory.unpack(UNMAP, at)
    status, grants = Status.OKAY, v.domain.grants
    try:
        held = grants.s.handles.get(number)
        if held is None or grants.s.uses[held.ref].domid != v.domain.domid:
            raise GrantRefused(Status.BAD_HANDLE)  # those of domain 0 are not the guest's to end
        if held.flags & HOST_MAP and place:
            _hide(v, grants.view(number), _entry_for(v, place, is_entry=bool(held.flags & CONTAINS_PTE)))
        if place or not held.flags & HOST_MAP:
            grants.unmap(number)
    except GrantRefused as refused:
        status = refused.status
    v.memory.pack(STATUS, at + 20, status)


def _hide(v: PvVcpu, view: View, entry: int) -> None:
    if frame_of(v.domain.memory.read_u64(entry)) != view.address // PAGE:
        raise GrantRefused(Status.GENERAL_ERROR)
    write_entry(v, entry, 0)
    v.flush = True


# --- copies -----------------------------------------------------------------------------------------------------------


class End(NamedTuple):
    """Where a copy comes from, or goes to."""

    frame: int  # or the grant reference
    domid: int
    offset: int
    is_ref: bool


def _copy(v: PvVcpu, at: int) -> None:
    first, first_domid, first_at, second, second_domid, second_at, size, flags = v.memory.unpack(COPY, at)
    source = End(first, first_domid, first_at, bool(flags & SOURCE_IS_REF))
    target = End(second, second_domid, second_at, bool(flags & TARGET_IS_REF))
    status = Status.OKAY
    try:
        for end in (source, target):
            if end.is_ref:
                _check_granter(v, v.domain.domid if end.domid == DOMID_SELF else end.domid)
            elif end.domid != DOMID_SELF:
                raise GrantRefused(Status.PERMISSION_DENIED)
            if end.offset + size > PAGE:
                raise GrantRefused(Status.BAD_COPY_ARGUMENT)
        _put(v, target, _get(v, source, size))
    except GrantRefused as refused:
        status = refused.status
    v.memory.pack(STATUS, at + 36, status)


def _get(v: PvVcpu, source: End, size: int) -> bytes:
    d = v.domain
    if source.is_ref:
        return d.grants.read(source.frame & 0xFFFF_FFFF, source.offset, size, d.domid)
    address = _hold(v, source.frame, write=False)
    d.grants.foreign.let_go(source.frame, write=False)
    return d.memory.read(address + source.offset, size)


def _put(v: PvVcpu, target: End, data: bytes) -> None:
    d = v.domain
    if target.is_ref:
        d.grants.write(target.frame & 0xFFFF_FFFF, target.offset, data, d.domid)
        return
    address = _hold(v, target.frame, write=True)
    d.memory.write(address + target.offset, data)
    d.grants.foreign.let_go(target.frame, write=True)


def _hold(v: PvVcpu, frame: int, *, write: bool) -> int:
    try:
        return v.domain.grants.foreign.hold(frame, write=write)
    except Refused:
        raise GrantRefused(Status.BAD_PAGE) from None


# --- the hypercall ----------------------------------------------------------------------------------------------------

# number -> the function, and the size of its argument, of which there is a list
OPERATIONS: dict[int, tuple[Callable[[PvVcpu, int], None], int]] = {0: (_map, 32), 1: (_unmap, 24), 5: (_copy, 40)}
SINGLE: dict[int, Callable[[PvVcpu, int], None]] = {2: _setup, 6: _query_size, 8: _set_version, 10: _get_version}


def grant_table_op(v: PvVcpu, a: list[int]) -> int:
    command, at, count = a[0] & 0xFFFF_FFFF, a[1], a[2] & 0xFFFF_FFFF
    if count >> 31:
        raise Refused(EINVAL)
    if command in SINGLE:
        if count != 1:
            raise Refused(EINVAL)
        SINGLE[command](v, at)
        return 0
    if command not in OPERATIONS:
        raise Refused(ENOSYS)
    operation, size = OPERATIONS[command]
    for done in range(count):
        if v.entries >= MOST_ENTRIES:
            raise Again(command, at + size * done, count - done)
        v.entries += 1
        if done:
            v.bill("grant_table_op")
        operation(v, at + size * done)
    return 0
