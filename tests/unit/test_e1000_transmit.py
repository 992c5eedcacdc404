"""The 82540EM's transmitter against its manual, and its offloads against a reference that knows protocols, not offsets.

The reference parses what was sent as Ethernet, IP, TCP and UDP by the RFCs, one word at a time.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.transmit import BATCH, FETCH_NS, SEND_BUFFER
from hv.silicon.ethernet.frames import checksum
from tests.nic_bench import (
    DEXT,
    EOP,
    IC,
    IFCS,
    MAC,
    NS,
    OTHER,
    RING,
    RS,
    TSE,
    TX_BUFFERS,
    TX_RING,
    VLE,
    NicBench,
    frame_to,
)


@pytest.fixture
def bench() -> NicBench:
    bench = NicBench()
    bench.start_transmitter()
    return bench


def reference_checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0)
        if total > 0xFFFF:
            total = (total & 0xFFFF) + 1
    return ~total & 0xFFFF


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    assert checksum(data) == reference_checksum(data)


# --- the ring -------------------------------------------------------------------------------------------------------


def test_a_frame_goes_out_padded_and_its_descriptor_is_done(bench: NicBench) -> None:
    bench[reg.IMS] = reg.TXDW
    bench.transmit(frame_to(OTHER, b"hello"))
    assert bench.frames == [frame_to(OTHER, b"hello").ljust(60, b"\0")]
    assert bench.tx_status(0) & 1
    assert bench[reg.TDH] == 1
    assert bench.line()
    assert bench[reg.ICR] == reg.TXDW | reg.TXQE | reg.LSC


def test_without_rs_nothing_is_written_back_unless_the_threshold_wants_it(bench: NicBench) -> None:
    bench.transmit(frame_to(OTHER), EOP | IFCS)
    bench[reg.TXDCTL] = 1 << 16
    bench.transmit(frame_to(OTHER), EOP | IFCS)
    assert (bench.tx_status(0), bench.tx_status(1)) == (0, 1)


def test_nothing_leaves_while_the_transmitter_or_the_link_is_off(bench: NicBench) -> None:
    bench[reg.TCTL] = 0
    bench.transmit(frame_to(OTHER))
    assert not bench.sent
    bench[reg.CTRL] &= ~reg.CTRL_SLU
    bench[reg.TCTL] = reg.TCTL_EN
    assert not bench.sent
    bench[reg.CTRL] |= reg.CTRL_SLU
    assert len(bench.sent) == 1


def test_a_frame_takes_its_time_on_the_line(bench: NicBench) -> None:
    for _ in range(2):
        bench.transmit(frame_to(OTHER, bytes(1486)))
    frame_time = (1500 + 24) * 8 * NS
    assert [at for _, at in bench.sent] == [frame_time, 2 * frame_time]


def test_the_doorbell_gives_all_that_the_ring_holds_to_the_host(bench: NicBench) -> None:
    bench.slot.fill(TX_BUFFERS, frame_to(OTHER, bytes(1486)))
    for i in range(15):
        bench.put(i, TX_BUFFERS, 1500 | (EOP | IFCS | RS) << 24)
    bench[reg.TDT] = 15
    assert len(bench.sent) == bench[reg.TDH] == 15
    assert all(bench.tx_status(i) & 1 for i in range(15))
    assert all(b - a == 1524 * 8 * NS for a, b in pairwise(at for _, at in bench.sent))


def test_a_full_send_buffer_holds_the_ring_until_half_of_it_has_left(bench: NicBench) -> None:
    """Frames of 1524 bytes on the line, more of them than the host takes."""
    bench.slot.fill(TX_BUFFERS, frame_to(OTHER, bytes(1486)))
    for i in range(RING):
        bench.put(i, TX_BUFFERS, 1500 | (EOP | IFCS | RS) << 24)
    fits = SEND_BUFFER // 1524 + 1
    for i in range(fits + 5):
        bench[reg.TDT] = (i + 1) % RING
    assert len(bench.sent) == fits
    bench.pass_time(SEND_BUFFER // 2 * 8)
    assert len(bench.sent) == fits
    bench.pass_time(1524 * 8)
    assert len(bench.sent) == fits + 5
    assert bench.nic.deadline is None
    assert all(b - a == 1524 * 8 * NS for a, b in pairwise(at for _, at in bench.sent))


def test_a_packet_may_have_many_descriptors(bench: NicBench) -> None:
    frame = frame_to(OTHER, bytes(range(200)))
    bench.slot.fill(TX_BUFFERS, frame)
    for i, (at, size) in enumerate([(0, 1), (1, 0), (1, 99), (100, 114)]):
        bench.put(i, TX_BUFFERS + at, size | (IFCS | (EOP | RS if i == 3 else 0)) << 24)
    bench[reg.TDT] = 4
    assert bench.frames == [frame]


def test_the_ring_wraps(bench: NicBench) -> None:
    for i in range(2 * RING + 3):
        bench.transmit(frame_to(OTHER, bytes([i]) * 46))
    bench.pass_time(10**6)
    assert [frame[14] for frame in bench.frames] == list(range(2 * RING + 3))
    assert bench[reg.TDH] == 3


def test_software_may_bring_its_own_fcs(bench: NicBench) -> None:
    import zlib

    frame = frame_to(OTHER)
    bench.transmit(frame + zlib.crc32(frame).to_bytes(4, "little"), EOP | RS)
    assert bench.frames == [frame]
    bench.transmit(frame + b"oops", EOP | RS)
    assert bench.frames == [frame], "a frame with a wrong FCS reaches nobody"


def test_a_vlan_tag_is_inserted_where_the_chip_may(bench: NicBench) -> None:
    for enable in (0, reg.CTRL_VME):
        bench[reg.CTRL] |= enable
        bench.transmit(frame_to(OTHER), EOP | IFCS | RS | VLE, high=0x2064 << 16)
    plain = frame_to(OTHER)
    assert bench.frames == [plain, plain[:12] + bytes.fromhex("81002064") + plain[12:]]


def test_few_descriptors_left_is_a_cause(bench: NicBench) -> None:
    bench[reg.TXDCTL] = 1 << 25  # eight
    bench[reg.IMS] = reg.TXD_LOW
    bench[reg.TCTL] = 0
    for _ in range(8):
        bench.transmit(frame_to(OTHER))
    bench[reg.TCTL] = reg.TCTL_EN
    assert not bench.line()
    bench[reg.TCTL] = 0
    for _ in range(9):
        bench.transmit(frame_to(OTHER))
    bench[reg.TCTL] = reg.TCTL_EN
    assert bench.line()


# --- offload --------------------------------------------------------------------------------------------------------

ETHERNET, IP, TCP, UDP = 14, 20, 20, 8
TUCMD_TCP, TUCMD_IP = 1, 2
DATA = 1 << 20
FIN, PSH, ACK = 1, 8, 16
SOURCE, DESTINATION = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))


def headers(*, tcp: bool, length: int, identification: int, sequence: int, flags: int) -> bytes:
    """Ethernet, IPv4 and transport header; `length` of everything behind Ethernet. Checksums are zero."""
    ip = struct.pack(">BBHHHBBH", 0x45, 0, length, identification, 0, 64, 6 if tcp else 17, 0) + SOURCE + DESTINATION
    if tcp:
        transport = struct.pack(">HHIIBBHHH", 1000, 80, sequence, 7, 0x50, flags, 0x2000, 0, 0)
    else:
        transport = struct.pack(">HHHH", 1000, 7, length - IP, 0)
    return frame_to(OTHER, b"", source=MAC) + ip + transport


def pseudo_sum(protocol: int, length: int) -> int:
    """What a driver puts into the checksum field beforehand."""
    return 0xFFFF - reference_checksum(SOURCE + DESTINATION + struct.pack(">HH", protocol, length))


def verify(frame: bytes, protocol: int) -> bytes:
    """The payload of a frame whose checksums and lengths are right."""
    ip = frame[ETHERNET:]
    total = int.from_bytes(ip[2:4], "big")
    assert total <= len(ip)
    assert reference_checksum(ip[:IP]) == 0
    transport = ip[IP:total]
    assert reference_checksum(ip[12:20] + struct.pack(">HH", protocol, len(transport)) + transport) == 0
    if protocol == 17:
        assert int.from_bytes(transport[4:6], "big") == len(transport)
        assert transport[6:8] != b"\0\0"
        return transport[UDP:]
    return transport[TCP:]


def put_context(bench: NicBench, *, tcp: bool, tse: bool = False, payload: int = 0, mss: int = 0) -> None:
    at = ETHERNET + IP + (16 if tcp else 6)
    header = ETHERNET + IP + (TCP if tcp else UDP)
    raw = struct.pack(
        "<BBHBBHIBBH", ETHERNET, ETHERNET + 10, ETHERNET + IP - 1, ETHERNET + IP, at, 0,
        payload | (DEXT | (TSE if tse else 0) | TUCMD_IP | (TUCMD_TCP if tcp else 0)) << 24, 0, header, mss,
    )  # fmt: skip
    bench.slot.fill(TX_RING + 16 * bench[reg.TDT], raw)


def send_data(bench: NicBench, packet: bytes, pieces: list[int], command: int) -> None:
    """A context is at the tail; data descriptors of these sizes follow, the last with the rest."""
    bench.slot.fill(TX_BUFFERS, packet)
    index, at = bench[reg.TDT] + 1, 0
    sizes = [*pieces, len(packet) - sum(pieces)]
    for i, size in enumerate(sizes):
        last = EOP | RS if i == len(sizes) - 1 else 0
        bench.put(index, TX_BUFFERS + at, size | DATA | (DEXT | IFCS | last | command) << 24, 3 << 8)
        index, at = (index + 1) % RING, at + size
    bench[reg.TDT] = index


@given(tcp=st.booleans(), payload=st.binary(min_size=18, max_size=1400), cut=st.integers(1, 50))
def test_checksums_are_inserted(tcp: bool, payload: bytes, cut: int) -> None:
    bench = NicBench()
    bench.start_transmitter()
    length = IP + (TCP if tcp else UDP) + len(payload)
    packet = bytearray(headers(tcp=tcp, length=length, identification=1, sequence=5, flags=ACK) + payload)
    at = ETHERNET + IP + (16 if tcp else 6)
    packet[at : at + 2] = pseudo_sum(6 if tcp else 17, length - IP).to_bytes(2, "big")
    put_context(bench, tcp=tcp)
    send_data(bench, bytes(packet), [cut], 0)
    assert verify(bench.frames[0], 6 if tcp else 17) == payload


def test_a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones(bench: NicBench) -> None:
    payload = bytearray(20)
    length = IP + UDP + len(payload)
    packet = bytearray(headers(tcp=False, length=length, identification=1, sequence=0, flags=0) + payload)
    at = ETHERNET + IP + 6
    packet[at : at + 2] = pseudo_sum(17, length - IP).to_bytes(2, "big")
    packet[-2:] = reference_checksum(bytes(packet[ETHERNET + IP :])).to_bytes(2, "big")
    put_context(bench, tcp=False)
    send_data(bench, bytes(packet), [], 0)
    assert bench.frames[0][at : at + 2] == b"\xff\xff"


@given(
    payload=st.binary(min_size=1, max_size=6000), mss=st.integers(100, 1460), sequence=st.integers(0, 2**32 - 1),
    identification=st.integers(0, 65535), flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN | PSH]),
    cuts=st.lists(st.integers(1, 2000), max_size=5), split_header=st.booleans(),
)  # fmt: skip
def test_tcp_segmentation(
    payload: bytes, mss: int, sequence: int, identification: int, flags: int, cuts: list[int], split_header: bool
) -> None:
    bench = NicBench()
    bench.start_transmitter()
    header = bytearray(headers(tcp=True, length=0, identification=identification, sequence=sequence, flags=flags))
    at = ETHERNET + IP + 16
    header[at : at + 2] = pseudo_sum(6, 0).to_bytes(2, "big")
    put_context(bench, tcp=True, tse=True, payload=len(payload), mss=mss)
    pieces = [len(header)] if split_header else []
    for cut in cuts:
        if sum(pieces) + cut < len(header) + len(payload):
            pieces.append(cut)
    send_data(bench, bytes(header) + payload, pieces, TSE)
    bench.pass_time(10**6)
    segments = [verify(frame, 6) for frame in bench.frames]
    last = len(segments) - 1
    assert b"".join(segments)[: len(payload)] == payload
    for i, frame in enumerate(bench.frames):
        ip = frame[ETHERNET:]
        assert int.from_bytes(ip[4:6], "big") == (identification + i) & 0xFFFF
        assert int.from_bytes(ip[24:28], "big") == (sequence + i * mss) & 0xFFFF_FFFF
        assert ip[33] == (flags if i == last else flags & ~(FIN | PSH))
        assert len(segments[i]) == (mss if i < last else len(payload) - last * mss)
    assert bench[reg.STATISTICS + 4 * reg.TSCTC] == 1


def test_a_wrong_payload_length_is_counted(bench: NicBench) -> None:
    packet = headers(tcp=True, length=0, identification=0, sequence=0, flags=ACK) + bytes(100)
    put_context(bench, tcp=True, tse=True, payload=99, mss=50)
    send_data(bench, packet, [], TSE)
    assert bench[reg.STATISTICS + 4 * reg.TSCTFC] == 1


def test_a_legacy_descriptor_inserts_one_checksum(bench: NicBench) -> None:
    packet = headers(tcp=False, length=IP + UDP + 18, identification=0, sequence=0, flags=0) + bytes(18)
    bench.transmit(packet, EOP | IFCS | IC | RS, cso=ETHERNET + 10, high=ETHERNET << 8)
    assert reference_checksum(bench.frames[0][ETHERNET:]) == 0


# --- the receiver checks what the reference makes --------------------------------------------------------------------


@given(
    tcp=st.booleans(), payload=st.binary(min_size=18, max_size=300), spoil=st.sampled_from(["", "ip", "transport"]),
    padding=st.integers(0, 20), enabled=st.integers(0, 3),
)  # fmt: skip
def test_receive_checksum_offload(tcp: bool, payload: bytes, spoil: str, padding: int, enabled: int) -> None:
    bench = NicBench()
    bench.start_receiver()
    bench[reg.RXCSUM] = enabled << 8 | ETHERNET
    protocol = 6 if tcp else 17
    length = IP + (TCP if tcp else UDP) + len(payload)
    packet = bytearray(headers(tcp=tcp, length=length, identification=1, sequence=5, flags=ACK) + payload)
    at = ETHERNET + IP + (16 if tcp else 6)
    pseudo = SOURCE + DESTINATION + struct.pack(">HH", protocol, length - IP)
    packet[at : at + 2] = (reference_checksum(pseudo + packet[ETHERNET + IP :]) or 0xFFFF).to_bytes(2, "big")
    packet[ETHERNET + 10 : ETHERNET + 12] = reference_checksum(bytes(packet[ETHERNET : ETHERNET + IP])).to_bytes(
        2, "big"
    )
    packet[:6] = MAC
    if spoil:
        packet[ETHERNET + 1 if spoil == "ip" else -1] ^= 0x55
    packet += bytes(padding)
    bench.receive(bytes(packet))
    _, packet_checksum, status, errors, _ = bench.received(0)
    ip_on, transport_on = enabled & 1, enabled >> 1
    assert bool(status & 0x40) == bool(ip_on)
    assert bool(status & 0x20) == bool(transport_on)
    assert bool(status & 0x04) == (not enabled)
    assert bool(errors & 0x40) == bool(ip_on and spoil == "ip")
    assert bool(errors & 0x20) == bool(transport_on and spoil == "transport")
    assert packet_checksum == reference_checksum(bytes(packet[ETHERNET:]))


# --- what the manual forbids ----------------------------------------------------------------------------------------


def test_a_tail_outside_the_ring_stops_the_queue(bench: NicBench) -> None:
    bench.transmit(frame_to(OTHER))
    bench[reg.TDT] = RING
    assert (len(bench.sent), bench.nic.deadline) == (1, None)


def test_a_ring_without_memory_reads_as_ones_and_ends(bench: NicBench) -> None:
    bench[reg.TDBAH] = 0xFFFF_FFFF
    bench[reg.TDT] = RING - 1
    bench.pass_time(10**6)
    assert (bench.sent, bench[reg.TDH], bench.nic.deadline) == ([], RING - 1, None)


def test_a_packet_without_end_is_dropped_and_the_next_one_goes_out(bench: NicBench) -> None:
    for i in range(10):
        bench.put(i, 0, 0xFFFF | IFCS << 24)
    bench.put(10, 0, 64 | (EOP | IFCS) << 24)
    bench[reg.TDT] = 11
    bench.transmit(frame_to(OTHER))
    assert bench.frames == [frame_to(OTHER)]


def test_a_doorbell_does_a_bounded_piece_of_work(bench: NicBench) -> None:
    bench[reg.TDLEN] = 0xF_FF80
    bench[reg.TDT] = 0xFFF7
    assert bench.slot.reads <= 2 * BATCH
    bench.pass_time(10 * FETCH_NS)
    assert bench.slot.reads <= 11 * 2 * BATCH


def test_a_context_that_changes_within_a_packet_does_not_keep_it_from_ending(bench: NicBench) -> None:
    """Segments of one byte behind a header of 54; then, in the middle, behind none."""
    put_context(bench, tcp=True, tse=True, payload=200, mss=1)
    command = (DEXT | TSE | RS) << 24
    bench.put(1, TX_BUFFERS, 100 | DATA | command)
    shorter = struct.pack("<BBHBBH", 0, 0, 0, 0, 0, 0) + struct.pack("<IHH", command, 0, 1)
    bench.slot.fill(TX_RING + 32, shorter)
    bench.put(3, TX_BUFFERS, 100 | DATA | command | EOP << 24)
    bench[reg.TDT] = 4
    bench.pass_time(1_000_000)
    assert bench[reg.TDH] == 4
    assert bench.nic.deadline is None


def test_segments_of_one_byte_leave_at_the_lines_speed(bench: NicBench) -> None:
    put_context(bench, tcp=True, tse=True, payload=0xF_FFFF, mss=1)
    bench.put(1, 0, 0xF_FFFF | DATA | (DEXT | TSE | EOP | RS) << 24, 3 << 8)
    bench[reg.TDT] = 2
    assert len(bench.sent) <= BATCH
    bench.pass_time(100 * FETCH_NS)
    left = 100 * FETCH_NS // (84 * 8)
    assert left <= len(bench.sent) <= left + SEND_BUFFER // 84 + 1
