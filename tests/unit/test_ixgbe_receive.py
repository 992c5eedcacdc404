"""The 82599's receiver: rings, what waits and what is dropped, checksums, VLAN tags (data sheet, 7.1)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ixgbe_host import BROADCAST, MAC, READ, RING, RX, RX_BUFFERS, US, Driver, Host, frame_to, mac
from tests.unit.test_ixgbe_transmit import TCP, UDP, packet, words_sum


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def driver(host: Host) -> Driver:
    driver = Driver(host)
    driver.start_card()
    return driver


def test_a_long_frame_takes_several_descriptors(host: Host, driver: Driver) -> None:
    host.set(0x4240, host.get(0x4240) | 4)  # jumbo frames
    host.set(0x4268, 9000 << 16)
    frame = frame_to(MAC, payload=bytes(range(250)) * 20)
    host.receive(frame)
    host.pass_time()
    parts = [driver.take() for _ in range(3)]
    assert b"".join(part[0] for part in parts if part) == frame
    assert [part[1] & 3 for part in parts if part] == [1, 1, 3]
    assert len(host.interrupts) == 1


def test_a_frame_waits_for_descriptors(host: Host, driver: Driver) -> None:
    driver.start(buffers=1)
    for n in range(3):
        host.receive(frame_to(MAC, payload=bytes([n]) * 46))
    host.pass_time()
    given_at = host.now
    driver.set(0x1018, 3)
    host.pass_time()
    assert [frame[14] for frame in driver.taken()] == [0, 1, 2]
    assert host.now == given_at + READ


@pytest.mark.parametrize("how", ["SRRCTL", "QDE"])
def test_or_is_dropped(host: Host, driver: Driver, how: str) -> None:
    driver.start(buffers=1, split=2 | 1 << 25 | (1 << 28 if how == "SRRCTL" else 0))
    if how == "QDE":
        host.set(0x2F04, 1 << 16 | 1)
    for n in range(3):
        host.receive(frame_to(MAC, payload=bytes([n]) * 46))
    host.pass_time()
    driver.set(0x1018, 8)
    host.pass_time()
    assert [frame[14] for frame in driver.taken()] == [0]
    assert (host.get(0x1430), host.get(0x1430), host.get(0x1030)) == (2, 0, 1)


def test_what_does_not_fit_into_the_buffer_is_lost(host: Host, driver: Driver) -> None:
    host.set(0x3C00, 4 << 10)
    host.set(0xA00, 0x8100)  # other causes: vector 1
    host.set(0x880, 1 << 17)
    driver.start(buffers=0)
    frame = frame_to(MAC, payload=bytes(1000))
    for _ in range(6):
        host.receive(frame)
    host.pass_time()
    assert host.get(0x3FA0) == 2  # 4 of them are less than 4 KiB
    assert [message for _, message, _ in host.interrupts] == [0x41] * 2


def test_a_queue_that_is_off_gets_nothing(host: Host, driver: Driver) -> None:
    driver.set(0x1028, 0)
    host.receive(frame_to(MAC))
    host.pass_time()
    driver.set(0x1028, 1 << 25)
    host.pass_time()
    assert driver.take() is None


def test_frames_of_wrong_length_are_counted(host: Host, driver: Driver) -> None:
    for length in (59, 60, 1514, 1515):
        host.receive(frame_to(MAC).ljust(60, b"\0")[:length].ljust(length, b"\0"))
    host.pass_time()
    assert len(driver.taken()) == 2
    assert (host.get(0x40A4), host.get(0x40AC)) == (1, 1)
    assert (host.get(0x4074), host.get(0x405C), host.get(0x4070)) == (2, 1, 1)  # GPRC, PRC64, PRC1522
    assert host.get(0x40D0) == 4


def test_the_checksum_of_the_line_is_stripped_or_not(host: Host, driver: Driver) -> None:
    host.set(0x4240, host.get(0x4240) & ~2)
    host.receive(frame_to(MAC))
    host.pass_time()
    (frame,) = driver.taken()
    assert len(frame) == len(frame_to(MAC)) + 4


@pytest.mark.parametrize("strip", [False, True])
def test_vlan_tags(host: Host, driver: Driver, strip: bool) -> None:
    if strip:
        driver.set(0x1028, 1 << 25 | 1 << 30)
    plain = frame_to(MAC)
    tagged = plain[:12] + b"\x81\x00\x60\x05" + plain[12:]
    host.set(0x5088, 1 << 30 | 0x8100)  # only VLANs that are in the table
    host.receive(tagged)
    host.set(0xA000, 1 << 5)
    host.receive(tagged)
    host.pass_time()
    got = driver.take()
    assert got is not None
    assert (got[0], got[1] & 8, got[3]) == ((plain, 8, 0x6005) if strip else (tagged, 0, 0))
    assert driver.take() is None


def finished(version: int, protocol: int, payload: bytes) -> bytes:
    """A packet with its checksums in."""
    frame = bytearray(packet(version, protocol, payload))
    start, at = (34 if version == 4 else 54), (16 if protocol == TCP else 6)
    if version == 4:
        struct.pack_into(">H", frame, 24, 0xFFFF - words_sum(bytes(frame[14:34])))
    total = 0xFFFF - words_sum(bytes(frame[start:]))
    struct.pack_into(">H", frame, start + at, total or 0xFFFF)
    return bytes(frame)


@given(st.sampled_from((4, 6)), st.sampled_from((TCP, UDP)), st.binary(min_size=30, max_size=300), st.data())
def test_checksums_are_looked_at(version: int, protocol: int, payload: bytes, draw: st.DataObject) -> None:
    host = Host()
    driver = Driver(host)
    driver.start_card()
    frame = bytearray(finished(version, protocol, payload))
    frame[:6] = MAC
    place = draw.draw(st.sampled_from(("none", "header", "payload")))
    if place == "header":
        frame[22 if version == 4 else 21] ^= 1  # time to live: not in the pseudo header
    elif place == "payload":
        frame[-1] ^= draw.draw(st.integers(1, 255))
    host.receive(bytes(frame))
    host.pass_time()
    got = driver.take()
    assert got is not None
    _, status, kind, _ = got
    assert kind == (0x10 if version == 4 else 0x40) | (0x100 if protocol == TCP else 0x200)
    assert bool(status & 1 << 6) == (version == 4)
    assert bool(status >> 31) == (version == 4 and place == "header")
    assert status & 1 << 5
    assert bool(status & 1 << 4) == (protocol == UDP)
    assert bool(status >> 30 & 1) == (place == "payload")


def test_what_is_no_internet_packet_has_no_checksums(host: Host, driver: Driver) -> None:
    for frame in (frame_to(BROADCAST), frame_to(BROADCAST, kind=0x0800), frame_to(BROADCAST, kind=0x86DD)):
        host.receive(frame)
    host.pass_time()
    for _ in range(3):
        got = driver.take()
        assert got is not None
        assert (got[1], got[2]) == (3, 0)


def test_legacy_descriptors_keep_the_address(host: Host, driver: Driver) -> None:
    driver.start(split=2)
    host.receive(frame_to(MAC))
    host.pass_time()
    address, length, _, status, errors, vlan = struct.unpack_from("<QHHBBH", host.ram, RX)
    assert (address, length, status, errors, vlan) == (RX_BUFFERS, 60, 3, 0, 0)


def test_a_virtual_function_sees_its_own_traffic_and_reading_clears_nothing(host: Host) -> None:
    host.virtualize(2)
    one, other = Driver(host, 0), Driver(host, 1)
    one.start()
    other.start()
    one.send(frame_to(mac(1), mac(0)))
    host.receive(frame_to(BROADCAST))
    host.pass_time()
    for _ in range(2):
        assert [one.get(at) for at in (0x101C, 0x1020, 0x1034, 0x201C, 0x2020)] == [1, 64, 1, 1, 64]
        assert [other.get(at) for at in (0x101C, 0x1020, 0x1034, 0x201C, 0x2020)] == [2, 128, 1, 0, 0]


def test_frames_that_wait_in_one_function_do_not_hold_up_another(host: Host) -> None:
    host.virtualize(2)
    one, other = Driver(host, 0), Driver(host, 1)
    one.start(buffers=0)
    other.start()
    for vf in (0, 0, 1):
        host.receive(frame_to(mac(vf)))
    host.pass_time(host.now + 10 * US)
    assert len(other.taken()) == 1
    assert one.taken() == []


def test_a_ring_that_wraps(host: Host, driver: Driver) -> None:
    for n in range(3 * RING):
        host.receive(frame_to(MAC, payload=bytes([n]) * 46))
        host.pass_time()
        assert [frame[14] for frame in driver.taken()] == [n]
