"""The network back end against a front end in this process: packets, notifications, what is refused, what is held."""

from __future__ import annotations

import copy
import itertools
import struct

import pytest

from hv.silicon.ethernet.frames import checksum
from modes.paravirt.abi import Refused
from modes.paravirt.grants import GrantRefused
from tests.split_rig import MAC, READ_ONLY, NetFront

OTHER = bytes.fromhex("0268760000fe")
BLANK, VALIDATED, MORE, EXTRA = 1, 2, 4, 8
OKAY, ERROR, NULL = 0, -1, 1


@pytest.fixture
def front() -> NetFront:
    return NetFront()


def frame_of(size: int, *, to: bytes = OTHER, source: bytes = MAC) -> bytes:
    return to + source + b"\x08\x00" + bytes(i % 251 for i in range(size - 14))


def put_packet(front: NetFront, data: bytes, offset: int = 0) -> int:
    """A read-only grant for a frame that holds the data."""
    frame = front.frame()
    front.put(frame, offset, data)
    return front.grant(frame, 1 | READ_ONLY)


def test_what_the_front_end_finds_in_the_store(front: NetFront) -> None:
    offer = front.back.offer()
    assert offer["feature-sg"] == offer["feature-rx-copy"] == "1"
    assert offer["feature-gso-tcpv4"] == offer["feature-rx-flip"] == "0"
    assert front.back.front_nodes == {"mac": "02:68:76:00:00:01"}


def test_a_packet_goes_onto_the_wire_and_is_answered_when_it_has_left(front: NetFront) -> None:
    data = frame_of(100)
    front.ask(put_packet(front, data, 40), 40, 100, id=77)
    assert front.tx.push()
    front.back.kicked()
    line = front.wire.frame_time(data)
    front.advance(front.cpu.delay + line - 1)
    assert front.tx.answers(4) == []
    front.advance(1)
    assert front.tx.answers(4) == [struct.pack("<Hh", 77, OKAY)]
    front.advance()
    leaves = front.cpu.delay + line
    assert front.sent == [(data, leaves + front.wire.times.latency + line)]
    assert front.events == 1


def test_a_short_packet_is_padded(front: NetFront) -> None:
    front.ask(put_packet(front, frame_of(14)), 0, 14)
    assert front.go() == [(1, OKAY)]
    assert front.sent[0][0] == frame_of(14).ljust(60, b"\0")


def test_a_packet_of_several_slots_is_one_frame(front: NetFront) -> None:
    data = frame_of(1514)
    parts = data[:500], data[500:1400], data[1400:]
    refs = [put_packet(front, part) for part in parts]
    front.ask(refs[0], 0, 1514, flags=MORE, id=1)
    front.ask(refs[1], 0, 900, flags=MORE, id=2)
    front.ask(refs[2], 0, 114, id=3)
    assert front.go() == [(1, OKAY), (2, OKAY), (3, OKAY)]
    assert [frame for frame, _ in front.sent] == [data]


def test_packets_leave_one_after_the_other_at_the_line_s_speed(front: NetFront) -> None:
    data = frame_of(1514)
    ref = put_packet(front, data)
    for i in range(20):
        front.ask(ref, 0, 1514, id=i)
    assert front.go() == [(i, OKAY) for i in range(20)]
    times = [at for _, at in front.sent]
    assert [b - a for a, b in itertools.pairwise(times)] == 19 * [front.wire.frame_time(data)]


def test_one_kick_is_wanted_for_many_packets_and_one_event_for_their_answers(front: NetFront) -> None:
    ref = put_packet(front, frame_of(100))
    wanted = []
    for _ in range(32):
        front.ask(ref, 0, 100)
        wanted.append(front.tx.push())
    assert wanted == [True] + 31 * [False]
    front.tx.index(3, 32)  # rsp_event: the last one
    front.back.kicked()
    front.advance()
    assert front.tx.index(2) == 32
    assert front.events == 1


@pytest.mark.parametrize("protocol", [6, 17])
def test_a_checksum_that_the_front_end_leaves_out_is_put_in(front: NetFront, protocol: int) -> None:
    payload = b"checksummed"
    at = 16 if protocol == 6 else 6
    size = (20 if protocol == 6 else 8) + len(payload)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + size, 1, 0, 64, protocol, 0, b"\x0a\0\2\x0f", b"\x0a\0\2\2")
    pseudo = b"\x0a\0\2\x0f" + b"\x0a\0\2\2" + struct.pack(">BBH", 0, protocol, size)
    transport = bytearray(size - len(payload)) + payload
    if protocol == 17:
        transport[4:6] = size.to_bytes(2, "big")
    transport[at : at + 2] = (0xFFFF - checksum(pseudo)).to_bytes(2, "big")
    data = OTHER + MAC + b"\x08\x00" + header + bytes(transport)
    front.ask(put_packet(front, data), 0, len(data), flags=BLANK | VALIDATED)
    assert front.go() == [(1, OKAY)]
    sent = front.sent[0][0][14 + 20 : len(data)]
    assert checksum(pseudo + sent) == 0


@pytest.mark.parametrize(
    "data",
    [
        frame_of(14), frame_of(100), frame_of(34), OTHER + MAC + b"\x86\xdd" + bytes(60),
        OTHER + MAC + b"\x08\x00\x4f" + bytes(20),
    ],
)  # fmt: skip
def test_a_checksum_that_has_no_place_is_an_error(front: NetFront, data: bytes) -> None:
    front.ask(put_packet(front, data), 0, len(data), flags=BLANK)
    assert front.go() == [(1, ERROR)]
    assert front.sent == []


# --- extra information ----------------------------------------------------------------------------------------------


def test_a_hash_is_a_hint_and_its_response_says_nothing(front: NetFront) -> None:
    data = frame_of(200)
    refs = put_packet(front, data[:100]), put_packet(front, data[100:])
    front.ask(refs[0], 0, 200, flags=EXTRA | MORE, id=5)
    front.extra(4)
    front.ask(refs[1], 0, 100, id=6)
    answers = front.go()
    assert answers[0] == (5, OKAY)
    assert answers[1][1] == NULL
    assert answers[2] == (6, OKAY)
    assert front.sent[0][0] == data


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_what_was_not_offered_is_an_error(front: NetFront, kind: int) -> None:
    front.ask(put_packet(front, frame_of(100)), 0, 100, flags=EXTRA)
    front.extra(4, more=1)
    front.extra(kind)
    front.ask(put_packet(front, frame_of(100)), 0, 100, id=2)
    statuses = [status for _, status in front.go()]
    assert statuses == [ERROR, NULL, NULL, OKAY]
    assert len(front.sent) == 1


# --- nonsense -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 13, 1519, 4096])
def test_a_size_that_no_frame_has_is_an_error(front: NetFront, size: int) -> None:
    front.ask(put_packet(front, b"x"), 0, size)
    assert front.go() == [(1, ERROR)]
    assert front.sent == []


def test_a_packet_smaller_than_its_parts_is_an_error(front: NetFront) -> None:
    ref = put_packet(front, frame_of(100))
    front.ask(ref, 0, 100, flags=MORE, id=1)
    front.ask(ref, 0, 101, id=2)
    assert front.go() == [(1, ERROR), (2, ERROR)]


def test_a_packet_of_many_slots_is_an_error_and_the_next_one_is_sent(front: NetFront) -> None:
    ref = put_packet(front, frame_of(100))
    for i in range(19):
        front.ask(ref, 0, 100 if i == 0 else 1, flags=MORE if i < 18 else 0)
    front.ask(ref, 0, 100)
    assert [status for _, status in front.go()] == 19 * [ERROR] + [OKAY]


@pytest.mark.parametrize("flags", [0, 2, 3])
def test_a_grant_that_does_not_allow_it_is_an_error(front: NetFront, flags: int) -> None:
    front.ask(front.grant(front.frame(), flags), 0, 100)
    front.ask(front.grant(front.frame(), 1, domid=3), 0, 100, id=2)
    front.ask((1 << 32) - 1, 0, 100, id=3)
    assert front.go() == [(1, ERROR), (2, ERROR), (3, ERROR)]


def fatal_requests(front: NetFront, what: str) -> None:
    ref = put_packet(front, frame_of(100))
    if what == "slot across a page's end":
        front.ask(ref, 4000, 100)
    elif what == "packet without an end":
        front.ask(ref, 0, 100, flags=MORE)
    elif what == "packet of too many slots":
        for _ in range(30):
            front.ask(ref, 0, 1, flags=MORE)
    elif what == "no extra information":
        front.ask(ref, 0, 100, flags=EXTRA)
    elif what == "unknown extra information":
        front.ask(ref, 0, 100, flags=EXTRA)
        front.extra(6)
    else:
        front.tx.requests += 257


@pytest.mark.parametrize(
    "what",
    [
        "slot across a page's end", "packet without an end", "packet of too many slots", "no extra information",
        "unknown extra information", "run away",
    ],
)  # fmt: skip
def test_a_front_end_that_breaks_the_protocol_is_not_listened_to_until_it_connects_again(
    front: NetFront, what: str
) -> None:
    fatal_requests(front, what)
    assert front.go() == []
    assert front.back.refused == {what: 1}
    front.inject(frame_of(100, to=MAC, source=OTHER), front.cpu.now)
    front.back.kicked()
    assert front.back.deadline is None
    front.advance()
    front.back.disconnect()
    front.connect()
    front.ask(put_packet(front, frame_of(100)), 0, 100)
    assert front.go() == [(1, OKAY)]
    assert len(front.sent) == 1


def test_an_index_that_goes_back_is_not_believed(front: NetFront) -> None:
    front.ask(put_packet(front, frame_of(100)), 0, 100)
    assert len(front.go()) == 1
    front.tx.index(0, 0)
    front.back.kicked()
    front.advance()
    assert front.back.refused == {"run away": 1}


def test_a_receive_ring_that_runs_away_too(front: NetFront) -> None:
    front.rx.index(0, 1000)
    front.inject(frame_of(100, to=MAC, source=OTHER), front.cpu.now)
    front.advance()
    assert front.received() == []
    assert front.back.refused == {"run away": 1}


# --- from the wire --------------------------------------------------------------------------------------------------


def arrive(front: NetFront, size: int = 100, *, time: int | None = None) -> bytes:
    data = frame_of(size, to=MAC, source=OTHER)
    front.inject(data, front.cpu.now)
    if time is None:
        front.advance()
    else:
        front.advance(time)
    return data


def test_a_frame_is_copied_into_the_next_buffer(front: NetFront) -> None:
    frames = [front.frame() for _ in range(3)]
    for i, frame in enumerate(frames):
        front.give(front.grant(frame), id=10 + i)
    front.rx.push()
    data = arrive(front)
    assert front.received() == [(10, 0, 0, 100)]
    assert front.get(frames[0], 0, 4096) == data.ljust(4096, b"\0")
    assert front.events == 1
    arrive(front)
    assert front.received() == [(11, 0, 0, 100)]


def test_buffers_given_back_need_a_kick_only_when_a_frame_waits_for_one(front: NetFront) -> None:
    front.give(front.grant(front.frame()))
    assert front.rx.push(), "the first, as ring.h has it"
    front.back.kicked()
    arrive(front)
    for _ in range(10):
        assert len(front.received()) == 1
        front.give(front.grant(front.frame()))
        assert not front.rx.push()
        arrive(front)
    assert len(front.received()) == 1
    arrive(front)
    assert front.received() == []
    front.give(front.grant(front.frame()))
    assert front.rx.push(), "a frame waits"
    front.back.kicked()
    front.advance()
    assert len(front.received()) == 1


def test_frames_that_nobody_takes_are_lost_after_a_while(front: NetFront) -> None:
    for _ in range(40):
        arrive(front)
    assert front.back.refused == {"frame": 8}
    for _ in range(40):
        front.give(front.grant(front.frame()))
    front.go()
    assert len(front.received()) == 32


@pytest.mark.parametrize("flags", [0, 1 | READ_ONLY, 3])
def test_a_buffer_that_cannot_be_written_costs_its_frame(front: NetFront, flags: int) -> None:
    front.give(front.grant(front.frame(), flags), id=1)
    front.give(front.grant(front.frame()), id=2)
    front.rx.push()
    arrive(front)
    arrive(front)
    assert front.received() == [(1, 0, 0, ERROR), (2, 0, 0, 100)]


# --- coming and going -----------------------------------------------------------------------------------------------


def test_a_front_end_that_goes_leaves_nothing_behind(front: NetFront) -> None:
    ref = put_packet(front, frame_of(100))
    for _ in range(10):
        front.ask(ref, 0, 100)
    front.tx.push()
    front.back.kicked()
    front.advance(front.cpu.delay)
    front.back.disconnect()
    front.advance()
    assert front.grants.s.handles == {}
    assert front.grants.s.uses == {}
    assert front.events == 0
    assert len(front.sent) == 10, "what has left is on its way"
    arrive(front)
    assert front.back.refused == {"frame": 1}


@pytest.mark.parametrize("node", ["tx-ring-ref", "rx-ring-ref", "request-rx-copy"])
def test_a_connection_that_cannot_be_is_refused_and_holds_nothing(front: NetFront, node: str) -> None:
    front.back.disconnect()
    front.values[node] = "0"
    with pytest.raises((Refused, GrantRefused)):
        front.back.connect(front.front)
    assert front.grants.s.handles == {}


def test_kicks_without_end_are_one_look(front: NetFront) -> None:
    front.back.kicked()
    deadline = front.back.deadline
    for _ in range(1000):
        front.back.kicked()
    assert front.back.deadline == deadline


def test_a_snapshot_in_the_middle_goes_on_as_if_nothing_had_been(front: NetFront) -> None:
    data = frame_of(1000)
    ref = put_packet(front, data)
    for i in range(5):
        front.ask(ref, 0, 1000, id=i)
    front.give(front.grant(front.frame()))
    front.tx.push()
    front.rx.push()
    front.back.kicked()
    front.inject(frame_of(100, to=MAC, source=OTHER), front.cpu.now)
    front.advance(front.cpu.delay + 2 * front.wire.frame_time(data))
    parts = front.back.state(), front.cpu.state, front.grants.s, front.memory.save(), front.frames.state()
    back, wire, grants, memory, frames = copy.deepcopy(parts)
    now = front.cpu.now
    already = len(front.sent)
    front.advance()
    straight = front.tx.answers(4), front.received(), front.sent[already:]
    del front.sent[already:]
    front.memory.load(memory)
    front.grants.s = grants
    front.frames.set_state(frames)
    front.back.set_state(back, front.front)
    front.cpu.vm.now = now  # type: ignore[misc]
    front.cpu.state = wire
    front.tx.responses = front.rx.responses = 0
    front.advance()
    assert (front.tx.answers(4), front.received(), front.sent[already:]) == straight
