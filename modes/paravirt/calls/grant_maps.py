"""Grants that a PV domain maps into its own page tables: GNTTABOP_map_grant_ref and unmap_grant_ref.

A mapping holds its frame twice: as a use of the grant, and by the page-table entry, as any other entry does.
"""

from __future__ import annotations

import struct

from hv.silicon.x86_64.paging import NX, PRESENT, USER, WRITABLE
from modes.paravirt.abi import Refused
from modes.paravirt.calls.grants import LISTED, STATUS, check_granter, grant_table_op
from modes.paravirt.calls.memory import is_table, write_entry
from modes.paravirt.foreign import PAGE
from modes.paravirt.frames import Kind
from modes.paravirt.grants import GrantRefused, Status, View
from modes.paravirt.tables import ACCESSED, AVAILABLE, DIRTY, frame_of
from modes.paravirt.vcpu import PvVcpu

MAP, UNMAP = struct.Struct("<QIIH14x"), struct.Struct("<QQI4x")
MAPPED, NO_HANDLE = struct.Struct("<hIQ"), 0xFFFF_FFFF
DEVICE_MAP, HOST_MAP, READ_ONLY, APPLICATION_MAP, CONTAINS_PTE = 1, 2, 4, 8, 16
AVAILABLE_SHIFT = 16 - 9  # flags 18:16 become bits 11:9 of the entry, which are software's


def _entry_for(v: PvVcpu, place: int, *, is_entry: bool) -> int:
    """Machine address of the page-table entry that a mapping goes to: named itself, or by the address that it maps."""
    entry = place if is_entry else v.domain.tables.entry_address(v.s.root, place)
    if entry is None or entry & 7 or not is_table(v, entry >> 12):
        raise GrantRefused(Status.GENERAL_ERROR)
    frames = v.domain.frames
    if frames.kind[frames.index(entry >> 12)] != Kind.L1:
        raise GrantRefused(Status.GENERAL_ERROR)
    return entry


def _map(v: PvVcpu, at: int) -> None:
    place, flags, ref, domid = v.memory.unpack(MAP, at)
    status, handle, address = Status.OKAY, NO_HANDLE, 0
    try:
        if not flags & (HOST_MAP | DEVICE_MAP):
            raise GrantRefused(Status.BAD_REFERENCE)
        check_granter(v, domid)
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
    rights = PRESENT | ACCESSED | DIRTY | NX | flags >> AVAILABLE_SHIFT & AVAILABLE
    rights |= (WRITABLE if view.writable else 0) | (USER if flags & APPLICATION_MAP else 0)
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


def pv_grant_table_op(v: PvVcpu, a: list[int]) -> int:
    return grant_table_op(v, a, {**LISTED, 0: (_map, MAP.size), 1: (_unmap, UNMAP.size)})
