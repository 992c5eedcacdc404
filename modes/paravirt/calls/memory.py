"""Hypercalls about memory: page-table entries, tables as a whole, frames (public/xen.h, memory.h)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hv.silicon.x86_64.paging import PRESENT
from modes.paravirt.abi import (
    BACKEND_DOMID,
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    EACCES,
    EINVAL,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    M2P_END,
    M2P_START,
    UVMF_ALL,
    UVMF_FLUSHTYPE_MASK,
    UVMF_INVLPG,
    UVMF_TLB_FLUSH,
    MemoryOp,
    Mmu,
    MmuExt,
    Refused,
)
from modes.paravirt.calls.again import MOST_ENTRIES, Again, each
from modes.paravirt.frames import Kind
from modes.paravirt.guest_memory import outside_xen
from modes.paravirt.vcpu import PvVcpu

REQUEST = struct.Struct("<QQ")
EXTENDED = struct.Struct("<I4xQQ")  # struct mmuext_op
RESERVATION = struct.Struct("<QQIIH6x")  # struct xen_memory_reservation
U64 = struct.Struct("<Q")
TABLES = (Kind.L1, Kind.L2, Kind.L3, Kind.L4)


def check_domain(v: PvVcpu, domid: int) -> None:
    """This domain may only name itself: other domains need a privilege, which it has not."""
    if domid in (DOMID_SELF, v.domain.domid):
        return
    raise Refused(EPERM if domid in (BACKEND_DOMID, DOMID_IO, DOMID_XEN) else ESRCH)


def is_table(v: PvVcpu, mfn: int) -> bool:
    """Is this frame of the domain in use as a page table?"""
    frames = v.domain.frames
    i = frames.index(mfn)
    return i >= 0 and frames.owner[i] == v.domain.domid and frames.types[i] > 0 and Kind(frames.kind[i]) in TABLES


def write_entry(v: PvVcpu, address: int, value: int, *, keep_accessed: bool = False) -> None:
    """Change an entry of a table in use. Above level 1 the CPU may remember what it led to: flush."""
    d = v.domain
    d.tables.update(address, value, keep_accessed=keep_accessed)
    if d.frames.kind[d.frames.index(address >> 12)] != Kind.L1:
        v.flush = True


# --- mmu_update -------------------------------------------------------------------------------------------------------


def mmu_update(v: PvVcpu, a: list[int]) -> int:
    tables_of = a[3] >> 16 & 0xFFFF
    check_domain(v, tables_of - 1 if tables_of else DOMID_SELF)
    check_domain(v, a[3] & 0xFFFF)
    return each(v, "mmu_update", a, REQUEST.size, lambda address: _update(v, *v.memory.unpack(REQUEST, address)))


def _update(v: PvVcpu, pointer: int, value: int) -> None:
    d = v.domain
    command, pointer = pointer & 7, pointer & ~7
    mfn = pointer >> 12
    if command == Mmu.MACHPHYS_UPDATE:
        if not d.frames.owned(mfn, d.domid):
            raise Refused(EINVAL)
        d.xen.set_pfn(mfn, value)
        return
    if command not in (Mmu.NORMAL_PT_UPDATE, Mmu.PT_UPDATE_PRESERVE_AD, Mmu.PT_UPDATE_NO_TRANSLATE):
        raise Refused(ENOSYS)
    if is_table(v, mfn):
        write_entry(v, pointer, value, keep_accessed=command == Mmu.PT_UPDATE_PRESERVE_AD)
    else:  # a frame that is no table may be written so too
        d.frames.take_as(mfn, Kind.WRITABLE, d.domid)
        d.memory.write_u64(pointer, value)
        d.frames.drop_as(mfn)


# --- update_va_mapping ------------------------------------------------------------------------------------------------


def update_va_mapping(v: PvVcpu, a: list[int]) -> int:
    linear, value, flags = a[:3]
    entry = v.domain.tables.entry_address(v.s.root, linear)
    if entry is None or not outside_xen(linear) or not is_table(v, entry >> 12):
        raise Refused(EINVAL)
    write_entry(v, entry, value)
    kind, where = flags & UVMF_FLUSHTYPE_MASK, flags & ~UVMF_FLUSHTYPE_MASK
    if kind in (UVMF_TLB_FLUSH, UVMF_INVLPG):
        if where not in (0, UVMF_ALL):
            v.memory.unpack(U64, where)  # a mask of vCPUs
        v.flush_tlb(one_page=kind == UVMF_INVLPG)
    return 0


def update_va_mapping_otherdomain(v: PvVcpu, a: list[int]) -> int:
    check_domain(v, a[3] & 0xFFFF)
    return update_va_mapping(v, a)


# --- mmuext_op --------------------------------------------------------------------------------------------------------


def mmuext_op(v: PvVcpu, a: list[int]) -> int:
    check_domain(v, a[3] & 0xFFFF)
    return each(v, "mmuext_op", a, EXTENDED.size, lambda address: _extended(v, *v.memory.unpack(EXTENDED, address)))


def _extended(v: PvVcpu, command: int, first: int, second: int) -> None:
    if command not in EXTENDED_OPS:
        raise Refused(ENOSYS)
    EXTENDED_OPS[MmuExt(command)](v, first, second)


def _pin(kind: Kind) -> Callable[[PvVcpu, int, int], None]:
    return lambda v, mfn, _: v.domain.frames.pin(mfn, kind, v.domain.domid)


def _unpin(v: PvVcpu, mfn: int, _: int) -> None:
    v.domain.frames.unpin(mfn, v.domain.domid)


def new_base(v: PvVcpu, mfn: int, _: int = 0) -> None:
    """Other page tables for the kernel (MOV CR3)."""
    frames, s = v.domain.frames, v.s
    if mfn != s.root:
        frames.take_as(mfn, Kind.L4, v.domain.domid)
        old, s.root = s.root, mfn
        frames.drop_as(old)
    v.load_root()


def _new_user_base(v: PvVcpu, mfn: int, _: int) -> None:
    frames, s = v.domain.frames, v.s
    if mfn == s.user_root:
        return
    if mfn:
        frames.take_as(mfn, Kind.L4, v.domain.domid)
    old, s.user_root = s.user_root, mfn
    if old:
        frames.drop_as(old)


def _flush(v: PvVcpu, _: int, __: int) -> None:
    v.flush_tlb(one_page=False)


def _flush_page(v: PvVcpu, _: int, __: int) -> None:
    v.flush_tlb(one_page=True)


def _check_mask(v: PvVcpu, mask: int) -> None:
    """A mask of vCPUs, read for its errors' sake: the other CPUs' TLBs are empty whenever they run."""
    try:
        v.memory.read(mask, (len(v.domain.vcpus) + 7) // 8)
    except Refused:
        raise Refused(EINVAL) from None


def _flush_multi(v: PvVcpu, _: int, mask: int) -> None:
    _check_mask(v, mask)
    v.flush_tlb(one_page=False)


def _flush_page_multi(v: PvVcpu, _: int, mask: int) -> None:
    _check_mask(v, mask)
    v.flush_tlb(one_page=True)


def _flush_cache(v: PvVcpu, _: int, __: int) -> None:
    raise Refused(EACCES)  # for domains with devices only


def _set_ldt(v: PvVcpu, linear: int, entries: int) -> None:
    if entries & 0xFFFF_FFFF:
        raise Refused(EINVAL)  # simplified: no LDT; taking it away is no error


def _clear_page(v: PvVcpu, mfn: int, _: int) -> None:
    frames = v.domain.frames
    frames.take_as(mfn, Kind.WRITABLE, v.domain.domid)
    v.domain.memory.write(mfn << 12, bytes(0x1000))
    frames.drop_as(mfn)


def _copy_page(v: PvVcpu, to: int, source: int) -> None:
    d = v.domain
    if not d.frames.owned(source, d.domid):
        raise Refused(EINVAL)
    d.frames.take_as(to, Kind.WRITABLE, d.domid)
    d.memory.write(to << 12, d.memory.read(source << 12, 0x1000))
    d.frames.drop_as(to)


def _no_super_pages(v: PvVcpu, _: int, __: int) -> None:
    raise Refused(EOPNOTSUPP)


EXTENDED_OPS: dict[MmuExt, Callable[[PvVcpu, int, int], None]] = {
    MmuExt.PIN_L1_TABLE: _pin(Kind.L1),
    MmuExt.PIN_L2_TABLE: _pin(Kind.L2),
    MmuExt.PIN_L3_TABLE: _pin(Kind.L3),
    MmuExt.PIN_L4_TABLE: _pin(Kind.L4),
    MmuExt.UNPIN_TABLE: _unpin,
    MmuExt.NEW_BASEPTR: new_base,
    MmuExt.NEW_USER_BASEPTR: _new_user_base,
    MmuExt.TLB_FLUSH_LOCAL: _flush,
    MmuExt.INVLPG_LOCAL: _flush_page,
    MmuExt.TLB_FLUSH_MULTI: _flush_multi,
    MmuExt.INVLPG_MULTI: _flush_page_multi,
    MmuExt.TLB_FLUSH_ALL: _flush,
    MmuExt.INVLPG_ALL: _flush_page,
    MmuExt.FLUSH_CACHE: _flush_cache,
    MmuExt.FLUSH_CACHE_GLOBAL: _flush_cache,
    MmuExt.SET_LDT: _set_ldt,
    MmuExt.CLEAR_PAGE: _clear_page,
    MmuExt.COPY_PAGE: _copy_page,
    MmuExt.MARK_SUPER: _no_super_pages,
    MmuExt.UNMARK_SUPER: _no_super_pages,
}


# --- memory_op --------------------------------------------------------------------------------------------------------


def memory_op(v: PvVcpu, a: list[int]) -> int:
    command, argument = a[0] & 0x3F, a[1]
    start = a[0] >> 6 & (1 << 58) - 1  # extents done already, in a continuation
    d = v.domain
    if command == MemoryOp.MAXIMUM_RAM_PAGE:
        first, count = d.frames.ranges[0]
        return first + count - 1
    if command in (MemoryOp.CURRENT_RESERVATION, MemoryOp.MAXIMUM_RESERVATION):
        check_domain(v, int.from_bytes(v.memory.read(argument, 2), "little"))
        return sum(d.frames.allocated) if command == MemoryOp.CURRENT_RESERVATION else d.frames.ranges[0][1]
    if command == MemoryOp.MACHPHYS_MAPPING:
        first, count = d.frames.ranges[0]
        v.memory.pack(struct.Struct("<3Q"), argument, M2P_START, M2P_END, first + count - 1)
        return 0
    extent = {
        MemoryOp.INCREASE_RESERVATION: _increase,
        MemoryOp.DECREASE_RESERVATION: _decrease,
        MemoryOp.POPULATE_PHYSMAP: _populate,
    }.get(MemoryOp(command) if command in set(MemoryOp) else MemoryOp.MEMORY_MAP)
    if extent is None:
        raise Refused(ENOSYS)
    extents, count, order, _, domid = v.memory.unpack(RESERVATION, argument)
    check_domain(v, domid)
    if order:
        return start  # simplified: single frames only; a domain has to live with fewer extents than it asked for
    for done in range(start, count):
        if v.entries >= MOST_ENTRIES:
            raise Again(command | done << 6, argument)
        v.entries += 1
        try:
            extent(v, extents + 8 * done)
        except Refused:
            return done
    return max(start, count)


def _allocate(v: PvVcpu) -> int:
    d = v.domain
    if not d.free:
        raise Refused(EINVAL)
    mfn = d.free.pop()
    d.frames.give(mfn, d.domid)
    return mfn


def _increase(v: PvVcpu, at: int) -> None:
    v.memory.machine_address(at, write=True)
    v.memory.machine_address(at + 7, write=True)
    v.memory.pack(U64, at, _allocate(v))


def _populate(v: PvVcpu, at: int) -> None:
    (pfn,) = v.memory.unpack(U64, at)
    v.memory.machine_address(at, write=True)
    v.memory.machine_address(at + 7, write=True)
    mfn = _allocate(v)
    v.domain.xen.set_pfn(mfn, pfn)
    v.memory.pack(U64, at, mfn)


def _decrease(v: PvVcpu, at: int) -> None:
    (mfn,) = v.memory.unpack(U64, at)
    v.domain.frames.release(mfn, v.domain.domid)


# --- writes to tables without a hypercall -----------------------------------------------------------------------------


def direct_write(v: PvVcpu, linear: int, size: int, value: int) -> bool:
    """The guest stores to a level-1 table that it has mapped read-only: checked and done, if it is a whole entry."""
    entry = v.domain.tables.entry_address(v.s.root, linear)
    if entry is None or size != 8 or linear & 7:
        return False
    mapping = v.domain.memory.read_u64(entry)
    address = (mapping & 0x000F_FFFF_FFFF_F000) | linear & 0xFFF
    frames = v.domain.frames
    if not mapping & PRESENT or not is_table(v, address >> 12) or frames.kind[frames.index(address >> 12)] != Kind.L1:
        return False
    write_entry(v, address, value)
    return True
