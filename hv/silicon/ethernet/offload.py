"""What a transmitter changes in a packet: checksums, and the headers of segments.

8254x manual, 3.3.5, 3.3.6 and 3.5; 82599 data sheet, 7.2.4 and 7.2.5. The two say in different descriptors the same.

The hardware believes the context's offsets. One that lies outside the packet changes nothing.
"""

from __future__ import annotations

import msgspec

from hv.silicon.ethernet.frames import checksum

TUCMD_TCP, TUCMD_IP = 1, 2  # TCP, not UDP; IPv4, not IPv6
IXSM, TXSM = 1, 2  # POPTS: insert the IP checksum, the TCP or UDP checksum
TCP_FLAGS = 12  # where they are in a TCP header: 12 bits, below the header's length
IPV6_HEADER = 40


class Context(msgspec.Struct, frozen=True):
    """What a context descriptor says: where a checksum starts, where it goes, where it ends (0: with the packet)."""

    ip_start: int
    ip_at: int
    ip_end: int
    start: int
    at: int
    end: int
    payload: int  # bytes of all segments together, without headers
    command: int
    header: int
    mss: int


def get16(packet: bytearray, at: int) -> int:
    return int.from_bytes(packet[at : at + 2], "big")


def put16(packet: bytearray, at: int, value: int) -> None:
    if at + 2 <= len(packet):
        packet[at : at + 2] = (value & 0xFFFF).to_bytes(2, "big")


def insert_checksum(packet: bytearray, start: int, at: int, end: int, *, never_zero: bool = False) -> None:
    """The sum of [start, end] goes to `at`; what stands there already, part of a sum, is summed too.

    UDP never sends 0, which means that there is none (RFC 768).
    """
    stop = end + 1 if end else len(packet)
    if start < len(packet):
        value = checksum(bytes(packet[start:stop]))
        put16(packet, at, value or 0xFFFF * never_zero)


def insert_checksums(packet: bytearray, context: Context, options: int) -> None:
    """As the first data descriptor's POPTS want it."""
    if options & IXSM:
        insert_checksum(packet, context.ip_start, context.ip_at, context.ip_end)
    if options & TXSM:
        udp = not context.command & TUCMD_TCP
        insert_checksum(packet, context.start, context.at, context.end, never_zero=udp)


def number_segment(
    packet: bytearray, context: Context, options: int, *, index: int, sent: int, flags: int
) -> None:  # fmt: skip
    """Turn the prototype header into that of segment `index`, in front of which `sent` payload bytes have left.

    `flags`: those of the TCP header that may stay.
    """
    ip, transport = context.ip_start, context.start
    length = max(len(packet) - transport, 0)
    if context.command & TUCMD_IP:
        put16(packet, ip + 2, len(packet) - ip)
        put16(packet, ip + 4, get16(packet, ip + 4) + index)  # identification
    else:
        put16(packet, ip + 4, len(packet) - ip - IPV6_HEADER)
    if context.command & TUCMD_TCP:
        sequence = (get16(packet, transport + 4) << 16 | get16(packet, transport + 6)) + sent
        put16(packet, transport + 4, sequence >> 16)
        put16(packet, transport + 6, sequence)
        put16(packet, transport + TCP_FLAGS, get16(packet, transport + TCP_FLAGS) & (0xF000 | flags))
    else:
        put16(packet, transport + 4, length)
    if options & TXSM:  # the driver's sum of the pseudo header leaves the length out
        partial = get16(packet, context.at) + length
        put16(packet, context.at, (partial & 0xFFFF) + (partial >> 16))
