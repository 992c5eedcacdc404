"""Hypercalls about running, waiting and time: sched_op, set_timer_op, vcpu_op (public/sched.h, vcpu.h)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from modes.paravirt.abi import (
    EINVAL,
    ENOENT,
    ENOSYS,
    EPERM,
    ETIME,
    EVENT_CHANNELS,
    MAX_VCPUS,
    SHUTDOWN_REASONS,
    SSHOTTMR_FUTURE,
    VIRQ_TIMER,
    Refused,
    Sched,
    VcpuOp,
)
from modes.paravirt.calls.again import U32
from modes.paravirt.common import XenVcpu
from modes.paravirt.events import UPCALL_MASK
from modes.paravirt.startup import initialise
from modes.paravirt.vcpu import PvVcpu

POLL = struct.Struct("<QI4xQ")
SINGLESHOT = struct.Struct("<QI4x")
U64 = struct.Struct("<Q")
RUNSTATE = struct.Struct("<i4xQ4Q")
MOST_POLLED = 128
SHORTEST_PERIOD = 1_000_000  # ns, as in Xen
RUNNING, BLOCKED, OFFLINE = 0, 2, 3
TIMER_NEVER = (1 << 62) - 1

Operation = Callable[[Any, Any, int], int]


# --- sched_op ---------------------------------------------------------------------------------------------------------


def sched_op(v: XenVcpu, a: list[int]) -> int:
    command, argument = a[0] & 0xFFFF_FFFF, a[1]
    if command == Sched.YIELD:
        return 0
    if command == Sched.BLOCK:
        return block(v)
    if command == Sched.SHUTDOWN:
        (reason,) = v.memory.unpack(U32, argument)
        if reason not in SHUTDOWN_REASONS:
            raise Refused(EINVAL)
        v.domain.end(*SHUTDOWN_REASONS[reason])
        return 0
    if command == Sched.POLL:
        return _poll(v, argument)
    raise Refused(ENOSYS)


def block(v: XenVcpu) -> int:
    """Unmask events, and sleep until there is one."""
    v.domain.memory.write(v.s.info + UPCALL_MASK, b"\0")
    if not v.domain.events.upcall_due(v.s):
        v.cpu.halted = True
    return 0


def _poll(v: XenVcpu, argument: int) -> int:
    """Sleep until one of some ports is pending, masked or not, or until a time."""
    at, count, until = v.memory.unpack(POLL, argument)
    if count > MOST_POLLED:
        raise Refused(EINVAL)
    ports = struct.unpack(f"<{count}I", v.memory.read(at, 4 * count))
    if any(port >= EVENT_CHANNELS for port in ports):
        raise Refused(EINVAL)
    if any(v.domain.events.is_pending(port) for port in ports):
        return 0
    v.s.polled, v.s.poll_until = frozenset(ports), until or None
    v.cpu.halted = True
    return 0


# --- time -------------------------------------------------------------------------------------------------------------


def set_timer_op(v: XenVcpu, a: list[int]) -> int:
    """VIRQ_TIMER at a system time in ns; 0: never."""
    v.s.timer = min(a[0], TIMER_NEVER) if a[0] else None
    return 0


# --- vcpu_op ----------------------------------------------------------------------------------------------------------


def vcpu_op(v: XenVcpu, a: list[int]) -> int:
    command, index, argument = a[0] & 0xFFFF_FFFF, a[1] & 0xFFFF_FFFF, a[2]
    if index >= MAX_VCPUS or index >= len(v.domain.vcpus):
        raise Refused(ENOENT)
    operation = OPERATIONS.get(command)
    if operation is None:
        raise Refused(ENOSYS)
    return operation(v, v.domain.vcpus[index], argument)


def _is_up(v: XenVcpu, of: XenVcpu, at: int) -> int:
    return int(of.s.up)


def _initialise(v: PvVcpu, of: PvVcpu, at: int) -> int:
    initialise(v, of, at)
    return 0


def _up(v: PvVcpu, of: PvVcpu, at: int) -> int:
    if not of.s.initialised:
        raise Refused(EINVAL)
    if not of.s.up:
        of.s.up = True
        of.s.state_since = v.domain.nanoseconds()
        v.domain.events.kick(of.index)
    return 0


def _down(v: PvVcpu, of: PvVcpu, at: int) -> int:
    """Only itself: simplified. It runs no further until somebody else brings it up."""
    if of is not v or sum(s.up for s in v.domain.states) == 1:
        raise Refused(EINVAL)
    of.s.up = False
    of.cpu.halted = True
    return 0


def _runstate(v: XenVcpu, of: XenVcpu, at: int) -> int:
    state = RUNNING if of is v else BLOCKED if of.s.up else OFFLINE
    now = v.domain.nanoseconds()
    v.memory.pack(RUNSTATE, at, state, of.s.state_since, now, 0, 0, 0)  # simplified: time in "running" is all time
    return 0


def _register_runstate(v: XenVcpu, of: XenVcpu, at: int) -> int:
    (address,) = v.memory.unpack(U64, at)
    return _runstate(v, of, address) if address else 0


def _register_time(v: XenVcpu, of: XenVcpu, at: int) -> int:
    """A second copy of the clock at an address of the guest's."""
    (address,) = v.memory.unpack(U64, at)
    v.memory.write(address, v.domain.clock())
    return 0


def _set_periodic(v: XenVcpu, of: XenVcpu, at: int) -> int:
    (period,) = v.memory.unpack(U64, at)
    if period < SHORTEST_PERIOD or period >= 1 << 62:
        raise Refused(EINVAL)
    of.s.period, of.s.next_period = period, v.domain.nanoseconds() + period
    return 0


def _stop_periodic(v: XenVcpu, of: XenVcpu, at: int) -> int:
    of.s.period = 0
    return 0


def _set_singleshot(v: XenVcpu, of: XenVcpu, at: int) -> int:
    if of is not v:
        raise Refused(EINVAL)
    time, flags = v.memory.unpack(SINGLESHOT, at)
    if flags & SSHOTTMR_FUTURE and time < v.domain.nanoseconds():
        raise Refused(ETIME)
    of.s.timer = min(time, TIMER_NEVER)
    return 0


def _stop_singleshot(v: XenVcpu, of: XenVcpu, at: int) -> int:
    if of is not v:
        raise Refused(EINVAL)
    of.s.timer = None
    return 0


def _register_info(v: XenVcpu, of: XenVcpu, at: int) -> int:
    """Move a vCPU's vcpu_info to a page of the guest's own."""
    mfn, offset, _ = v.memory.unpack(struct.Struct("<QII"), at)
    v.domain.move_info(of, mfn, offset)
    return 0


def _send_nmi(v: XenVcpu, of: XenVcpu, at: int) -> int:
    raise Refused(EPERM)


OPERATIONS: dict[int, Operation] = {
    VcpuOp.INITIALISE: _initialise,
    VcpuOp.UP: _up,
    VcpuOp.DOWN: _down,
    VcpuOp.IS_UP: _is_up,
    VcpuOp.GET_RUNSTATE_INFO: _runstate,
    VcpuOp.REGISTER_RUNSTATE_MEMORY_AREA: _register_runstate,
    VcpuOp.SET_PERIODIC_TIMER: _set_periodic,
    VcpuOp.STOP_PERIODIC_TIMER: _stop_periodic,
    VcpuOp.SET_SINGLESHOT_TIMER: _set_singleshot,
    VcpuOp.STOP_SINGLESHOT_TIMER: _stop_singleshot,
    VcpuOp.REGISTER_VCPU_INFO: _register_info,
    VcpuOp.SEND_NMI: _send_nmi,
    VcpuOp.REGISTER_VCPU_TIME_MEMORY_AREA: _register_time,
}


def expire(v: XenVcpu) -> None:
    """What is due by now: VIRQ_TIMER, one or many periods of it, or the end of a poll."""
    s, now = v.s, v.domain.nanoseconds()
    if s.timer is not None and s.timer <= now:
        s.timer = None
        v.domain.events.raise_virq(VIRQ_TIMER, v.index)
    if s.period and s.next_period <= now:
        s.next_period += (now - s.next_period) // s.period * s.period + s.period
        v.domain.events.raise_virq(VIRQ_TIMER, v.index)
    if s.poll_until is not None and s.poll_until <= now:
        s.poll_until = None
        s.polled = frozenset()
        v.cpu.halted = False


def next_time(v: XenVcpu) -> int | None:
    """When the next of these comes, in ns of system time."""
    s = v.s
    times = [t for t in (s.timer, s.next_period if s.period else None, s.poll_until) if t is not None]
    return min(times) if times else None
