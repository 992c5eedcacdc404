"""The wire and the embedded peer in virtual time, and captures as the format's draft describes them."""

from __future__ import annotations

import copy
import itertools
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.errors import HvError
from hv.host.pcap import EPOCH, Capture
from hv.host.peer import ADDRESS, MAC, MOST_SENDERS, Peer
from hv.host.wire import QUEUE, Wire
from hv.silicon.timing import WireTimes

TSC_HZ = 2_500_000_000
NS = 2500  # millicycles
US = 1000 * NS
TIMES = WireTimes(latency=10 * US, turnaround=15 * US)
OURS, OURS_IP = bytes.fromhex("026876000001"), bytes((10, 0, 2, 15))
BROADCAST = b"\xff" * 6


class Outside:
    """A wire with cards, and the peer if wanted."""

    def __init__(self, *, cards: int = 1, peer: bool = True) -> None:
        self.now = 0
        self.wire = Wire(TSC_HZ, TIMES, lambda: self.now)
        self.got: list[list[tuple[bytes, int]]] = [[] for _ in range(cards)]
        self.send = [
            self.wire.plug_card(lambda frame, at, got=got: got.append((frame, at)))  # type: ignore[misc]
            for got in self.got
        ]
        if peer:
            self.wire.plug_station(lambda send: Peer(TSC_HZ, TIMES.turnaround, send))

    def run(self) -> None:
        """Until nothing is on its way."""
        while (deadline := self.wire.deadline) is not None:
            self.now = deadline
            self.wire.advance(deadline)

    def ask(self, frame: bytes) -> list[bytes]:
        self.send[0](frame, self.now)
        self.run()
        answers = [frame for frame, _ in self.got[0]]
        self.got[0].clear()
        return answers


def frame(destination: bytes, source: bytes, size: int = 60) -> bytes:
    return (destination + source + b"\x88\xb5").ljust(size, b"x")


def sum16(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ip(protocol: int, payload: bytes, destination: bytes = ADDRESS, source: bytes = OURS_IP) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + source + destination
    header = header[:10] + (0xFFFF - sum16(header)).to_bytes(2, "big") + header[12:]
    return (MAC + OURS + b"\x08\x00" + header + payload).ljust(60, b"\0")


def udp(port: int, payload: bytes, source: int = 4000) -> bytes:
    datagram = struct.pack(">HHHH", source, port, 8 + len(payload), 0) + payload
    pseudo = OURS_IP + ADDRESS + struct.pack(">HH", 17, len(datagram))
    checksum = 0xFFFF - sum16(pseudo + datagram) or 0xFFFF
    return ip(17, datagram[:6] + checksum.to_bytes(2, "big") + payload)


def udp_payload(answer: bytes) -> bytes:
    """Of a frame whose checksums are right."""
    packet = answer[14:]
    assert sum16(packet[:20]) == 0xFFFF
    datagram = packet[20 : int.from_bytes(packet[2:4], "big")]
    assert sum16(packet[12:20] + struct.pack(">HH", 17, len(datagram)) + datagram) == 0xFFFF
    return datagram[8 : int.from_bytes(datagram[4:6], "big")]


# --- the switch -----------------------------------------------------------------------------------------------------


def test_a_frame_arrives_after_the_latency_and_its_time_on_the_line() -> None:
    outside = Outside(cards=2, peer=False)
    outside.send[0](frame(BROADCAST, OURS), 5 * US)
    outside.run()
    assert outside.got[1] == [(frame(BROADCAST, OURS), 15 * US + 84 * 8 * NS)]
    assert not outside.got[0]


def test_frames_for_one_port_follow_one_another() -> None:
    outside = Outside(cards=3, peer=False)
    for card in (1, 2):
        outside.send[card](frame(BROADCAST, OURS, 1000), 0)
    outside.run()
    first, second = (at for _, at in outside.got[0])
    assert second - first == 1024 * 8 * NS


def test_the_switch_learns_who_is_where() -> None:
    outside = Outside(cards=3, peer=False)
    outside.send[1](frame(BROADCAST, MAC), 0)
    outside.send[0](frame(MAC, OURS), 0)
    outside.run()
    assert [len(got) for got in outside.got] == [1, 1, 1]
    assert outside.got[1][0][0] == frame(MAC, OURS)


def test_a_port_that_is_flooded_loses_frames() -> None:
    outside = Outside(cards=2, peer=False)
    for _ in range(QUEUE + 10):
        outside.send[0](frame(BROADCAST, OURS), 0)
    outside.run()
    assert len(outside.got[1]) == QUEUE


def test_frames_that_come_no_faster_than_they_go_are_not_lost() -> None:
    """However early their sender says when they will leave."""
    outside = Outside(cards=2, peer=False)
    sent = frame(BROADCAST, OURS)
    for i in range(2 * QUEUE):
        outside.send[0](sent, i * outside.wire.frame_time(sent))
    outside.run()
    assert len(outside.got[1]) == 2 * QUEUE


# --- the peer -------------------------------------------------------------------------------------------------------


def test_the_peer_answers_arp() -> None:
    request = bytes.fromhex("0001080006040001") + OURS + OURS_IP + bytes(6) + ADDRESS
    (answer,) = Outside().ask((BROADCAST + OURS + b"\x08\x06" + request).ljust(60, b"\0"))
    assert answer[:42] == OURS + MAC + b"\x08\x06" + bytes.fromhex("0001080006040002") + MAC + ADDRESS + OURS + OURS_IP


def test_the_peer_answers_ping() -> None:
    message = b"\x08\x00\x00\x00\x12\x34\x00\x01" + bytes(range(48))
    message = message[:2] + (0xFFFF - sum16(message)).to_bytes(2, "big") + message[4:]
    (answer,) = Outside().ask(ip(1, message))
    reply = answer[34:90]
    assert (reply[0], reply[4:]) == (0, message[4:])
    assert sum16(reply) == 0xFFFF


@given(st.binary(max_size=1400))
def test_the_peer_echoes_udp(payload: bytes) -> None:
    (answer,) = Outside().ask(udp(7, payload))
    assert udp_payload(answer) == payload
    assert answer[34:38] == struct.pack(">HH", 7, 4000)


def test_an_answer_takes_two_latencies_and_the_peers_time() -> None:
    outside = Outside()
    outside.send[0](udp(7, b""), 0)
    assert outside.wire.deadline == 2 * (10 * US + 84 * 8 * NS) + 15 * US


@pytest.mark.parametrize("at", [18, 26, 38, 44])
def test_the_peer_ignores_what_is_damaged(at: int) -> None:
    damaged = bytearray(udp(7, b"hello"))
    damaged[at] ^= 1
    assert Outside().ask(bytes(damaged)) == []


@given(st.binary(max_size=120))
def test_nothing_that_a_guest_sends_upsets_the_peer(junk: bytes) -> None:
    outside = Outside()
    outside.ask(MAC + OURS + b"\x08\x00" + junk)
    outside.ask(MAC + OURS + b"\x08\x06" + junk)
    outside.ask(ip(17, junk))
    outside.ask(udp(9000, junk[:64]))


def request(count: int, length: int, gap: int, seed: int) -> bytes:
    return udp(9000, struct.pack(">IIIIQ", 1, count, length, gap, seed))


def test_the_peer_sends_datagrams_on_request_in_order_and_apart() -> None:
    outside = Outside()
    outside.send[0](request(5, 64, 50_000, 1), 0)
    outside.run()
    frames, times = zip(*outside.got[0], strict=True)
    payloads = [udp_payload(frame) for frame in frames]
    assert [int.from_bytes(payload[:4], "big") for payload in payloads] == list(range(5))
    assert len({payload[4:] for payload in payloads}) == 5
    assert {b - a for a, b in itertools.pairwise(times)} == {50 * US}
    assert {len(payload) for payload in payloads} == {64}


def test_a_long_stream_is_made_as_it_goes() -> None:
    outside = Outside()
    outside.send[0](request(1 << 20, 1472, 0, 1), 0)
    assert len(outside.wire.state.in_flight) < 10
    for _ in range(100):
        outside.wire.advance(outside.wire.deadline or 0)
    assert len(outside.got[0]) >= 100
    assert len(outside.wire.state.in_flight) < 10


def test_the_peer_keeps_a_tally_of_what_it_swallows() -> None:
    outside = Outside()
    for part in (b"hello, ", b"world"):
        assert outside.ask(udp(9, part)) == []
    ask = udp(9000, struct.pack(">I", 2))
    assert udp_payload(*outside.ask(ask)) == struct.pack(">II", 2, zlib.crc32(b"hello, world"))
    assert udp_payload(*outside.ask(ask)) == bytes(8)


def test_each_sender_has_a_tally_of_its_own_and_the_oldest_is_forgotten() -> None:
    outside = Outside()

    def payload(sender: int, service: int, data: bytes) -> list[bytes]:
        datagram = struct.pack(">HHHH", 4000, service, 8 + len(data), 0) + data
        return outside.ask(ip(17, datagram, source=bytes((10, 0, 2, sender))))

    def tally(sender: int) -> bytes:
        return udp_payload(*payload(sender, 9000, struct.pack(">I", 2)))

    for sender in range(100, 100 + MOST_SENDERS):
        payload(sender, 9, bytes([sender]))
    payload(100, 9, b"more")
    payload(200, 9, b"one too many")
    assert tally(100) == struct.pack(">II", 2, zlib.crc32(b"dmore"))
    assert tally(101) == bytes(8)
    assert tally(102) == struct.pack(">II", 1, zlib.crc32(b"f"))


def test_a_snapshot_holds_what_is_on_its_way() -> None:
    outside = Outside()
    outside.send[0](request(10, 64, 50_000, 1), 0)
    outside.wire.advance(outside.wire.deadline or 0)
    saved, before = copy.deepcopy(outside.wire.state), len(outside.got[0])
    outside.run()
    expected = outside.got[0][before:]
    outside.wire.state = saved
    outside.got[0].clear()
    outside.run()
    assert outside.got[0] == expected


# --- captures -------------------------------------------------------------------------------------------------------


def read_capture(path: Path) -> list[tuple[int, bytes]]:
    """Times in nanoseconds since EPOCH, and frames."""
    data = path.read_bytes()
    assert struct.unpack("<IHHiIII", data[:24]) == (0xA1B23C4D, 2, 4, 0, 0, 0x40000, 1)
    at, records = 24, []
    while at < len(data):
        seconds, rest, captured, length = struct.unpack("<IIII", data[at : at + 16])
        assert captured == length
        records.append(((seconds - EPOCH) * 10**9 + rest, data[at + 16 : at + 16 + length]))
        at += 16 + length
    return records


def test_a_capture_has_every_frame_once_and_in_order(tmp_path: Path) -> None:
    outside = Outside()
    outside.wire.capture = Capture(tmp_path / "x.pcap", TSC_HZ)
    burst = [udp(7, bytes([i]) * 1400) for i in range(4)]
    for i, one in enumerate(burst):
        outside.send[0](one, (1 + 12 * i) * US)
    outside.run()
    outside.wire.capture.close()
    records = read_capture(tmp_path / "x.pcap")
    assert [at for at, _ in records] == sorted(at for at, _ in records)
    assert [data for _, data in records if data[6:12] == OURS] == burst
    assert len(records) == 8
    assert records[0] == (1000, burst[0])


def test_a_capture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HvError, match="cannot write"):
        Capture(tmp_path / "none" / "x.pcap", TSC_HZ)
