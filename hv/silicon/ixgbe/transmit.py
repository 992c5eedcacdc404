"""The transmitter of one function: its rings, and packets put together from them (7.2).

A write to a tail makes the card fetch: descriptors, then data, each a read across PCI Express. The card takes a packet
of each queue in turn, while there is room in its transmit buffer, which the line empties. A descriptor is done when its
data is in the card.
Simplified: one class of traffic; the buffer is shared out evenly among the functions, where the real card arbitrates
between their queues; descriptors are written back at once, whatever TXDCTL.WTHRESH says; a packet to be cut is fetched
as a whole; no checksum of SCTP. Where the data sheet forbids something: a head or tail outside the ring stops the
queue, a packet that is too long is dropped, one without a segment size goes as it is.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from hv.silicon.ethernet.frames import FCS, HEADER, SHORTEST, fcs, tagged
from hv.silicon.ethernet.offload import IXSM, TXSM, Context, insert_checksum, insert_checksums, number_segment
from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe.chip import dma_read, dma_write
from hv.silicon.ixgbe.rings import DESCRIPTOR, HEAD_WRITE_BACK, Segmentation, TxRing

if TYPE_CHECKING:
    from hv.silicon.ixgbe.card import IxgbeFunction

BATCH = 40  # descriptors that one read brings: so many a queue's cache holds (7.2.3.4)
BUFFER = 160 << 10  # bytes
LONGEST, LONGEST_TO_CUT = 15872 - FCS, 256 << 10  # 7.2.1.1 and 7.2.4
EOP, IFCS, IC, RS, DEXT, VLE, TSE = 1, 2, 4, 8, 32, 64, 128  # the command byte; IC only in a legacy descriptor
CONTEXT, DATA = 2, 3  # DTYP
DONE = 1  # DD
TCP_AT, UDP_AT, IP_AT = 16, 6, 10  # where the checksums are in the headers
L4_TCP, L4_SCTP, IPV4 = 1, 2, 1 << 1  # TUCMD, from bit 9 on: L4T is bits 3:2


class TransmitState(msgspec.Struct):
    """`buffer`: its frames that have not left, as (when they will have, bytes); `held`: bytes of all of them."""

    fetch: int | None = None  # when it will look at its queues
    turn: int = 0  # the queue whose turn it is
    buffer: list[tuple[int, int]] = []
    held: int = 0


class Transmitter:
    def __init__(self, function: IxgbeFunction) -> None:
        self.function, self.chip = function, function.chip

    @property
    def state(self) -> TransmitState:
        return self.function.state.transmit

    def ring(self) -> None:
        """A doorbell, or something else has changed that may let it go on."""
        s = self.state
        if s.fetch is None and self._next() is not None:
            s.fetch = self.function.slot.now + 2 * self.chip.fetch_time
            self.function.slot.reschedule()

    def forget(self) -> None:
        """A reset. What is in the buffer leaves."""
        self.state.fetch, self.state.turn = None, 0

    # --- the rings --------------------------------------------------------------------------------------------

    def work(self, now: int) -> None:
        """Fetch and send what the rings hold, as far as the buffer has room."""
        chip, s = self.chip, self.state
        s.fetch = None
        for _ in range(BATCH):
            queue = self._next()
            if queue is None:
                return
            if not self._room(now):
                s.fetch = s.buffer[0][0]
                return
            ring = chip.tx(queue)
            whole = self._cut(queue, ring, now) if ring.cutting else self._fetch(queue, ring, now)
            s.turn = queue + whole
        s.fetch = now + chip.fetch_time

    def _room(self, now: int) -> bool:
        """Is there room for another frame? It may be longer than what is left."""
        s = self.state
        while s.buffer and s.buffer[0][0] <= now:
            s.held -= s.buffer.pop(0)[1]
        return s.held < BUFFER // (1 + self.function.card.enabled_vfs)

    def _next(self) -> int | None:
        """The next queue that has something to do, from the one whose turn it is."""
        if not self.chip[reg.DMATXCTL] & reg.TRANSMIT_ENABLE:
            return None
        ready = [queue for queue in self.function.queues() if self._ready(queue)]
        return min((queue for queue in ready if queue >= self.state.turn), default=min(ready)) if ready else None

    def _ready(self, queue: int) -> bool:
        chip, ring = self.chip, self.chip.state.tx.get(queue)
        if ring is None or not ring.enabled or not (ring.available or ring.cutting):
            return False
        return not chip.pooled or chip.bit(reg.VFTE, queue // chip.per_pool)

    def _fetch(self, queue: int, ring: TxRing, now: int) -> bool:
        """The descriptor at the head. True when a packet is whole."""
        at = ring.at
        raw = dma_read(self.function.slot, at, DESCRIPTOR)
        address, low, high = struct.unpack("<QII", raw)
        command, kind = low >> 24, low >> 20 & 15
        whole = True
        if not command & DEXT or kind == DATA:
            whole = bool(command & EOP)
            self._gather(ring, address, low, high)
            if whole:
                self._finish(queue, ring, low, high, now)
        elif kind == CONTEXT:
            ring.contexts[high >> 4 & 1] = raw
        ring.step()
        if command & RS:
            self._report(ring, at, raw)
            self.function.queue_event(queue, now, sent=True)
        return whole

    def _report(self, ring: TxRing, at: int, raw: bytes) -> None:
        """Tell software: in the descriptor, or by the head (7.2.3.5)."""
        if ring.write_back_low & HEAD_WRITE_BACK:
            where = (ring.write_back_high << 32 | ring.write_back_low) & ~3
            dma_write(self.function.slot, where, ring.head.to_bytes(4, "little"))
        else:
            dma_write(self.function.slot, at + 12, bytes([raw[12] & 0xF0 | DONE]))

    # --- packets ----------------------------------------------------------------------------------------------

    def _gather(self, ring: TxRing, address: int, low: int, high: int) -> None:
        """Bring a descriptor's data into the packet. Its first descriptor says what is to be done with it."""
        if ring.command is None:
            ring.command, ring.options = low >> 24, high
        longest = LONGEST_TO_CUT if ring.command & DEXT and ring.command & TSE else LONGEST
        count = min(low & 0xFFFF, longest + 1 - len(ring.packet))
        if count > 0:
            ring.packet += dma_read(self.function.slot, address, count)

    def _finish(self, queue: int, ring: TxRing, low: int, high: int, now: int) -> None:
        """A packet is whole."""
        packet, first, options = ring.packet, ring.command or 0, ring.options
        ring.packet, ring.command = bytearray(), None
        tag: int | None
        if not first & DEXT:
            if low >> 24 & IC:
                insert_checksum(packet, high >> 8 & 0xFF, low >> 16 & 0xFF, 0)
            tag = high >> 16 if low >> 24 & VLE else None
        else:
            raw = ring.contexts[options >> 4 & 1]
            context = parse_context(raw)
            tag = int.from_bytes(raw[2:4], "little") if first & VLE else None
            if first & TSE and context.mss and context.header + context.mss <= LONGEST:
                header, payload = bytes(packet[: context.header]), bytes(packet[context.header :])
                if len(packet) <= LONGEST_TO_CUT:
                    ring.cutting = Segmentation(raw, options, tag, header, payload)
                return
            insert_checksums(packet, context, wanted_sums(raw, options))
        frame = bytes(packet)
        if not low >> 24 & IFCS:  # software has computed it; nobody takes a frame with a wrong one
            if frame[-FCS:] != fcs(frame[:-FCS]):
                return
            frame = frame[:-FCS]
        self._emit(queue, frame, tag, now)

    def _cut(self, queue: int, ring: TxRing, now: int) -> bool:
        """The next segment of a packet that is too long for the line (7.2.4). True when it was the last."""
        cut = ring.cutting
        assert cut is not None
        context = parse_context(cut.context)
        payload = cut.payload[cut.sent : cut.sent + context.mss]
        last = cut.sent + len(payload) >= len(cut.payload)
        packet = bytearray(cut.header + payload)
        flags = self.chip[reg.DTXTCPFLGH] if last else self.chip[reg.DTXTCPFLGL] >> (16 if cut.index else 0)
        options = wanted_sums(cut.context, cut.options)
        number_segment(packet, context, options, index=cut.index, sent=cut.sent, flags=flags & 0xFFF)
        insert_checksums(packet, context, options)
        cut.sent, cut.index = cut.sent + len(payload), cut.index + 1
        if last:
            ring.cutting = None
        self._emit(queue, bytes(packet), cut.tag, now)
        return last

    def _emit(self, queue: int, frame: bytes, tag: int | None, now: int) -> None:
        """To the switch. VMVIR overrules what the descriptor says of a VLAN tag; a runt reaches nobody."""
        if not HEADER <= len(frame) <= LONGEST:
            return
        if self.chip.pooled:
            rule = self.chip[reg.VMVIR + 4 * (queue // self.chip.per_pool)]
            if rule >> 30 == reg.VLAN_ALWAYS:
                tag = rule & 0xFFFF
            elif rule >> 30 == reg.VLAN_NEVER:
                tag = None
        frame = tagged(frame, tag, self.chip[reg.DMATXCTL] >> 16)
        if self.chip[reg.HLREG0] & reg.HLREG0_PAD:
            frame = frame.ljust(SHORTEST, b"\0")
        left_at = None
        if len(frame) >= SHORTEST:
            left_at = self.function.switch.send(queue, frame, now)
        if left_at is not None:
            self.state.buffer.append((left_at, len(frame)))
            self.state.held += len(frame)


def wanted_sums(raw: bytes, options: int) -> int:
    """POPTS, without what is not built."""
    sctp = raw[9] >> 3 & 3 == L4_SCTP
    return options >> 8 & (IXSM if sctp else IXSM | TXSM)


def parse_context(raw: bytes) -> Context:
    """A context descriptor (7.2.3.2.3): lengths of the headers, from which the checksums' places follow."""
    lengths, kind, mss = struct.unpack("<H6xII", raw)
    ip_start = lengths >> 9
    start = ip_start + (lengths & 0x1FF)
    command = kind >> 9 & 0x3FF
    tcp, ipv4 = command >> 2 & 3 == L4_TCP, bool(command & IPV4)
    at = start + (TCP_AT if tcp else UDP_AT)
    header = start + (mss >> 8 & 0xFF)
    # The shared form has its own two bits for TCP and IPv4.
    return Context(ip_start, ip_start + IP_AT, max(start - 1, 0), start, at, 0, 0, tcp | ipv4 << 1, header, mss >> 16)
