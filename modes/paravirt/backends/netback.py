"""The network back end: a front end's packets go to domain 0's card and onto the wire, frames from the wire to it.

After Xen's and Linux's netback (public/io/netif.h says what must be; xen-netback, what is done about nonsense). Packets
are copied out of and into granted frames. A transmit request is answered when its packet has left on the line, as by
the netback of Xen 3, whose card sent it from the front end's own page: so a full line is felt in the ring.
Offered: scatter-gather, and checksums that the card fills in. Not offered, and refused when used all the same:
segmentation (GSO), multicast control. Simplified: one queue, one event channel for both rings; no rate limit.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hv.host.wire import Wire
from modes.paravirt.abi import EINVAL, EOPNOTSUPP, Refused
from modes.paravirt.backends import netif
from modes.paravirt.backends.backend import BackendState, RingBackend
from modes.paravirt.backends.checksum import complete
from modes.paravirt.backends.cpu import BackendCpu
from modes.paravirt.backends.netif import (
    CSUM_BLANK,
    ERROR,
    EXTRA_INFO,
    FATAL_SLOTS,
    MORE_DATA,
    MOST_SLOTS,
    NULL,
    OKAY,
    Slot,
)
from modes.paravirt.backends.ring import PAGE, Ring, RingState, RunAway
from modes.paravirt.bus import FrontEnd
from modes.paravirt.grants import GrantRefused

SHORTEST, LONGEST = 60, 1518  # bytes of a frame on the wire, without FCS; with a VLAN tag
HEADER = 14
QUEUE = 32  # frames that wait for the front end; more are lost (Linux: XENVIF_QUEUE_LENGTH)
FEATURES = {
    "feature-rx-copy": "1", "feature-rx-flip": "0", "feature-sg": "1", "feature-gso-tcpv4": "0",
    "feature-gso-tcpv6": "0", "feature-ipv6-csum-offload": "0", "feature-multicast-control": "0",
    "feature-split-event-channels": "0", "multi-queue-max-queues": "1",
}  # fmt: skip


class Nonsense(Exception):
    """What no working front end does: it is not listened to any more until it connects again."""


class Sent(msgspec.Struct, frozen=True):
    """A packet on the line until `at`: then its requests are answered. `extras`: behind the first of them."""

    at: int
    ids: list[int]
    extras: int


class NetbackState(BackendState):
    tx: RingState = msgspec.field(default_factory=RingState)
    rx: RingState = msgspec.field(default_factory=RingState)
    sent: list[Sent] = []
    arrived: list[bytes] = []  # frames for the front end
    line_free: int = 0


class Netback(RingBackend[NetbackState]):
    """A worker of domain 0, and a device of xenbus. `mac`: the front end's address, 6 bytes."""

    kind, number = "vif", 0

    def __init__(self, cpu: BackendCpu, wire: Wire, mac: bytes) -> None:
        super().__init__(cpu)
        self.wire = wire
        self.front_nodes: Mapping[str, str] = {"mac": mac.hex(":")}
        self.send = wire.plug_card(self._receive)
        self.tx: Ring  # this and rx while connected
        self.rx: Ring
        self.s = NetbackState()

    # --- xenbus -----------------------------------------------------------------------------------------------

    def offer(self) -> Mapping[str, str]:
        return {**FEATURES, **self.front_nodes, "hotplug-status": "connected"}

    def connect(self, front: FrontEnd) -> Mapping[str, str]:
        if not front.number("request-rx-copy", 0):
            raise Refused(EOPNOTSUPP)  # to flip pages is what no back end does any more
        if front.number("multi-queue-num-queues", 1) != 1:
            raise Refused(EINVAL)
        grants = front.grants
        tx = grants.map(front.number("tx-ring-ref"), write=True)
        try:
            rx = grants.map(front.number("rx-ring-ref"), write=True)
        except (Refused, GrantRefused):
            grants.unmap(tx.handle)
            raise
        self.front = front
        self.tx, self.rx = Ring(tx, netif.TX_REQUEST.size), Ring(rx, netif.RX_REQUEST.size)
        self.s = NetbackState(True, tx=self.tx.state, rx=self.rx.state, line_free=self.s.line_free)
        self.kicked()  # it may have put something into the rings before it said that it is there
        return {}

    def disconnect(self) -> None:
        for ring in (self.tx, self.rx):
            self.front.grants.unmap(ring.state.handle)
        self.s = NetbackState(line_free=self.s.line_free)
        self.cpu.reschedule()

    def set_state(self, state: NetbackState, front: FrontEnd | None) -> None:
        self.s = state
        if front is not None:
            self.front = front
            self.tx = Ring(front.grants.view(state.tx.handle), netif.TX_REQUEST.size, state.tx)
            self.rx = Ring(front.grants.view(state.rx.handle), netif.RX_REQUEST.size, state.rx)

    # --- a worker of domain 0 ---------------------------------------------------------------------------------

    def next_done(self) -> int | None:
        return self.s.sent[0].at if self.s.sent else None

    def advance(self, now: int) -> None:
        s = self.s
        try:
            while s.sent and s.sent[0].at <= now:
                packet = s.sent.pop(0)
                self._answer(packet.ids, packet.extras, OKAY)
            if s.wake is not None and s.wake <= now:
                s.wake = None
                self._take_packets(now)
                self._give_frames()
            self._tell()
        except (RunAway, Nonsense) as what:
            self.refused["run away" if isinstance(what, RunAway) else str(what)] += 1
            s.broken, s.wake = True, None
            s.sent, s.arrived = [], []

    def _tell(self) -> None:
        """Show the responses, and say so if the front end wants to know."""
        wanted = [ring.push() for ring in (self.tx, self.rx)]
        if any(wanted):
            self.front.notify()

    # --- to the wire ------------------------------------------------------------------------------------------

    def _take_packets(self, now: int) -> None:
        """Everything that is in the ring. Work is bounded: there are no more requests than the ring has entries."""
        s = self.s
        while self.tx.waiting() or self.tx.final_check():
            slots, extras = self._take_slots()
            frame = self._check_extras(extras) and self._fetch(slots)
            ids = [slot.id for slot in slots]
            if not frame:
                self._answer(ids, len(extras), ERROR)
                continue
            frame = frame.ljust(SHORTEST, b"\0")
            s.line_free = max(s.line_free, now) + self.wire.frame_time(frame)
            self.send(frame, s.line_free)
            s.sent.append(Sent(s.line_free, ids, len(extras)))

    def _take_slots(self) -> tuple[list[Slot], list[tuple[int, bytes]]]:
        """The requests of one packet, and the extra information between the first two."""
        slots = [self._take_slot()]
        extras = self._take_extras() if slots[0].flags & EXTRA_INFO else []
        while slots[-1].flags & MORE_DATA:
            if not self.tx.waiting():
                raise Nonsense("packet without an end")
            if len(slots) == FATAL_SLOTS:
                raise Nonsense("packet of too many slots")
            slots.append(self._take_slot())
        slots[0] = slots[0]._replace(size=slots[0].size - sum(slot.size for slot in slots[1:]))
        if any(slot.offset + slot.size > PAGE for slot in slots):
            raise Nonsense("slot across a page's end")
        return slots, extras

    def _take_slot(self) -> Slot:
        return Slot(*netif.TX_REQUEST.unpack(self.tx.take()))

    def _take_extras(self) -> list[tuple[int, bytes]]:
        extras = []
        more = netif.EXTRA_MORE
        while more:
            if not self.tx.waiting():
                raise Nonsense("no extra information")
            kind, flags, data = netif.EXTRA.unpack_from(self.tx.take())
            if not netif.EXTRA_GSO <= kind <= netif.EXTRA_XDP:
                raise Nonsense("unknown extra information")
            extras.append((kind, data))
            more = flags & netif.EXTRA_MORE
        return extras

    def _check_extras(self, extras: list[tuple[int, bytes]]) -> bool:
        """Nothing that was not offered is asked for. A packet's hash and headroom are hints."""
        refused = {kind for kind, _ in extras} & {netif.EXTRA_GSO, netif.EXTRA_MCAST_ADD, netif.EXTRA_MCAST_DEL}
        if refused:
            self.refused["not offered"] += 1
        return not refused

    def _fetch(self, slots: list[Slot]) -> bytes | None:
        """The frame, copied, its checksum in place. None: refused."""
        total = sum(slot.size for slot in slots)
        if len(slots) > MOST_SLOTS or not HEADER <= total <= LONGEST or slots[0].size < 0:
            self.refused["size"] += 1
            return None
        try:
            frame = b"".join(self.front.grants.read(slot.gref, slot.offset, slot.size) for slot in slots)
        except GrantRefused:
            self.refused["grant"] += 1
            return None
        if slots[0].flags & CSUM_BLANK:
            whole = complete(frame)
            if whole is None:
                self.refused["checksum"] += 1
            return whole
        return frame

    def _answer(self, ids: list[int], extras: int, status: int) -> None:
        """One response a slot; those of extra information say nothing."""
        for place, id in enumerate(ids):
            self.tx.answer(netif.TX_RESPONSE.pack(id, status))
            if place == 0:
                for _ in range(extras):
                    self.tx.answer(netif.TX_RESPONSE.pack(0, NULL))

    # --- from the wire ----------------------------------------------------------------------------------------

    def _receive(self, frame: bytes, at: int) -> None:
        """A frame has come in. Without a front end, or when too many wait, it is lost."""
        s = self.s
        if not s.connected or s.broken or len(s.arrived) == QUEUE or len(frame) > LONGEST:
            self.refused["frame"] += 1
            return
        s.arrived.append(frame)
        if s.wake is None:
            s.wake = at + self.cpu.delay

    def _give_frames(self) -> None:
        """Into the buffers that the front end has given. When there are none, ask for an event with the next one."""
        s = self.s
        while s.arrived:
            if not self.rx.waiting() and not self.rx.final_check():
                return
            frame = s.arrived.pop(0)
            id, _, gref = netif.RX_REQUEST.unpack(self.rx.take())
            status = len(frame)
            try:
                self.front.grants.write(gref, 0, frame)
            except GrantRefused:
                self.refused["grant"] += 1
                status = ERROR
            self.rx.answer(netif.RX_RESPONSE.pack(id, 0, 0, status))
