"""The receiver of one function: frames that wait in the receive buffer, and the rings that they go to (7.1).

A frame goes to its queue's descriptors, and waits for them if there are none, unless the queue is to drop then (QDE,
SRRCTL.Drop_En); what no longer fits into the buffer of the card is lost and counted.
Simplified: a frame that waits holds up its own function only; descriptors are written back one by one; the forms of
descriptors that split headers work as the advanced form with one buffer; no receive-side coalescing.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from hv.silicon.ethernet.frames import fcs
from hv.silicon.ethernet.internet import SCTP, TCP, UDP, Internet, inspect
from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe import statistics as stat
from hv.silicon.ixgbe.chip import dma_read, dma_write
from hv.silicon.ixgbe.rings import BUFFER_KIB, DROP, KIND_SHIFT, LEGACY, VLAN_STRIP, RxRing

if TYPE_CHECKING:
    from hv.silicon.ixgbe.card import IxgbeFunction

# The advanced form's status and errors (7.1.6.2); the legacy form has those below bit 8 and above bit 24 too.
DD, EOP, VP, UDPCS, L4CS, IPCS, PIF, UDPV, LOOPED = 1, 2, 8, 16, 32, 64, 128, 1 << 10, 1 << 18
L4E, IPE = 1 << 30, 1 << 31
PACKET_TYPES = {TCP: 0x100, UDP: 0x200, SCTP: 0x400}
IPV4_TYPE, IPV4_OPTIONS_TYPE, IPV6_TYPE = 0x10, 0x20, 0x40
LONGEST_BUFFER = 16  # KiB
BUFFER = 512 << 10  # the card's, in bytes


class Arrival(msgspec.Struct, frozen=True):
    """A frame in the receive buffer, from `at` on, for a queue."""

    at: int
    queue: int
    frame: bytes
    loopback: bool
    inexact: bool  # it passed no filter that knows its whole address


class ReceiveState(msgspec.Struct):
    waiting: list[Arrival] = []  # by time
    done: int = 0  # bytes of the first of them that are stored
    look: int | None = None  # when the first of them can go on


class Receiver:
    def __init__(self, function: IxgbeFunction) -> None:
        self.function, self.chip = function, function.chip

    @property
    def state(self) -> ReceiveState:
        return self.function.state.receive

    def arrive(self, arrival: Arrival) -> None:
        """A frame for this function, into the card's receive buffer."""
        chip, s = self.chip, self.state
        if chip.state.buffered + len(arrival.frame) > min(chip[reg.RXPBSIZE], BUFFER):
            self.function.statistics.count(stat.MPC)
            chip.functions[0].interrupts.raise_other(reg.RX_MISS)
            return
        chip.state.buffered += len(arrival.frame)
        index = len(s.waiting)
        while index and s.waiting[index - 1].at > arrival.at:
            index -= 1
        s.waiting.insert(index, arrival)
        if index == 0:
            s.look = arrival.at
            self.function.slot.reschedule()

    def refill(self) -> None:
        """There may be new descriptors; the card fetches them."""
        if self.state.waiting and self.state.look is None:
            self.state.look = self.function.slot.now + self.chip.fetch_time
            self.function.slot.reschedule()

    def work(self, now: int) -> None:
        """Store what has arrived, as far as there are descriptors."""
        s = self.state
        s.look = None
        while s.waiting and s.waiting[0].at <= now:
            if not self._store(s.waiting[0], now):
                return
            self.chip.state.buffered -= len(s.waiting[0].frame)
            del s.waiting[0]
            s.done = 0
        if s.waiting:
            s.look = s.waiting[0].at

    def forget(self) -> None:
        """A reset: what waits is gone."""
        self.chip.state.buffered -= sum(len(arrival.frame) for arrival in self.state.waiting)
        self.function.state.receive = ReceiveState()

    # --- the ring ---------------------------------------------------------------------------------------------

    def _store(self, arrival: Arrival, now: int) -> bool:
        """One frame. False: it waits for descriptors."""
        s, ring = self.state, self.chip.rx(arrival.queue)
        if not ring.enabled:
            return True
        data, tag = self._stored(ring, arrival.frame)
        size = min(ring.split & BUFFER_KIB or 1, LONGEST_BUFFER) << 10
        if ring.available < -(-(len(data) - s.done) // size) and (ring.drop or ring.split & DROP):
            self.function.statistics.queue_dropped(arrival.queue)
            return True
        while ring.available:
            part = data[s.done : s.done + size]
            dma_write(self.function.slot, int.from_bytes(dma_read(self.function.slot, ring.at, 8), "little"), part)
            s.done += len(part)
            last = s.done >= len(data)
            self._write_back(ring, arrival, len(part), tag, last=last)
            ring.step()
            if last:
                self.function.statistics.queue_received(
                    arrival.queue, arrival.queue // self.chip.per_pool, arrival.frame
                )
                self.function.queue_event(arrival.queue, now, sent=False)
                return True
        return False

    def _stored(self, ring: RxRing, frame: bytes) -> tuple[bytes, int | None]:
        """What goes to memory, and the VLAN tag that was taken out of it."""
        tag = None
        stored = frame
        if ring.control & VLAN_STRIP and self.function.switch.vlan(frame) is not None:
            tag, stored = int.from_bytes(frame[14:16], "big"), frame[:12] + frame[16:]
        return stored if self.chip[reg.HLREG0] & reg.HLREG0_CRC_STRIP else stored + fcs(frame), tag

    def _write_back(self, ring: RxRing, arrival: Arrival, length: int, tag: int | None, *, last: bool) -> None:
        """The descriptor, as software finds it (7.1.5 and 7.1.6.2)."""
        status = DD | EOP * last | (VP if tag is not None else 0)
        kind = 0
        if last:
            tagged = self.function.switch.vlan(arrival.frame) is not None
            plain = arrival.frame[:12] + arrival.frame[16:] if tagged else arrival.frame
            found = inspect(plain)
            status |= PIF * arrival.inexact | LOOPED * arrival.loopback | _checked(found)
            kind = _packet_type(found)
        if ring.split >> KIND_SHIFT & 7 == LEGACY:
            old = struct.pack("<HHBBH", length, 0, status & 0xFF, status >> 24 & 0xC0, tag or 0)
            dma_write(self.function.slot, ring.at + 8, old)
        else:
            dma_write(self.function.slot, ring.at, struct.pack("<IIIHH", kind, 0, status, length, tag or 0))


def _checked(found: Internet | None) -> int:
    """Checksum offload: what was looked at, and what is wrong (7.1.11)."""
    if found is None:
        return 0
    status = IPCS if found.version == 4 else 0
    status |= 0 if found.header_good else IPE
    if found.payload_good is not None:
        status |= L4CS | (UDPCS | UDPV if found.protocol == UDP else 0)
        status |= 0 if found.payload_good else L4E
    return status


def _packet_type(found: Internet | None) -> int:
    if found is None:
        return 0
    ip = IPV6_TYPE if found.version == 6 else IPV4_TYPE | (IPV4_OPTIONS_TYPE if found.options else 0)
    return ip | PACKET_TYPES.get(found.protocol or 0, 0)
