"""Event channels, the two-level ABI: pending and mask bits in shared_info, a selector a vCPU.

    send(port):  pending[port] = 1;  if not mask[port]:  vcpu.selector[port / 64] = 1;  vcpu.upcall_pending = 1

A vCPU takes an upcall when upcall_pending is set and its upcall_mask is not (public/xen.h). The other end of an
interdomain channel is this domain itself, or `backends`: what in hv stands for domain 0.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.silicon.memory import Memory
from modes.paravirt.abi import (
    BACKEND_DOMID,
    EEXIST,
    EINVAL,
    ENOENT,
    ENOSPC,
    ESRCH,
    EVENT_CHANNELS,
    GUEST_DOMID,
    NR_VIRQS,
    PER_VCPU_VIRQS,
    Refused,
)
from modes.paravirt.state import Channel, VcpuState

CLOSED, UNBOUND, INTERDOMAIN, PIRQ, VIRQ, IPI = range(6)
PENDING, MASK = 0x800, 0xA00  # offsets in shared_info: 64 words each
UPCALL_PENDING, UPCALL_MASK, SELECTOR, CR2, TIME = 0, 1, 8, 16, 32  # offsets in vcpu_info


class Events:
    """The channels of the domain. `kick(vcpu)` is told when an upcall has become pending on a vCPU."""

    def __init__(self, memory: Memory, vcpus: list[VcpuState], kick: Callable[[int], None]) -> None:
        self.memory, self.vcpus, self.kick = memory, vcpus, kick
        self.channels: dict[int, Channel] = {}
        self.shared = 0  # machine address of shared_info
        self.backends: dict[int, Callable[[], None]] = {}  # by the backend's port: what a notification calls

    # --- bits -------------------------------------------------------------------------------------------------

    def _set(self, address: int, bit: int) -> bool:
        """Set a bit in memory that the guest shares. True when it was clear."""
        at = address + bit // 64 * 8
        word = self.memory.read_u64(at)
        self.memory.write_u64(at, word | 1 << bit % 64)
        return not word >> bit % 64 & 1

    def _clear(self, address: int, bit: int) -> bool:
        at = address + bit // 64 * 8
        word = self.memory.read_u64(at)
        self.memory.write_u64(at, word & ~(1 << bit % 64))
        return bool(word >> bit % 64 & 1)

    def is_pending(self, port: int) -> bool:
        return bool(self.memory.read_u64(self.shared + PENDING + port // 64 * 8) >> port % 64 & 1)

    def raise_port(self, port: int) -> None:
        """The channel's event happens."""
        channel = self.channels[port]
        v = self.vcpus[channel.vcpu]
        if self._set(self.shared + PENDING, port):
            masked = self.memory.read_u64(self.shared + MASK + port // 64 * 8) >> port % 64 & 1
            if not masked and self._set(v.info + SELECTOR, port // 64):
                self.mark_pending(channel.vcpu)
        if port in v.polled:
            self.kick(channel.vcpu)

    def mark_pending(self, vcpu: int) -> None:
        info = self.vcpus[vcpu].info
        if not self.memory.read(info + UPCALL_PENDING, 1)[0]:
            self.memory.write(info + UPCALL_PENDING, b"\1")
            self.kick(vcpu)

    def upcall_due(self, v: VcpuState) -> bool:
        pending, mask = self.memory.read(v.info, 2)
        return bool(pending and not mask)

    # --- the operations ---------------------------------------------------------------------------------------

    def channel(self, port: int) -> Channel:
        if port not in self.channels:
            raise Refused(EINVAL)
        return self.channels[port]

    def _vcpu(self, vcpu: int) -> int:
        if vcpu >= len(self.vcpus):
            raise Refused(ENOENT)
        return vcpu

    def _free_port(self) -> int:
        for port in range(1, EVENT_CHANNELS):  # port 0 is never given out
            if port not in self.channels:
                return port
        raise Refused(ENOSPC)

    def open(self, channel: Channel) -> int:
        port = self._free_port()
        self._clear(self.shared + PENDING, port)
        self.channels[port] = channel
        return port

    def alloc_unbound(self, remote: int) -> int:
        return self.open(Channel(UNBOUND, 0, remote))

    def bind_interdomain(self, remote_domid: int, remote_port: int) -> int:
        """Connect to a channel that the other end has made for this domain."""
        if remote_domid != GUEST_DOMID:
            raise Refused(EINVAL if remote_domid == BACKEND_DOMID else ESRCH)
        other = self.channels.get(remote_port, Channel())
        if other.kind != UNBOUND or other.remote_domid != GUEST_DOMID:
            raise Refused(EINVAL)
        port = self.open(Channel(INTERDOMAIN, 0, GUEST_DOMID, remote_port))
        self.channels[remote_port] = Channel(INTERDOMAIN, other.vcpu, GUEST_DOMID, port)
        self.raise_port(port)  # so that nothing sent before the connection is missed
        return port

    def bind_backend(self, backend_port: int) -> int:
        """A channel whose other end is domain 0's, as the domain builder makes for console and store."""
        return self.open(Channel(INTERDOMAIN, 0, BACKEND_DOMID, backend_port))

    def connect_backend(self, port: int, backend_port: int) -> None:
        """Domain 0 binds its end `backend_port` to a channel that the guest has made for it. Raises Refused(EINVAL)."""
        channel = self.channels.get(port, Channel())
        if channel.kind != UNBOUND or channel.remote_domid != BACKEND_DOMID:
            raise Refused(EINVAL)
        self.channels[port] = channel._replace(kind=INTERDOMAIN, remote_port=backend_port)

    def disconnect_backend(self, port: int, backend_port: int) -> None:
        """Domain 0 closes its end; the guest's is unbound again, if the guest has not closed it itself."""
        if self._is_backends(port, backend_port):
            self.channels[port] = self.channels[port]._replace(kind=UNBOUND, remote_port=0)

    def notify(self, port: int, backend_port: int) -> None:
        """Domain 0's event at its end of a channel. Nothing happens if the guest has closed the other."""
        if self._is_backends(port, backend_port):
            self.raise_port(port)

    def _is_backends(self, port: int, backend_port: int) -> bool:
        channel = self.channels.get(port, Channel())
        return (channel.kind, channel.remote_domid, channel.remote_port) == (INTERDOMAIN, BACKEND_DOMID, backend_port)

    def bind_virq(self, virq: int, vcpu: int) -> int:
        if virq >= NR_VIRQS:
            raise Refused(EINVAL)
        if virq not in PER_VCPU_VIRQS and vcpu:
            raise Refused(EINVAL)
        self._vcpu(vcpu)
        if any(c.kind == VIRQ and c.virq == virq and c.vcpu == vcpu for c in self.channels.values()):
            raise Refused(EEXIST)
        return self.open(Channel(VIRQ, vcpu, virq=virq))

    def bind_pirq(self, pirq: int) -> int:
        """A physical interrupt that the guest may have."""
        if any(c.kind == PIRQ and c.virq == pirq for c in self.channels.values()):
            raise Refused(EEXIST)
        return self.open(Channel(PIRQ, virq=pirq))

    def bind_ipi(self, vcpu: int) -> int:
        return self.open(Channel(IPI, self._vcpu(vcpu)))

    def close(self, port: int) -> None:
        channel = self.channel(port)
        if channel.kind == INTERDOMAIN and channel.remote_domid == GUEST_DOMID:
            other = self.channels[channel.remote_port]
            self.channels[channel.remote_port] = Channel(UNBOUND, other.vcpu, GUEST_DOMID)
        self._clear(self.shared + PENDING, port)
        del self.channels[port]

    def send(self, port: int) -> None:
        channel = self.channel(port)
        if channel.kind == INTERDOMAIN:
            if channel.remote_domid == GUEST_DOMID:
                self.raise_port(channel.remote_port)
            else:
                self.backends.get(channel.remote_port, lambda: None)()
        elif channel.kind == IPI:
            self.raise_port(port)
        elif channel.kind != UNBOUND:
            raise Refused(EINVAL)

    def bind_vcpu(self, port: int, vcpu: int) -> None:
        self._vcpu(vcpu)
        channel = self.channel(port)
        if channel.kind == IPI or (channel.kind == VIRQ and channel.virq in PER_VCPU_VIRQS):
            raise Refused(EINVAL)
        self.channels[port] = channel._replace(vcpu=vcpu)

    def unmask(self, port: int) -> None:
        channel = self.channel(port)
        self._clear(self.shared + MASK, port)
        if self.is_pending(port) and self._set(self.vcpus[channel.vcpu].info + SELECTOR, port // 64):
            self.mark_pending(channel.vcpu)

    def reset(self) -> None:
        for port in sorted(self.channels):
            self.close(port)

    def raise_pirq(self, pirq: int) -> None:
        """The physical interrupt has come. Nobody may be listening."""
        for port, channel in self.channels.items():
            if channel.kind == PIRQ and channel.virq == pirq:
                self.raise_port(port)
                return

    def raise_virq(self, virq: int, vcpu: int) -> None:
        """A virtual interrupt of Xen's. Nobody may be listening."""
        for port, channel in self.channels.items():
            if channel.kind == VIRQ and channel.virq == virq and channel.vcpu == vcpu:
                self.raise_port(port)
                return
