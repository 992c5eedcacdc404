"""The hypercall grant_table_op (public/grant_table.h): a list of operations of one kind, each with a status of its own.

The guest's own table is set up here, and a guest may use grants. The only ones that there are for it are those that it
has made for itself, for domain 0 grants nothing. Mapping them is a PV domain's (grant_maps.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from modes.paravirt.abi import BACKEND_DOMID, DOMID_SELF, EINVAL, ENOSYS, Refused
from modes.paravirt.calls.again import MOST_ENTRIES, Again
from modes.paravirt.common import XenVcpu
from modes.paravirt.foreign import PAGE
from modes.paravirt.grants import MOST_FRAMES, GrantRefused, Status

SETUP, QUERY_SIZE = struct.Struct("<H2xI8xQ"), struct.Struct("<H2x12x")
COPY = struct.Struct("<QHH4xQHH4xHH4x")
STATUS, SIZES = struct.Struct("<h"), struct.Struct("<IIh")
VERSION, VERSION_OF = struct.Struct("<I"), struct.Struct("<H2x4x")
SOURCE_IS_REF, TARGET_IS_REF = 1, 2


def check_own(v: XenVcpu, domid: int) -> None:
    """The table of another domain is not the guest's business."""
    if domid not in (DOMID_SELF, v.domain.domid):
        raise GrantRefused(Status.PERMISSION_DENIED if domid == BACKEND_DOMID else Status.BAD_DOMAIN)


# --- the table --------------------------------------------------------------------------------------------------------


def _setup(v: XenVcpu, at: int) -> None:
    domid, frames, frame_list = v.memory.unpack(SETUP, at)
    status = Status.OKAY
    try:
        check_own(v, domid)
        mfns = v.domain.grants.grow(frames)
        try:
            v.memory.write(frame_list, struct.pack(f"<{len(mfns)}Q", *map(v.domain.shown_frame, mfns)))
        except Refused:
            status = Status.BAD_ADDRESS
    except GrantRefused as refused:
        status = refused.status
    v.memory.pack(STATUS, at + 8, status)


def _query_size(v: XenVcpu, at: int) -> None:
    (domid,) = v.memory.unpack(QUERY_SIZE, at)
    sizes = (len(v.domain.grants.s.frames), MOST_FRAMES, Status.OKAY)
    try:
        check_own(v, domid)
    except GrantRefused as refused:
        sizes = (0, 0, refused.status)
    v.memory.pack(SIZES, at + 4, *sizes)


def _set_version(v: XenVcpu, at: int) -> None:
    (version,) = v.memory.unpack(VERSION, at)
    v.memory.pack(VERSION, at, 1)
    if version != 1:
        raise Refused(ENOSYS if version == 2 else EINVAL)


def _get_version(v: XenVcpu, at: int) -> None:
    (domid,) = v.memory.unpack(VERSION_OF, at)
    if domid not in (DOMID_SELF, v.domain.domid):
        raise Refused(EINVAL)
    v.memory.pack(VERSION, at + 4, 1)


# --- copies -----------------------------------------------------------------------------------------------------------


def check_granter(v: XenVcpu, domid: int) -> None:
    """Whose grant it is: the guest's own, or one of domain 0's, which has none."""
    if domid != v.domain.domid:
        raise GrantRefused(Status.BAD_REFERENCE if domid == BACKEND_DOMID else Status.BAD_DOMAIN)


class End(NamedTuple):
    """Where a copy comes from, or goes to."""

    frame: int  # or the grant reference
    domid: int
    offset: int
    is_ref: bool


def _copy(v: XenVcpu, at: int) -> None:
    first, first_domid, first_at, second, second_domid, second_at, size, flags = v.memory.unpack(COPY, at)
    source = End(first, first_domid, first_at, bool(flags & SOURCE_IS_REF))
    target = End(second, second_domid, second_at, bool(flags & TARGET_IS_REF))
    status = Status.OKAY
    try:
        for end in (source, target):
            if end.is_ref:
                check_granter(v, v.domain.domid if end.domid == DOMID_SELF else end.domid)
            elif end.domid != DOMID_SELF:
                raise GrantRefused(Status.PERMISSION_DENIED)
            if end.offset + size > PAGE:
                raise GrantRefused(Status.BAD_COPY_ARGUMENT)
        _put(v, target, _get(v, source, size))
    except GrantRefused as refused:
        status = refused.status
    v.memory.pack(STATUS, at + 36, status)


def _get(v: XenVcpu, source: End, size: int) -> bytes:
    d = v.domain
    if source.is_ref:
        return d.grants.read(source.frame & 0xFFFF_FFFF, source.offset, size, d.domid)
    address = _hold(v, source.frame, write=False)
    d.grants.foreign.let_go(source.frame, write=False)
    return d.memory.read(address + source.offset, size)


def _put(v: XenVcpu, target: End, data: bytes) -> None:
    d = v.domain
    if target.is_ref:
        d.grants.write(target.frame & 0xFFFF_FFFF, target.offset, data, d.domid)
        return
    address = _hold(v, target.frame, write=True)
    d.memory.write(address + target.offset, data)
    d.grants.foreign.let_go(target.frame, write=True)


def _hold(v: XenVcpu, frame: int, *, write: bool) -> int:
    try:
        return v.domain.grants.foreign.hold(frame, write=write)
    except Refused:
        raise GrantRefused(Status.BAD_PAGE) from None


# --- the hypercall ----------------------------------------------------------------------------------------------------

Operation = Callable[[Any, int], None]
# number -> the function, and the size of its argument, of which there is a list
LISTED: dict[int, tuple[Operation, int]] = {5: (_copy, COPY.size)}
SINGLE: dict[int, Operation] = {2: _setup, 6: _query_size, 8: _set_version, 10: _get_version}


def grant_table_op(v: XenVcpu, a: list[int], listed: Mapping[int, tuple[Operation, int]] = LISTED) -> int:
    command, at, count = a[0] & 0xFFFF_FFFF, a[1], a[2] & 0xFFFF_FFFF
    if count >> 31:
        raise Refused(EINVAL)
    if command in SINGLE:
        if count != 1:
            raise Refused(EINVAL)
        SINGLE[command](v, at)
        return 0
    if command not in listed:
        raise Refused(ENOSYS)
    operation, size = listed[command]
    for done in range(count):
        if v.entries >= MOST_ENTRIES:
            raise Again(command, at + size * done, count - done)
        v.entries += 1
        if done:
            v.bill("grant_table_op")
        operation(v, at + size * done)
    return 0
