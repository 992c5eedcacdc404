"""The hypercalls of a guest with a PC for a board: what it may call of Xen's, and what only such a guest calls."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from modes.paravirt.abi import (
    DOMID_SELF,
    EINVAL,
    ENOENT,
    ENOSPC,
    ENOSYS,
    EPERM,
    ESRCH,
    GUEST_DOMID,
    HVM_PARAMS,
    MAPSPACE_GRANT_TABLE,
    MAPSPACE_SHARED_INFO,
    MAX_VCPUS,
    HvmOp,
    HvmParam,
    MemoryOp,
    PhysdevOp,
    Refused,
    VcpuOp,
)
from modes.paravirt.calls import events, grants, queries, scheduling
from modes.paravirt.calls.again import MOST_ENTRIES, U32, Again
from modes.paravirt.calls.table import Call
from modes.paravirt.grants import MOST_FRAMES
from modes.paravirt.hvm.domain import HvmVcpu
from modes.paravirt.hvm.physmap import HOLE, PAGE
from modes.paravirt.hvm.upcall import FIRST_VECTOR

PARAM = struct.Struct("<H2xIQ")  # struct xen_hvm_param
UPCALL_VECTOR = struct.Struct("<IB3x")
MEM_TYPE = struct.Struct("<HHHxxQ")
ADD = struct.Struct("<HHI2Q")  # struct xen_add_to_physmap: domid, size, space, index, gfn
REMOVE = struct.Struct("<H6xQ")
RESERVATION = struct.Struct("<QQIIH6x")
U64 = struct.Struct("<Q")
FREE_PIRQ, UNMAP_PIRQ = struct.Struct("<iI"), struct.Struct("<H2xi")
READABLE = (
    HvmParam.CALLBACK_IRQ, HvmParam.STORE_PFN, HvmParam.STORE_EVTCHN, HvmParam.VM86_TSS, HvmParam.CONSOLE_PFN,
    HvmParam.CONSOLE_EVTCHN, HvmParam.VM_GENERATION_ID_ADDR,
)  # fmt: skip
MEM_RAM, MEM_NOTHING = 0, 2  # HVMMEM_ram_rw, HVMMEM_mmio_dm


def check_domain(domid: int) -> None:
    """Such a guest may only name itself."""
    if domid not in (DOMID_SELF, GUEST_DOMID):
        raise Refused(ESRCH if 1 < domid < DOMID_SELF else EPERM)


# --- hvm_op -----------------------------------------------------------------------------------------------------------


def _param(v: HvmVcpu, at: int) -> tuple[int, int]:
    domid, index, value = v.memory.unpack(PARAM, at)
    check_domain(domid)
    if index >= HVM_PARAMS:
        raise Refused(EINVAL)
    return index, value


def _set_param(v: HvmVcpu, at: int) -> int:
    index, value = _param(v, at)
    if index == HvmParam.CALLBACK_IRQ:
        v.domain.upcall.set_via(value)
    elif index not in (HvmParam.VM86_TSS, HvmParam.VM_GENERATION_ID_ADDR):
        raise Refused(EPERM)  # the domain builder's
    v.domain.params[index] = value
    return 0


def _get_param(v: HvmVcpu, at: int) -> int:
    index, _ = _param(v, at)
    if index not in READABLE:
        raise Refused(EPERM)
    v.memory.pack(U64, at + 8, v.domain.params.get(index, 0))
    return 0


def _set_upcall_vector(v: HvmVcpu, at: int) -> int:
    index, vector = v.memory.unpack(UPCALL_VECTOR, at)
    if not v.domain.upcall.vectors:
        raise Refused(ENOSYS)
    if vector < FIRST_VECTOR:
        raise Refused(EINVAL)
    if index >= len(v.domain.vcpus):
        raise Refused(ENOENT)
    v.domain.vcpus[index].s.own_vector = vector
    v.domain.events.kick(index)
    return 0


def _get_time(v: HvmVcpu, at: int) -> int:
    v.memory.pack(U64, at, v.domain.nanoseconds())
    return 0


def _get_mem_type(v: HvmVcpu, at: int) -> int:
    domid, _, _, gfn = v.memory.unpack(MEM_TYPE, at)
    check_domain(domid)
    kind = MEM_NOTHING if v.domain.physmap.host(gfn) is None else MEM_RAM
    v.memory.write(at + 2, struct.pack("<H", kind))
    return 0


def _pagetable_dying(v: HvmVcpu, at: int) -> int:
    raise Refused(ENOSYS)  # a hint for shadow paging, of which there is none


HVM_OPERATIONS: dict[int, Callable[[HvmVcpu, int], int]] = {
    HvmOp.SET_PARAM: _set_param,
    HvmOp.GET_PARAM: _get_param,
    HvmOp.PAGETABLE_DYING: _pagetable_dying,
    HvmOp.GET_TIME: _get_time,
    HvmOp.GET_MEM_TYPE: _get_mem_type,
    HvmOp.SET_EVTCHN_UPCALL_VECTOR: _set_upcall_vector,
}


def hvm_op(v: HvmVcpu, a: list[int]) -> int:
    operation = HVM_OPERATIONS.get(a[0])
    if operation is None:
        raise Refused(ENOSYS)
    return operation(v, a[1])


# --- memory_op --------------------------------------------------------------------------------------------------------


def _add_to_physmap(v: HvmVcpu, at: int) -> int:
    domid, _, space, index, gfn = v.memory.unpack(ADD, at)
    check_domain(domid)
    d = v.domain
    if space == MAPSPACE_SHARED_INFO and index == 0:
        page = d.events.shared
    elif space == MAPSPACE_GRANT_TABLE and index < MOST_FRAMES:
        page = d.grants.grow(index + 1)[index] * PAGE
    else:
        raise Refused(EINVAL if space in (MAPSPACE_SHARED_INFO, MAPSPACE_GRANT_TABLE) else ENOSYS)
    d.physmap.put(gfn, page)
    return 0


def _remove_from_physmap(v: HvmVcpu, at: int) -> int:
    domid, gfn = v.memory.unpack(REMOVE, at)
    check_domain(domid)
    if v.domain.physmap.host(gfn) is None:
        raise Refused(ENOENT)
    v.domain.physmap.put(gfn, HOLE)
    return 0


def _give_back(v: HvmVcpu, gfn: int) -> None:
    if not v.domain.physmap.is_ram(gfn):
        raise Refused(EINVAL)
    v.domain.physmap.put(gfn, HOLE)


def _populate(v: HvmVcpu, gfn: int) -> None:
    v.domain.physmap.restore_ram(gfn)


def _reservation(v: HvmVcpu, command: int, start: int, at: int) -> int:
    """A list of frames is given back, or asked for again. Returns how many of them were."""
    frames, count, order, _, domid = v.memory.unpack(RESERVATION, at)
    check_domain(domid)
    if order:
        return start  # simplified: single frames only; a guest has to live with fewer than it asked for
    do = _give_back if command == MemoryOp.DECREASE_RESERVATION else _populate
    for done in range(start, count):
        if v.entries >= MOST_ENTRIES:
            raise Again(command | done << 6, at)
        v.entries += 1
        try:
            do(v, v.memory.unpack(U64, frames + 8 * done)[0])
        except Refused:
            return done
    return max(start, count)


def memory_op(v: HvmVcpu, a: list[int]) -> int:
    command, start, at = a[0] & 0x3F, a[0] >> 6, a[1]
    if command == MemoryOp.ADD_TO_PHYSMAP:
        return _add_to_physmap(v, at)
    if command == MemoryOp.REMOVE_FROM_PHYSMAP:
        return _remove_from_physmap(v, at)
    if command in (MemoryOp.DECREASE_RESERVATION, MemoryOp.POPULATE_PHYSMAP):
        return _reservation(v, command, start, at)
    pages = v.domain.vm.machine.ram_size // PAGE
    if command in (MemoryOp.CURRENT_RESERVATION, MemoryOp.MAXIMUM_RESERVATION):
        check_domain(int.from_bytes(v.memory.read(at, 2), "little"))
        holes = sum(page == HOLE for page in v.domain.physmap.placed.values())
        return pages - holes if command == MemoryOp.CURRENT_RESERVATION else pages
    raise Refused(ENOSYS)


# --- the rest ---------------------------------------------------------------------------------------------------------

VCPU_OPERATIONS: dict[int, scheduling.Operation] = {
    command: scheduling.OPERATIONS[command]
    for command in (
        VcpuOp.IS_UP, VcpuOp.GET_RUNSTATE_INFO, VcpuOp.REGISTER_RUNSTATE_MEMORY_AREA, VcpuOp.SET_PERIODIC_TIMER,
        VcpuOp.STOP_PERIODIC_TIMER, VcpuOp.SET_SINGLESHOT_TIMER, VcpuOp.STOP_SINGLESHOT_TIMER,
        VcpuOp.REGISTER_VCPU_INFO, VcpuOp.REGISTER_VCPU_TIME_MEMORY_AREA,
    )
}  # fmt: skip


def vcpu_op(v: HvmVcpu, a: list[int]) -> int:
    """Time and vcpu_info. Such a guest starts its CPUs as a PC does."""
    command, index = a[0] & 0xFFFF_FFFF, a[1] & 0xFFFF_FFFF
    if index >= MAX_VCPUS or index >= len(v.domain.vcpus):
        raise Refused(ENOENT)
    if command not in VCPU_OPERATIONS:
        raise Refused(ENOSYS)
    return VCPU_OPERATIONS[command](v, v.domain.vcpus[index], a[2])


def sched_op(v: HvmVcpu, a: list[int]) -> int:
    result = scheduling.sched_op(v, a)
    v.s.blocked = v.cpu.halted
    return result


def physdev_op(v: HvmVcpu, a: list[int]) -> int:
    """Interrupts of cards as events. A card sends them by message; there are no others (a line's are the board's)."""
    command, at, d = a[0] & 0xFFFF_FFFF, a[1], v.domain
    if not d.pirqs:
        raise Refused(ENOSYS)
    if command == PhysdevOp.GET_FREE_PIRQ:
        kind, _ = v.memory.unpack(FREE_PIRQ, at)
        free = next((pirq for pirq in d.pirqs if pirq not in d.pirqs_taken), None)
        if free is None:
            raise Refused(ENOSPC)
        v.memory.pack(FREE_PIRQ, at, kind, free)
        d.pirqs_taken.append(free)
    elif command == PhysdevOp.UNMAP_PIRQ:
        domid, pirq = v.memory.unpack(UNMAP_PIRQ, at)
        check_domain(domid)
        if pirq not in d.pirqs_taken:
            raise Refused(EINVAL)
        d.pirqs_taken.remove(pirq)
    elif command in (PhysdevOp.EOI, PhysdevOp.IRQ_STATUS_QUERY):
        (pirq,) = v.memory.unpack(U32, at)
        if pirq not in d.pirqs:
            raise Refused(EINVAL)
        if command == PhysdevOp.IRQ_STATUS_QUERY:
            v.memory.pack(U32, at + 4, 0)  # it needs no end
    elif command == PhysdevOp.MAP_PIRQ:
        raise Refused(EPERM)  # simplified: a line's interrupt does not become an event; a message's needs no mapping
    else:
        raise Refused(ENOSYS)
    return 0


HVM_CALLS: Mapping[str, Call] = {
    "memory_op": memory_op,
    "set_timer_op": scheduling.set_timer_op,
    "xen_version": queries.xen_version,
    "console_io": queries.console_io,
    "grant_table_op": grants.grant_table_op,
    "vcpu_op": vcpu_op,
    "sched_op": sched_op,
    "event_channel_op": events.event_channel_op,
    "physdev_op": physdev_op,
    "hvm_op": hvm_op,
}
