"""The hypercall event_channel_op (public/event_channel.h)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from modes.paravirt.abi import (
    BACKEND_DOMID,
    DOMID_SELF,
    EINVAL,
    ENOSYS,
    EPERM,
    ESRCH,
    EVENT_CHANNELS,
    GUEST_DOMID,
    Evtchn,
    Refused,
)
from modes.paravirt.common import XenVcpu
from modes.paravirt.events import CLOSED, INTERDOMAIN, PIRQ, UNBOUND
from modes.paravirt.events import VIRQ as VIRQ_KIND
from modes.paravirt.state import Channel

U32, U32_PAIR = struct.Struct("<I"), struct.Struct("<II")
DOMAINS, INTERDOMAIN_ARGS, STATUS = struct.Struct("<HHI"), struct.Struct("<H2xII"), struct.Struct("<H2xI")
PORT_AT_4, PORT_AT_8 = 4, 8


def _self(v: XenVcpu, domid: int) -> None:
    if domid not in (DOMID_SELF, v.domain.domid):
        raise Refused(EPERM if domid == BACKEND_DOMID else ESRCH)


def _alloc_unbound(v: XenVcpu, at: int) -> None:
    domid, remote, _ = v.memory.unpack(DOMAINS, at)
    _self(v, domid)
    port = v.domain.events.alloc_unbound(GUEST_DOMID if remote == DOMID_SELF else remote)
    v.memory.pack(U32, at + PORT_AT_4, port)


def _bind_interdomain(v: XenVcpu, at: int) -> None:
    domid, remote_port, _ = v.memory.unpack(INTERDOMAIN_ARGS, at)
    port = v.domain.events.bind_interdomain(GUEST_DOMID if domid == DOMID_SELF else domid, remote_port)
    v.memory.pack(U32, at + PORT_AT_8, port)


def _bind_virq(v: XenVcpu, at: int) -> None:
    virq, vcpu = v.memory.unpack(U32_PAIR, at)
    v.memory.pack(U32, at + PORT_AT_8, v.domain.events.bind_virq(virq, vcpu))


def _bind_pirq(v: XenVcpu, at: int) -> None:
    (pirq,) = v.memory.unpack(U32, at)
    if not v.domain.pirqs:
        raise Refused(EPERM)
    if pirq not in v.domain.pirqs:
        raise Refused(EINVAL)
    v.memory.pack(U32, at + PORT_AT_8, v.domain.events.bind_pirq(pirq))


def _bind_ipi(v: XenVcpu, at: int) -> None:
    (vcpu,) = v.memory.unpack(U32, at)
    v.memory.pack(U32, at + PORT_AT_4, v.domain.events.bind_ipi(vcpu))


def _close(v: XenVcpu, at: int) -> None:
    v.domain.events.close(v.memory.unpack(U32, at)[0])


def _send(v: XenVcpu, at: int) -> None:
    v.domain.events.send(v.memory.unpack(U32, at)[0])


def _status(v: XenVcpu, at: int) -> None:
    domid, port = v.memory.unpack(STATUS, at)
    _self(v, domid)
    if port >= EVENT_CHANNELS:
        raise Refused(EINVAL)
    channel = v.domain.events.channels.get(port, Channel(CLOSED))
    detail = struct.pack("<II", 0, 0)
    if channel.kind in (UNBOUND, INTERDOMAIN):
        detail = struct.pack("<H2xI", channel.remote_domid, channel.remote_port)
    elif channel.kind in (PIRQ, VIRQ_KIND):
        detail = struct.pack("<II", channel.virq, 0)
    v.memory.write(at + 8, struct.pack("<II", channel.kind, channel.vcpu) + detail)


def _bind_vcpu(v: XenVcpu, at: int) -> None:
    port, vcpu = v.memory.unpack(U32_PAIR, at)
    v.domain.events.bind_vcpu(port, vcpu)


def _unmask(v: XenVcpu, at: int) -> None:
    v.domain.events.unmask(v.memory.unpack(U32, at)[0])


def _reset(v: XenVcpu, at: int) -> None:
    _self(v, int.from_bytes(v.memory.read(at, 2), "little"))
    v.domain.events.reset()


OPERATIONS: dict[int, Callable[[XenVcpu, int], None]] = {
    Evtchn.BIND_INTERDOMAIN: _bind_interdomain,
    Evtchn.BIND_VIRQ: _bind_virq,
    Evtchn.BIND_PIRQ: _bind_pirq,
    Evtchn.CLOSE: _close,
    Evtchn.SEND: _send,
    Evtchn.STATUS: _status,
    Evtchn.ALLOC_UNBOUND: _alloc_unbound,
    Evtchn.BIND_IPI: _bind_ipi,
    Evtchn.BIND_VCPU: _bind_vcpu,
    Evtchn.UNMASK: _unmask,
    Evtchn.RESET: _reset,
}


def event_channel_op(v: XenVcpu, a: list[int]) -> int:
    operation = OPERATIONS.get(a[0] & 0xFFFF_FFFF)
    if operation is None:
        raise Refused(ENOSYS)
    operation(v, a[1])
    return 0
