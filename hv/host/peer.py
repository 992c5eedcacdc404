"""The embedded peer: a small host at the other end of the wire, 10.0.2.2, that answers ARP, ping and UDP.

UDP port 7 echoes (RFC 862); port 9 swallows and keeps a tally for each sender (RFC 863); port 9000 takes requests, all
numbers big-endian:
    1, count, length, gap, seed (five words of 32 bits, the last of 64)   send `count` datagrams of `length` bytes, at
                                   least `gap` ns apart; each begins with its number (32 bits), then pseudo-random bytes
    2                                                                     send the sender's tally of port 9 (count,
                                   CRC-32 of all payloads) and begin a new one
Simplified: no fragments, no options, no IP routing; it never asks anybody for an address, but answers whoever asked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import msgspec

MAC, ADDRESS = bytes.fromhex("026876000002"), bytes((10, 0, 2, 2))
ARP, IPV4 = b"\x08\x06", b"\x08\x00"
ICMP, UDP = 1, 17
ECHO, DISCARD, CONTROL = 7, 9, 9000
SEND, TALLY = 1, 2
MOST_DATAGRAMS, LONGEST_DATAGRAM = 1 << 20, 1472  # bytes, what a frame holds
MOST_SENDERS = 16  # of whom it keeps a tally; whoever has been silent longest makes room
SHORTEST_FRAME = 60
BROADCAST = b"\xff" * 6
ARP_ETHERNET_IPV4 = bytes.fromhex("0001080006 04")
NS_PER_BYTE, LINE_OVERHEAD = 8, 24
MASK = (1 << 64) - 1


class Stream(msgspec.Struct):
    """Datagrams that somebody has asked for."""

    due: int  # of the next one, in millicycles
    gap: int
    mac: bytes
    address: bytes
    port: int
    left: int
    number: int
    length: int
    seed: int


class PeerState(msgspec.Struct):
    """`tallies`: of datagrams swallowed, by the sender's address: how many, and the CRC-32 of their payloads."""

    streams: list[Stream] = []
    tallies: dict[bytes, tuple[int, int]] = {}
    identification: int = 0


class Peer:
    """`send(frame, at)`. `turnaround` in millicycles, from a frame's arrival to the departure of the answer."""

    def __init__(self, tsc_hz: int, turnaround: int, send: Callable[[bytes, int], None]) -> None:
        self.tsc_hz, self.turnaround, self.send = tsc_hz, turnaround, send
        self.state = PeerState()

    def receive(self, frame: bytes, at: int) -> None:
        """Answer a frame, if it is one to be answered. Whatever is wrong with it, it is ignored."""
        at += self.turnaround
        source = frame[6:12]
        if frame[:6] not in (MAC, BROADCAST) or source == MAC or source[0] & 1:
            return
        if frame[12:14] == ARP:
            self._arp(frame[14:42], at)
        elif frame[12:14] == IPV4:
            self._ip(source, frame[14:], at)

    def _arp(self, packet: bytes, at: int) -> None:
        """RFC 826: a request for our address."""
        if len(packet) == 28 and packet[:8] == ARP_ETHERNET_IPV4 + b"\0\1" and packet[24:28] == ADDRESS:
            answer = ARP_ETHERNET_IPV4 + b"\0\2" + MAC + ADDRESS + packet[8:18]
            self._frame(packet[8:14], ARP, answer, at)

    def _ip(self, mac: bytes, packet: bytes, at: int) -> None:
        """RFC 791: a whole datagram for us, without options."""
        if len(packet) < 20 or packet[0] != 0x45 or internet_checksum(packet[:20]) or packet[16:20] != ADDRESS:
            return
        total = int.from_bytes(packet[2:4], "big")
        if not 20 <= total <= len(packet) or int.from_bytes(packet[6:8], "big") & 0x3FFF:
            return
        address, payload = packet[12:16], packet[20:total]
        if packet[9] == ICMP:
            self._icmp(mac, address, payload, at)
        elif packet[9] == UDP:
            self._udp(mac, address, payload, at)

    def _icmp(self, mac: bytes, address: bytes, message: bytes, at: int) -> None:
        """RFC 792: an echo request is sent back."""
        if len(message) >= 8 and message[0] == 8 and not internet_checksum(message):
            answer = b"\0\0\0\0" + message[4:]
            answer = answer[:2] + internet_checksum(answer).to_bytes(2, "big") + answer[4:]
            self._datagram(mac, address, ICMP, answer, at)

    def _udp(self, mac: bytes, address: bytes, datagram: bytes, at: int) -> None:
        """RFC 768."""
        if len(datagram) < 8:
            return
        port, service, length, checksum = struct.unpack(">HHHH", datagram[:8])
        if not 8 <= length <= len(datagram):
            return
        datagram = datagram[:length]
        if checksum and internet_checksum(pseudo_header(address, ADDRESS, length) + datagram):
            return
        payload, s = datagram[8:], self.state
        if service == ECHO:
            self._answer(mac, address, service, port, payload, at)
        elif service == DISCARD:
            count, crc = s.tallies.pop(address, (0, 0))
            if len(s.tallies) == MOST_SENDERS:
                del s.tallies[next(iter(s.tallies))]
            s.tallies[address] = count + 1, zlib.crc32(payload, crc)
        elif service == CONTROL and payload[:4] == struct.pack(">I", SEND) and len(payload) >= 24:
            count, size, gap, seed = struct.unpack(">IIIQ", payload[4:24])
            if count and 4 <= size <= LONGEST_DATAGRAM:
                self._open(Stream(at, gap, mac, address, port, min(count, MOST_DATAGRAMS), 0, size, seed))
        elif service == CONTROL and payload[:4] == struct.pack(">I", TALLY):
            self._answer(mac, address, service, port, struct.pack(">II", *s.tallies.pop(address, (0, 0))), at)

    def _open(self, stream: Stream) -> None:
        """One stream for each port that asks: a new one takes the place of an old one."""
        key = (stream.address, stream.port)
        streams = [other for other in self.state.streams if (other.address, other.port) != key]
        frame = max(stream.length + 42, SHORTEST_FRAME) + LINE_OVERHEAD
        stream.gap = max(stream.gap, frame * NS_PER_BYTE) * self.tsc_hz // 10**6
        self.state.streams = [*streams[-15:], stream]

    # --- streams ----------------------------------------------------------------------------------------------

    @property
    def due(self) -> int | None:
        streams = self.state.streams
        return min(stream.due for stream in streams) if streams else None

    def emit(self) -> None:
        """Send the next datagram of a stream."""
        stream = min(self.state.streams, key=lambda stream: stream.due)
        body = pseudo_random(stream.seed + stream.number, stream.length - 4)
        payload, at = stream.number.to_bytes(4, "big") + body, stream.due
        stream.number, stream.left, stream.due = stream.number + 1, stream.left - 1, at + stream.gap
        if not stream.left:
            self.state.streams.remove(stream)
        self._answer(stream.mac, stream.address, CONTROL, stream.port, payload, at)

    # --- sending ----------------------------------------------------------------------------------------------

    def _answer(self, mac: bytes, address: bytes, service: int, port: int, payload: bytes, at: int) -> None:
        length = 8 + len(payload)
        datagram = struct.pack(">HHHH", service, port, length, 0) + payload
        checksum = internet_checksum(pseudo_header(ADDRESS, address, length) + datagram) or 0xFFFF
        self._datagram(mac, address, UDP, datagram[:6] + checksum.to_bytes(2, "big") + payload, at)

    def _datagram(self, mac: bytes, address: bytes, protocol: int, payload: bytes, at: int) -> None:
        s = self.state
        s.identification = s.identification + 1 & 0xFFFF
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), s.identification, 0, 64, protocol, 0)
        header += ADDRESS + address
        header = header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:]
        self._frame(mac, IPV4, header + payload, at)

    def _frame(self, mac: bytes, kind: bytes, packet: bytes, at: int) -> None:
        if not mac[0] & 1:
            self.send((mac + MAC + kind + packet).ljust(SHORTEST_FRAME, b"\0"), at)


def pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    return source + destination + bytes((0, UDP)) + length.to_bytes(2, "big")


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    number = int.from_bytes(data, "big") << 8 * (len(data) % 2)
    return 0xFFFF - (number % 0xFFFF or 0xFFFF * bool(number))


def pseudo_random(seed: int, length: int) -> bytes:
    """SplitMix64's sequence from a seed, little-endian."""
    out = bytearray()
    while len(out) < length:
        seed = seed + 0x9E3779B97F4A7C15 & MASK
        x = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
        out += (x ^ x >> 31).to_bytes(8, "little")
    return bytes(out[:length])
