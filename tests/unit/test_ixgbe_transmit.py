"""The 82599's transmitter: descriptors, offload, VLAN tags, the transmit buffer (data sheet, 7.2)."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ixgbe_host import MAC, OUTSIDE, READ, RING, US, Driver, Host, frame_to, mac

IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17
LINE = 8 * US // 10_000  # a byte


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def driver(host: Host) -> Driver:
    driver = Driver(host)
    driver.start_card()
    return driver


def words_sum(data: bytes) -> int:
    """The one's complement sum, the slow way."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(addresses: bytes, protocol: int, length: int) -> bytes:
    return addresses + struct.pack(">HH", protocol, length)


def packet(version: int, protocol: int, payload: bytes, *, length_in_sum: bool = True, flags: int = 0x18) -> bytes:
    """An Ethernet frame as a stack leaves it for the card: checksums empty but for the pseudo header's sum."""
    header = 20 if protocol == TCP else 8
    size = header + len(payload)
    addresses = bytes(range(1, 9)) if version == 4 else bytes(range(32))
    partial = words_sum(pseudo(addresses, protocol, size if length_in_sum else 0))
    if protocol == TCP:
        transport = struct.pack(">HHIIHHHH", 1000, 2000, 0xFFFF_FFF0, 7, 5 << 12 | flags, 100, partial, 0)
    else:
        transport = struct.pack(">HHHH", 1000, 2000, size, partial)
    if version == 4:
        network = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0xFFFE, 0, 64, protocol, 0) + addresses
        return OUTSIDE + MAC + struct.pack(">H", IPV4) + network + transport + payload
    network = struct.pack(">IHBB", 6 << 28, size, protocol, 64) + addresses
    return OUTSIDE + MAC + struct.pack(">H", IPV6) + network + transport + payload


def sums_are_right(frame: bytes) -> bool:
    """By a receiver that knows nothing of offload. Padding is not part of the packet."""
    version = frame[14] >> 4
    start = 34 if version == 4 else 54
    size = int.from_bytes(frame[16:18], "big") - 20 if version == 4 else int.from_bytes(frame[18:20], "big")
    addresses, protocol = (frame[26:34], frame[23]) if version == 4 else (frame[22:54], frame[20])
    payload = frame[start : start + size]
    if version == 4 and words_sum(frame[14:34]) != 0xFFFF:
        return False
    return len(payload) == size and words_sum(pseudo(addresses, protocol, size) + payload) == 0xFFFF


def context(driver: Driver, version: int, protocol: int, *, mss: int = 0, vlan: int = 0, index: int = 0) -> None:
    """A context descriptor."""
    ip, transport = (20 if version == 4 else 40), (20 if protocol == TCP else 8)
    low = 1 << 29 | 2 << 20 | (1 << 10 if version == 4 else 0) | (1 << 11 if protocol == TCP else 0)
    driver.put(ip | 14 << 9 | vlan << 16, low, mss << 16 | transport << 8 | index << 4)


def data(
    driver: Driver, frame: bytes, command: int = 0x2B, *, options: int = 3, headers: int = 0, index: int = 0
) -> None:
    low = len(frame) | 3 << 20 | command << 24
    at = driver.fill(frame, 0x800 * (driver.tx_next % RING))
    driver.put(at, low, (len(frame) - headers) << 14 | options << 8 | index << 4)


@given(st.sampled_from((4, 6)), st.sampled_from((TCP, UDP)), st.binary(max_size=600))
def test_checksums_are_inserted(version: int, protocol: int, payload: bytes) -> None:
    host = Host()
    driver = Driver(host)
    driver.start_card()
    context(driver, version, protocol)
    data(driver, packet(version, protocol, payload), options=3 if version == 4 else 2)
    driver.ring()
    host.pass_time()
    (frame,) = host.frames
    assert sums_are_right(frame)
    assert len(frame) == max(60, len(packet(version, protocol, payload)))


@given(st.sampled_from((4, 6)), st.binary(min_size=1, max_size=1900), st.integers(1, 700), st.integers(0, 0xFFF))
def test_segments_are_the_packet_again(version: int, payload: bytes, mss: int, flags: int) -> None:
    host = Host()
    driver = Driver(host)
    driver.start_card()
    whole = packet(version, TCP, payload, length_in_sum=False, flags=flags)
    headers = len(whole) - len(payload)
    context(driver, version, TCP, mss=mss)
    data(driver, whole, 0xAB, options=3 if version == 4 else 2, headers=headers)
    driver.ring()
    host.pass_time()
    count = -(-len(payload) // mss)
    assert len(host.frames) == count
    assert all(map(sums_are_right, host.frames))
    tcp = headers - 20
    got = b""
    for index, frame in enumerate(host.frames):
        size = min(mss, len(payload) - len(got))
        sequence, flag_word = struct.unpack(">4xI4xH", frame[tcp : tcp + 14])
        assert sequence == (0xFFFF_FFF0 + len(got)) & 0xFFFF_FFFF
        allowed = 0xF7F if index == count - 1 else 0xFF6  # DTXTCPFLGL, DTXTCPFLGH
        assert flag_word == 5 << 12 | flags & allowed
        if version == 4:
            assert struct.unpack(">HH", frame[16:20]) == (40 + size, (0xFFFE + index) & 0xFFFF)
        got += frame[headers : headers + size]
    assert got == payload


def test_a_legacy_descriptor_inserts_one_checksum(host: Host, driver: Driver) -> None:
    frame = packet(4, UDP, b"abcdefghijklmnopqrstuvwxyz")
    at = driver.fill(frame)
    index = driver.put(at, len(frame) | 40 << 16 | 0xF << 24, 34 << 8)  # CSO 40, CSS 34
    driver.ring()
    host.pass_time()
    (sent,) = host.frames
    assert words_sum(pseudo(sent[26:34], UDP, len(frame) - 34) + sent[34 : len(frame)]) == 0xFFFF
    assert driver.done(index)


def test_each_queue_keeps_two_contexts(host: Host, driver: Driver) -> None:
    context(driver, 4, UDP, index=0, vlan=5)
    context(driver, 4, UDP, index=1, vlan=6)
    for index in (0, 1, 0):
        data(driver, frame_to(OUTSIDE, MAC), 0x6B, options=0, index=index)
    driver.ring()
    host.pass_time()
    assert [frame[12:16].hex() for frame in host.frames] == ["81000005", "81000006", "81000005"]


def test_a_packet_of_several_descriptors(host: Host, driver: Driver) -> None:
    frame = frame_to(OUTSIDE, MAC, bytes(range(200)))
    data(driver, frame[:20], 0x22, options=0)
    data(driver, frame[20:21], 0x22, options=0)
    driver.ring()
    host.pass_time()
    assert not host.sent
    data(driver, frame[21:], 0x2B, options=0)
    driver.ring()
    host.pass_time()
    assert host.frames == [frame]


def test_a_frame_with_a_checksum_by_software_needs_the_right_one(host: Host, driver: Driver) -> None:
    frame = frame_to(OUTSIDE, MAC)
    driver.send(frame + zlib.crc32(frame).to_bytes(4, "little"), 0x29)
    driver.send(frame + bytes(4), 0x29)
    host.pass_time()
    assert host.frames == [frame]


def test_the_owner_decides_on_vlan_tags(host: Host) -> None:
    host.virtualize(1)
    driver = Driver(host, 0)
    driver.start()
    for rule, expected in ((0, "81000007"), (1 << 30 | 9, "81000009"), (2 << 30, "88b578787878")):
        host.set(0x8000, rule)
        host.sent.clear()
        context(driver, 4, UDP, vlan=7)
        data(driver, frame_to(OUTSIDE, mac(0)), 0x6B, options=0)
        driver.ring()
        host.pass_time()
        assert host.frames[0][12:].hex().startswith(expected)


def test_head_write_back_tells_in_memory(host: Host, driver: Driver) -> None:
    where = driver.base + 0x3_8000
    driver.set(0x6038, where | 1)
    index = driver.send(frame_to(OUTSIDE, MAC))
    driver.send(frame_to(OUTSIDE, MAC))
    host.pass_time()
    assert int.from_bytes(host.ram[where : where + 4], "little") == 2
    assert not driver.done(index)


def test_without_report_status_nothing_is_told(host: Host, driver: Driver) -> None:
    index = driver.send(frame_to(OUTSIDE, MAC), 0x23)
    host.pass_time()
    assert len(host.sent) == 1
    assert not driver.done(index)
    assert not host.interrupts


def test_the_transmit_buffer_holds_160_kilobytes(host: Host, driver: Driver) -> None:
    """A frame is fetched, and told as done, when there is room for it, not when the line has carried it."""
    payload = b"z" * 15_000
    for _ in range(RING - 1):
        low = (14 + len(payload)) | 3 << 20 | 0x2B << 24
        driver.put(driver.fill(frame_to(OUTSIDE, MAC, payload)), low, 0)
    driver.ring()
    host.pass_time(2 * READ)
    buffered = sum(driver.done(index) for index in range(RING))
    assert buffered == 11  # 10 of them are less than 160 KiB, 11 more
    host.pass_time()
    frame = LINE * (15_014 + 24)
    assert [at for _, at in host.sent] == [2 * READ + frame * (n + 1) for n in range(RING - 1)]
    told = [when for _, _, when in host.interrupts]
    assert told[-1] == pytest.approx(2 * READ + 15 * frame - 163_840 * LINE, abs=frame)


def test_queues_take_turns(host: Host) -> None:
    host.virtualize(1)
    one = Driver(host, 0)
    one.start()
    for register, value in ((0, one.base + 0x2000), (8, 16 * RING), (0x28, 1 << 25)):
        one.set(0x2040 + register, value)
    for n in range(4):
        frame = frame_to(OUTSIDE, mac(0), bytes([n]) * 50)
        at = one.fill(frame, 0x800 * n)
        struct.pack_into("<QII", host.ram, one.base + 0x2000 + 16 * n, at, 64 | 3 << 20 | 0x2B << 24, 0)
        one.put(one.fill(frame_to(OUTSIDE, mac(0), bytes([100 + n]) * 50), 0x4000 + 0x800 * n), 64 | 0x2B3 << 20, 0)
    one.set(0x2058, 4)
    one.ring()
    host.pass_time()
    assert [frame[14] for frame in host.frames] == [100, 0, 101, 1, 102, 2, 103, 3]


def test_what_the_data_sheet_forbids_sends_nothing(host: Host, driver: Driver) -> None:
    driver.set(0x6018, 500)  # a tail outside the ring
    host.pass_time()
    driver.set(0x6018, 0)
    driver.send(frame_to(OUTSIDE, MAC)[:10])  # shorter than its header
    for _ in range(2):
        driver.put(driver.base, 0xFFFF | 3 << 20 | 0x22 << 24, 0)
    driver.put(driver.base, 0xFFFF | 3 << 20 | 0x2B << 24, 0)  # too long
    driver.ring()
    host.pass_time()
    assert not host.sent
    driver.send(frame_to(OUTSIDE, MAC))
    host.pass_time()
    assert len(host.sent) == 1
