"""Ethernet frames as a controller sees them: lengths, the FCS, and the Internet checksum (RFC 1071)."""

from __future__ import annotations

import zlib

HEADER, SHORTEST, FCS = 14, 60, 4  # bytes; the shortest and all lengths below are without the FCS
LONGEST, LONGEST_JUMBO = 1514, 16384 - FCS
VLAN_TAG = 4  # which a frame may have on top of that
LINE_OVERHEAD = 8 + FCS + 12  # preamble, FCS, gap between two frames
BROADCAST = b"\xff" * 6
NS_PER_BYTE = (800, 80, 8)  # at 10, 100, 1000 Mb/s


def fcs(frame: bytes) -> bytes:
    """The frame check sequence, as it goes over the wire."""
    return zlib.crc32(frame).to_bytes(FCS, "little")


def ones_sum(data: bytes) -> int:
    """The one's complement sum of big-endian words of 16 bits; an odd last byte is the upper half of one."""
    number = int.from_bytes(data, "big") << 8 * (len(data) % 2)
    return number % 0xFFFF or 0xFFFF * bool(number)


def checksum(data: bytes) -> int:
    """The Internet checksum over `data`. Over data that holds its own right checksum it is 0."""
    return 0xFFFF - ones_sum(data)


def tagged(packet: bytes, tag: int | None, vlan_type: int) -> bytes:
    """With a VLAN tag behind the addresses."""
    return packet if tag is None else packet[:12] + vlan_type.to_bytes(2, "big") + tag.to_bytes(2, "big") + packet[12:]
