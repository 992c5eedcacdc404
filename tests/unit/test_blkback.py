"""The block back end against a front end in this process: requests, notifications, what is refused, what is held."""

from __future__ import annotations

import copy

import pytest

from hv.host.store import SECTOR, MemoryStore, StoreError
from modes.paravirt.abi import Refused
from modes.paravirt.grants import GrantRefused
from tests.split_rig import IN_USE, READ_ONLY, BlockFront

READ, WRITE, BARRIER, FLUSH, PACKET, DISCARD, INDIRECT = range(7)
OKAY, ERROR, UNSUPPORTED = 0, -1, -2


@pytest.fixture
def front() -> BlockFront:
    return BlockFront()


def test_what_the_front_end_finds_in_the_store(front: BlockFront) -> None:
    offer = front.back.offer()
    assert offer["feature-flush-cache"] == "1"
    assert offer["feature-barrier"] == offer["feature-discard"] == offer["feature-persistent"] == "0"
    assert "feature-max-indirect-segments" not in offer
    assert front.nodes == {"sectors": "4096", "sector-size": "512", "physical-sector-size": "512", "info": "0"}


def test_a_block_is_read_into_the_granted_frame_and_the_id_comes_back(front: BlockFront) -> None:
    frame = front.frame()
    ref = front.grant(frame)
    front.ask(READ, 16, [(ref, 0, 7)], id=0x1234_5678_9ABC_DEF0)
    assert front.go() == [(0x1234_5678_9ABC_DEF0, READ, OKAY)]
    assert front.get(frame, 0, 4096) == front.store.read(16, 8)
    assert front.events == 1
    assert front.flags(ref) == 1, "nobody has the frame any more"


def test_segments_are_parts_of_frames(front: BlockFront) -> None:
    frames = [front.frame() for _ in range(11)]
    front.ask(READ, 3, [(front.grant(frame), i % 8, 7) for i, frame in enumerate(frames)])
    assert front.go() == [(7, READ, OKAY)]
    sector = 3
    for i, frame in enumerate(frames):
        size = 8 - i % 8
        assert front.get(frame, 0, 4096) == bytes(i % 8 * SECTOR) + front.store.read(sector, size)
        sector += size


def test_a_write_reaches_the_store_before_it_is_answered(front: BlockFront) -> None:
    frame = front.frame()
    front.put(frame, 0, b"new" * 512)
    front.ask(WRITE, 100, [(front.grant(frame, 1 | READ_ONLY), 1, 2)])
    assert front.go() == [(7, WRITE, OKAY)]
    assert front.store.read(100, 2) == (b"new" * 512)[512:1536]


def test_a_frame_is_held_while_the_disk_works(front: BlockFront) -> None:
    ref = front.grant(front.frame())
    front.ask(READ, 0, [(ref, 0, 7)])
    front.ring.push()
    front.back.kicked()
    assert front.flags(ref) == 1
    front.advance(front.cpu.delay)
    assert front.flags(ref) == 1 | IN_USE
    front.advance(front.model.local.read + 8 * front.model.local.sector + front.cpu.delay - 1)
    assert front.answers() == []
    front.advance(1)
    assert front.answers() == [(7, READ, OKAY)]
    assert front.flags(ref) == 1


def test_a_grant_taken_back_and_given_to_another_frame_meanwhile_changes_nothing(front: BlockFront) -> None:
    mine, other = front.frame(), front.frame()
    ref = front.grant(mine)
    front.ask(READ, 0, [(ref, 0, 7)])
    front.ring.push()
    front.back.kicked()
    front.advance(front.cpu.delay)
    front.set_grant(ref, other, 1)
    front.advance()
    assert front.get(mine, 0, 4096) == front.store.read(0, 8)
    assert front.get(other, 0, 4096) == bytes(4096)


def test_latencies_pass_side_by_side_and_data_one_after_the_other(front: BlockFront) -> None:
    """The first of 32 takes the disk's latency, each further one a transfer."""
    refs = [front.grant(front.frame()) for _ in range(32)]
    for i, ref in enumerate(refs):
        front.ask(READ, 8 * i, [(ref, 0, 7)], id=i)
    assert front.ring.push()
    front.back.kicked()
    times, delay = front.model.local, front.cpu.delay
    front.advance(2 * delay + times.read + 8 * times.sector - 1)
    seen = []
    for _ in refs:
        assert front.answers() == []
        front.advance(1)
        seen += front.answers()
        front.advance(8 * times.sector - 1)
    assert seen == [(i, READ, OKAY) for i in range(32)]
    assert front.events == 32, "each time the front end had asked for an event with the next response"


def test_a_front_end_that_does_not_ask_is_not_told(front: BlockFront) -> None:
    front.ring.index(3, 4)  # rsp_event: the fourth response
    for i in range(4):
        front.ask(FLUSH, 0, [], id=i)
    front.ring.push()
    front.back.kicked()
    front.advance()
    assert front.events == 1


def test_kicks_are_wanted_only_while_the_back_end_sleeps(front: BlockFront) -> None:
    wanted = []
    for _ in range(10):
        front.ask(FLUSH, 0, [])
        wanted.append(front.ring.push())
    assert wanted == [True] + 9 * [False]
    front.back.kicked()
    front.advance(front.cpu.delay)
    front.ask(FLUSH, 0, [])
    assert front.ring.push(), "it has taken all and asks for an event"
    assert len(front.go()) == 10


def test_flush_reaches_the_store_and_may_have_data() -> None:
    said = []

    class Noting(MemoryStore):
        def flush(self) -> None:
            said.append("flush")

        def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
            said.append(f"write {sector}")

    front = BlockFront(Noting(64))
    front.ask(FLUSH, 0, [])
    front.ask(FLUSH, 5, [(front.grant(front.frame()), 0, 0)])
    assert front.go() == [(7, FLUSH, OKAY)] * 2
    assert said == ["flush", "flush", "write 5"]


@pytest.mark.parametrize("operation", [BARRIER, PACKET, DISCARD, INDIRECT, 7, 255])
def test_what_was_not_offered_is_unsupported(front: BlockFront, operation: int) -> None:
    front.ask(operation, 0, [(front.grant(front.frame()), 0, 7)])
    assert front.go() == [(7, operation, UNSUPPORTED)]


@pytest.mark.parametrize(
    ("sector", "first", "last", "count"),
    [
        (0, 0, 7, 0), (0, 0, 7, 12), (0, 0, 7, 255), (0, 3, 2, 1), (0, 0, 8, 1), (0, 255, 255, 1),
        (4089, 0, 7, 1), (4096, 0, 0, 1), ((1 << 64) - 1, 0, 7, 1), (1 << 55, 0, 0, 1),
    ],
)  # fmt: skip
def test_nonsense_is_an_error_and_nothing_is_touched(
    front: BlockFront, sector: int, first: int, last: int, count: int
) -> None:
    frame = front.frame()
    before = front.store.read(0, 4096)
    for operation in (READ, WRITE):
        front.ask(operation, sector, [(front.grant(frame), first, last)], count=count)
    assert front.go() == [(7, READ, ERROR), (7, WRITE, ERROR)]
    assert front.store.read(0, 4096) == before
    assert front.get(frame, 0, 4096) == bytes(4096)


@pytest.mark.parametrize("flags", [0, 1 | READ_ONLY, 2, 3])
def test_a_grant_that_does_not_allow_it_is_an_error_and_the_others_are_let_go(front: BlockFront, flags: int) -> None:
    good = front.grant(front.frame())
    front.ask(READ, 0, [(good, 0, 7), (front.grant(front.frame(), flags), 0, 7)])
    assert front.go() == [(7, READ, ERROR)]
    assert front.flags(good) == 1
    assert len(front.grants.s.handles) == 1, "the ring"


@pytest.mark.parametrize("ref", [511, 512, 1 << 31, (1 << 32) - 1])
def test_a_reference_of_nobody_is_an_error(front: BlockFront, ref: int) -> None:
    front.ask(READ, 0, [(ref, 0, 7)])
    assert front.go() == [(7, READ, ERROR)]


def test_a_grant_to_another_domain_is_an_error(front: BlockFront) -> None:
    front.ask(READ, 0, [(front.grant(front.frame(), 1, domid=2), 0, 7)])
    assert front.go() == [(7, READ, ERROR)]


def test_a_read_only_disk_is_not_written() -> None:
    store = MemoryStore(64)
    store.read_only = True
    front = BlockFront(store)
    assert front.nodes["info"] == "4"
    assert front.back.offer()["mode"] == "r"
    ref = front.grant(front.frame())
    front.ask(WRITE, 0, [(ref, 0, 0)])
    front.ask(READ, 0, [(ref, 0, 0)])
    assert {status for _, _, status in front.go()} == {ERROR, OKAY}
    assert store.pages == {}


def test_a_bad_sector_is_an_error() -> None:
    class Bad(MemoryStore):
        def read(self, sector: int, count: int) -> bytes:
            raise StoreError("bad", sector)

    front = BlockFront(Bad(64))
    ref = front.grant(front.frame())
    front.ask(READ, 0, [(ref, 0, 0)])
    assert front.go() == [(7, READ, ERROR)]
    assert front.flags(ref) == 1


@pytest.mark.parametrize("prod", [33, 1 << 31, (1 << 32) - 1])
def test_a_front_end_whose_index_runs_away_is_not_listened_to_until_it_connects_again(
    front: BlockFront, prod: int
) -> None:
    front.ask(FLUSH, 0, [])
    assert len(front.go()) == 1
    front.ring.index(0, 1 + prod)
    front.back.kicked()
    front.advance()
    assert front.answers() == []
    front.back.kicked()
    assert front.back.deadline is None
    assert front.back.refused == {"run away": 1}
    front.back.disconnect()
    front.connect()
    front.ask(FLUSH, 0, [])
    assert front.go() == [(7, FLUSH, OKAY)]


def test_a_request_is_what_it_was_when_it_was_taken(front: BlockFront) -> None:
    frame = front.frame()
    front.ask(READ, 8, [(front.grant(frame), 0, 7)])
    front.ring.push()
    front.back.kicked()
    front.advance(front.cpu.delay)
    front.put(front.ring_frame, 64, b"\xff" * 112)
    front.advance()
    assert front.answers() == [(7, READ, OKAY)]
    assert front.get(frame, 0, 4096) == front.store.read(8, 8)


def test_kicks_without_end_are_one_look(front: BlockFront) -> None:
    front.ask(FLUSH, 0, [])
    front.ring.push()
    front.back.kicked()
    deadline = front.back.deadline
    for _ in range(1000):
        front.back.kicked()
    assert front.back.deadline == deadline
    front.advance()
    assert len(front.answers()) == 1
    assert front.back.deadline is None


def test_a_front_end_that_goes_leaves_nothing_behind(front: BlockFront) -> None:
    refs = [front.grant(front.frame()) for _ in range(5)]
    for ref in refs:
        front.ask(WRITE, 0, [(ref, 0, 7)])
    front.ring.push()
    front.back.kicked()
    front.advance(front.cpu.delay)
    front.back.disconnect()
    front.advance()
    assert front.grants.s.handles == {}
    assert [front.flags(ref) for ref in refs] == [1] * 5
    assert front.store.pages == {}, "none of them was answered"
    assert front.events == 0
    front.connect()
    front.ask(WRITE, 0, [(refs[0], 0, 7)])
    assert front.go() == [(7, WRITE, OKAY)]


def test_the_next_front_end_takes_up_the_ring_as_it_finds_it(front: BlockFront) -> None:
    """One that keeps its ring over a reconnection: indices go on, and what was not answered is done now."""
    front.ask(FLUSH, 0, [], id=1)
    assert len(front.go()) == 1
    front.ask(FLUSH, 0, [], id=2)
    front.ring.push()
    front.back.disconnect()
    front.back.connect(front.front)
    front.advance()
    assert front.answers() == [(2, FLUSH, OKAY)]


def test_indices_go_round(front: BlockFront) -> None:
    front.back.disconnect()
    ring = front.ring
    ring.requests = ring.responses = 0xFFFF_FFF0
    for place, value in enumerate((0xFFFF_FFF0, 0xFFFF_FFF1, 0xFFFF_FFF0, 0xFFFF_FFF1)):
        ring.index(place, value)
    front.back.connect(front.front)
    for i in range(32):
        front.ask(FLUSH, 0, [], id=i)
    assert ring.push()
    front.back.kicked()
    front.advance()
    assert ring.index(2) == 0x10
    assert front.events == 1


@pytest.mark.parametrize(
    ("node", "value"),
    [("ring-ref", None), ("ring-ref", "x"), ("ring-ref", "-1"), ("ring-ref", "400"), ("protocol", "x86_32-abi")],
)
def test_a_connection_that_cannot_be_is_refused_and_holds_nothing(
    front: BlockFront, node: str, value: str | None
) -> None:
    front.back.disconnect()
    front.values.pop(node)
    if value is not None:
        front.values[node] = value
    with pytest.raises((Refused, GrantRefused)):
        front.back.connect(front.front)
    assert front.grants.s.handles == {}


def test_a_snapshot_in_the_middle_goes_on_as_if_nothing_had_been(front: BlockFront) -> None:
    frames = [front.frame() for _ in range(3)]
    for i, frame in enumerate(frames):
        front.ask(READ, 8 * i, [(front.grant(frame), 0, 7)], id=i)
    front.ring.push()
    front.back.kicked()
    front.advance(front.cpu.delay + front.model.local.read)
    kept = front.back.state(), front.grants.s, front.memory.save(), front.frames.state()
    back, grants, memory, frames_kept = copy.deepcopy(kept)
    front.advance()
    straight = front.ring.answers(12), [front.get(frame, 0, 4096) for frame in frames]
    front.memory.load(memory)
    front.grants.s = grants
    front.frames.set_state(frames_kept)
    front.back.set_state(back, front.front)
    front.cpu.reschedule()
    front.ring.responses = 0
    front.advance()
    assert (front.ring.answers(12), [front.get(frame, 0, 4096) for frame in frames]) == straight
