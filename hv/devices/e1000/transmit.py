"""The transmitter of the 82540EM: the descriptor ring, and packets put together from it (8254x manual, 3.3 to 3.5).

The chip is software, and hands over like QEMU's (hw/net/e1000.c, start_xmit): the access that moves the tail gives the
host everything that the ring holds. A descriptor is done when the host has its data. The host's end is a tap device of
Linux with QEMU's first default for its send buffer, which the line empties. While that is full the ring waits; Linux
wakes who waits when less than half of it is in use (sock_writeable, include/net/sock.h; drivers/net/tun.c).
Simplified: QEMU's card would not wait, but lose frames after 10,000 more; buffers are counted by bytes on the line.
There is no transmit FIFO, so its share of PBA has no effect; descriptors are fetched one by one and written back at
once; of TXDCTL only WTHRESH and LWTHRESH count; a full-duplex line has no collisions. Where the manual forbids
something: a head or tail outside the ring stops the queue; with a segment size of 0, or one that makes a packet too
long, the data goes as one packet. A ring with more than BATCH descriptors to do takes several goes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.chip import Chip, OffloadState
from hv.devices.e1000.interrupts import Interrupts
from hv.devices.e1000.phy import Phy
from hv.devices.e1000.statistics import Statistics
from hv.silicon.ethernet.frames import FCS, HEADER, LINE_OVERHEAD, NS_PER_BYTE, SHORTEST, fcs, tagged
from hv.silicon.ethernet.offload import Context, insert_checksum, insert_checksums, number_segment

DESCRIPTOR = 16  # bytes
BATCH = 256  # descriptors at one go, so that no ring holds the host for long; a driver's ring is seldom longer
FETCH_NS = 31_000  # between two goes: so long their descriptors take on a bus of 32 bits at 33 MHz
SEND_BUFFER = 1 << 20  # bytes: TAP_DEFAULT_SNDBUF of QEMU 0.12, about as much as a host's queue of 1000 long frames
LONGEST_PACKET = 16288  # 3.3.3

# The command byte; bit 2 is IC in a legacy descriptor and TSE in the others.
EOP, IFCS, IC, TSE, RS, DEXT, VLE, IDE = 1, 2, 4, 4, 8, 32, 64, 128
CONTEXT, DATA = 0, 1  # DTYP
DONE = 1  # DD
ALL_FLAGS, FIN_PSH = 0xFFF, 0x009  # of a TCP header; only the last segment may have these two


class Transmitter:
    """`loop(frame)` takes a frame that must come back instead of going out."""

    def __init__(
        self, chip: Chip, interrupts: Interrupts, statistics: Statistics, phy: Phy, loop: Callable[[bytes], bool]
    ) -> None:
        self.chip, self.interrupts, self.statistics, self.phy, self.loop = chip, interrupts, statistics, phy, loop

    # --- the ring ---------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Fetch and send what the ring holds, as far as the host's send buffer has room."""
        chip = self.chip
        chip.stop("fetch")
        for _ in range(BATCH):
            if not self._ready():
                return
            if self._drained_to(SEND_BUFFER) > chip.now:
                chip.start("fetch", self._drained_to(SEND_BUFFER // 2))
                return
            self._fetch()
        chip.start("fetch", chip.now + chip.span(FETCH_NS))

    def _ready(self) -> bool:
        chip = self.chip
        head, tail, size = chip[reg.TDH], chip[reg.TDT], chip[reg.TDLEN] // DESCRIPTOR
        on = chip[reg.TCTL] & reg.TCTL_EN and self.phy.link and "pause" not in chip.state.timers
        return bool(on) and head != tail and max(head, tail) < size

    def _drained_to(self, size: int) -> int:
        """When the send buffer, which holds what has not left yet, will hold this many bytes."""
        return self.chip.state.wire_free - self.chip.span(size * NS_PER_BYTE[self.phy.speed])

    def _fetch(self) -> None:
        """The descriptor at the head, or the next segment of one that has more."""
        chip = self.chip
        at = (chip[reg.TDBAH] << 32 | chip[reg.TDBAL]) + DESCRIPTOR * chip[reg.TDH]
        raw = chip.dma_read(at, DESCRIPTOR)
        address, low, high = struct.unpack("<QII", raw)
        command, kind = low >> 24, low >> 20 & 15
        used_up = True
        if not command & DEXT:
            self._legacy(address, low, high)
        elif kind == DATA:
            used_up = self._data(address, low, high)
        elif kind == CONTEXT and command & TSE:
            chip.state.offload.segmentation = raw
        elif kind == CONTEXT:
            chip.state.offload.checksum = raw
        if used_up:
            self._done(at, raw, command)

    def _done(self, at: int, raw: bytes, command: int) -> None:
        """Write the descriptor back if it wants it, move the head, tell software."""
        chip = self.chip
        chip.state.descriptor_done = 0
        write_back_threshold = chip[reg.TXDCTL] >> 16 & 0x3F
        if command & RS or write_back_threshold:
            chip.dma_write(at + 12, bytes([raw[12] | DONE]))
        size = chip[reg.TDLEN] // DESCRIPTOR
        chip[reg.TDH] = (chip[reg.TDH] + 1) % size
        if command & RS:
            self.interrupts.transmitted(delay=bool(command & IDE))
        left = (chip[reg.TDT] - chip[reg.TDH]) % size
        low_threshold = 8 * (chip[reg.TXDCTL] >> 25)
        self.interrupts.raise_cause(
            (0 if left else reg.TXQE) | (reg.TXD_LOW if low_threshold and left == low_threshold else 0)
        )

    # --- packets ----------------------------------------------------------------------------------------------

    def _take(self, address: int, length: int, room: int) -> bool:
        """Bring a descriptor's data into the packet, at most `room` bytes. True when it is used up."""
        s = self.chip.state
        count = min(length - s.descriptor_done, room)
        if count > 0:
            s.packet += self.chip.dma_read(address + s.descriptor_done, count)
            s.descriptor_done += count
        return s.descriptor_done >= length

    def _legacy(self, address: int, low: int, high: int) -> None:
        """Plain data; the last descriptor says where one checksum goes, and which VLAN tag (3.3.3)."""
        s = self.chip.state
        command = low >> 24
        self._take(address, low & 0xFFFF, LONGEST_PACKET + 1 - len(s.packet))
        if command & EOP:
            if command & IC:
                insert_checksum(s.packet, high >> 8 & 0xFF, low >> 16 & 0xFF, 0)
            self._finish(self._tag(command, high), bool(command & IFCS))

    def _data(self, address: int, low: int, high: int) -> bool:
        """Data with offload (3.3.7). False: a segment has left, and there is more in this descriptor."""
        s = self.chip.state
        offload = s.offload
        length, command = low & 0xF_FFFF, low >> 24
        segmenting = bool(command & TSE)
        context = parse_context(offload.segmentation if segmenting else offload.checksum)
        if not offload.started:  # of a packet's descriptors the first has its options
            offload.started, offload.options = True, high >> 8 & 0xFF
            offload.tag = self._tag(command, high)
        if segmenting and context.mss and context.header + context.mss <= LONGEST_PACKET:
            return self._segment(context, address, length, bool(command & EOP))
        self._take(address, length, LONGEST_PACKET + 1 - len(s.packet))
        if command & EOP:
            insert_checksums(s.packet, context, offload.options)
            self._finish(offload.tag if segmenting else self._tag(command, high), segmenting or bool(command & IFCS))
        return True

    def _segment(self, context: Context, address: int, length: int, last_descriptor: bool) -> bool:
        """TCP segmentation (3.5): the first bytes are the header of every segment."""
        s = self.chip.state
        offload = s.offload
        used_up = self._take(address, length, context.header + context.mss - len(s.packet))
        if not offload.segments:
            offload.header = bytes(s.packet[: context.header])
        last = used_up and last_descriptor
        if not last and len(s.packet) < context.header + context.mss:
            return used_up
        payload = max(len(s.packet) - context.header, 0)
        if payload or not offload.segments:
            sent = offload.sent
            offload.sent += payload
            ends = last or offload.sent >= context.payload
            flags = ALL_FLAGS if ends else ALL_FLAGS & ~FIN_PSH
            number_segment(s.packet, context, offload.options, index=offload.segments, sent=sent, flags=flags)
            insert_checksums(s.packet, context, offload.options)
            offload.segments += 1
            self._emit(tagged(bytes(s.packet), offload.tag, self.chip[reg.VET]))
        if last:
            self.statistics.count(reg.TSCTC if offload.sent == context.payload else reg.TSCTFC)
            self._forget_packet()
        else:
            s.packet = bytearray(offload.header[: context.header])  # the context may have changed: it must go on
        return used_up

    def _tag(self, command: int, high: int) -> int | None:
        return high >> 16 if command & VLE and self.chip[reg.CTRL] & reg.CTRL_VME else None

    def _finish(self, tag: int | None, insert_fcs: bool) -> None:
        """A packet is whole."""
        packet = bytes(self.chip.state.packet)
        self._forget_packet()
        packet = tagged(packet, tag, self.chip[reg.VET])
        if insert_fcs:
            self._emit(packet)
        else:  # software has computed it; nobody takes a frame with a wrong one
            self._emit(packet[:-FCS], good=packet[-FCS:] == fcs(packet[:-FCS]))

    def _forget_packet(self) -> None:
        s = self.chip.state
        s.packet = bytearray()
        s.offload = OffloadState(s.offload.checksum, s.offload.segmentation)

    def _emit(self, frame: bytes, *, good: bool = True) -> None:
        """Onto the line, behind what has not left yet. A runt, or a frame with a wrong FCS, reaches nobody."""
        if not HEADER <= len(frame) <= LONGEST_PACKET:
            return
        if self.chip[reg.TCTL] & reg.TCTL_PSP:
            frame = frame.ljust(SHORTEST, b"\0")
        self.statistics.sent(frame)
        if not good or len(frame) < SHORTEST:
            self._occupy_line(len(frame))
        elif not self.loop(frame):
            self.chip.send(frame, self._occupy_line(len(frame)))

    def _occupy_line(self, length: int) -> int:
        """Returns when the frame has left."""
        s = self.chip.state
        time = self.chip.span((length + LINE_OVERHEAD) * NS_PER_BYTE[self.phy.speed])
        s.wire_free = max(s.wire_free, self.chip.now) + time
        return s.wire_free

    def control(self, frame: bytes) -> None:
        """A flow-control frame of the chip's own."""
        if self.phy.link:
            self._emit(frame.ljust(SHORTEST, b"\0"))

    def reset(self) -> None:
        self._forget_packet()
        self.chip.state.offload = OffloadState()
        self.chip.state.descriptor_done = 0


def parse_context(raw: bytes) -> Context:
    """A context descriptor (3.3.6)."""
    ip_start, ip_at, ip_end, start, at, end, low, header, mss = struct.unpack("<BBHBBHIxBH", raw)
    return Context(ip_start, ip_at, ip_end, start, at, end, low & 0xF_FFFF, low >> 24, header, mss)
