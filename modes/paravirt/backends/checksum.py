"""Checksums that a front end leaves to the card (NETTXF_csum_blank): the pseudo header's sum is in their place."""

from __future__ import annotations

from hv.silicon.ethernet.frames import checksum

ETHERNET, IP_HEADER, IPV4 = 14, 20, b"\x08\x00"
FRAGMENT_OFFSET = 0x1FFF
FIELDS = {6: 16, 17: 6}  # by protocol, TCP and UDP: where its header has the checksum
UDP = 17


def complete(frame: bytes) -> bytes | None:
    """The frame with the checksum of TCP or UDP over IPv4 in place. None: it has none of these."""
    if len(frame) < ETHERNET + IP_HEADER or frame[12:14] != IPV4 or not 0x45 <= frame[ETHERNET] <= 0x4F:
        return None
    start = ETHERNET + (frame[ETHERNET] & 15) * 4
    end = ETHERNET + int.from_bytes(frame[16:18], "big")
    at = start + FIELDS.get(frame[23], len(frame))
    if int.from_bytes(frame[20:22], "big") & FRAGMENT_OFFSET or not at + 2 <= end <= len(frame):
        return None
    value = checksum(frame[start:end])
    if frame[23] == UDP:
        value = value or 0xFFFF  # 0 would say that there is none (RFC 768)
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]
