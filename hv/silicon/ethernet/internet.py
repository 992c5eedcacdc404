"""What a receiver finds out of a frame's Internet headers: which they are, and whether their checksums are right."""

from __future__ import annotations

import msgspec

from hv.silicon.ethernet.frames import checksum

IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"  # types of Ethernet frames
TCP, UDP, SCTP = 6, 17, 132
SHORTEST = {TCP: 20, UDP: 8}  # headers with a checksum, in bytes
IPV6_HEADER = 40
FRAGMENT = 0x3FFF  # offset, and more to come


class Internet(msgspec.Struct, frozen=True):
    """`payload_good` is None where there is no checksum of TCP or UDP: other protocols, fragments, UDP without."""

    version: int
    header_good: bool  # of IPv4; IPv6 has none
    options: bool
    protocol: int | None  # None in a fragment
    payload_good: bool | None


def inspect(frame: bytes) -> Internet | None:
    """The headers behind an Ethernet header without VLAN tag. None: no IP packet that hangs together."""
    packet = frame[14:]
    if frame[12:14] == IPV4 and packet and packet[0] >> 4 == 4:
        return _inspect_v4(packet)
    if frame[12:14] == IPV6 and len(packet) >= IPV6_HEADER and packet[0] >> 4 == 6:
        length, protocol = int.from_bytes(packet[4:6], "big"), packet[6]
        if length > len(packet) - IPV6_HEADER:
            return None
        payload = packet[IPV6_HEADER : IPV6_HEADER + length]
        good = _payload_good(packet[8:IPV6_HEADER], protocol, payload)
        return Internet(6, header_good=True, options=False, protocol=protocol, payload_good=good)
    return None


def _inspect_v4(packet: bytes) -> Internet | None:
    header, total = 4 * (packet[0] & 15), int.from_bytes(packet[2:4], "big")
    if not 20 <= header <= total <= len(packet):
        return None
    good = checksum(packet[:header]) == 0
    whole = not int.from_bytes(packet[6:8], "big") & FRAGMENT
    protocol = packet[9]
    payload_good = _payload_good(packet[12:20], protocol, packet[header:total]) if whole else None
    return Internet(4, good, header > 20, protocol if whole else None, payload_good)


def _payload_good(addresses: bytes, protocol: int, payload: bytes) -> bool | None:
    """The checksum of TCP or UDP, with the pseudo header (RFC 793, 768, 8200)."""
    if len(payload) < SHORTEST.get(protocol, len(payload) + 1) or (protocol == UDP and payload[6:8] == b"\0\0"):
        return None
    return checksum(addresses + bytes((0, protocol)) + len(payload).to_bytes(2, "big") + payload) == 0
