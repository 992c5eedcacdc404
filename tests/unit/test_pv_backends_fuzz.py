"""The fuzzer of the back ends reaches everything in a short run, and finds bugs that are planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modes.paravirt.backends import netback
from modes.paravirt.backends.blkback import Blkback, InFlight
from modes.paravirt.backends.blkif import Request, Segment, parse
from modes.paravirt.backends.netback import Netback
from modes.paravirt.backends.ring import MASK, REQ_PROD, Ring
from modes.paravirt.grants import READ_ONLY, Grants
from tests.fuzz import pv_backends


def test_the_back_ends_withstand_a_hostile_front_end() -> None:
    assert pv_backends.run(4, 16_000).missing == []


def ring_without_a_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ring, "waiting", lambda ring: ring._get(REQ_PROD) - ring.state.taken & MASK)


def ring_that_answers_twice(patch: pytest.MonkeyPatch) -> None:
    original = Ring.answer

    def answer(ring: Ring, response: bytes) -> None:
        original(ring, response)
        if ring.state.answered % 7 == 0:
            original(ring, response)

    patch.setattr(Ring, "answer", answer)


def ring_that_shows_late(patch: pytest.MonkeyPatch) -> None:
    original = Ring.push
    patch.setattr(Ring, "push", lambda ring: ring.state.answered % 5 != 0 and original(ring))


def block_request_read_twice(patch: pytest.MonkeyPatch) -> None:
    """Checked as it was copied, used as it is in the ring by then."""
    original = Blkback._give

    def give(back: Blkback, request: Request, segments: list[Segment], handles: list[int], now: int) -> None:
        place = back.ring._place(back.ring.state.taken - 1)
        again = parse(back.ring.page.read(place, back.ring.entry))
        original(back, request._replace(sector=again.sector), segments, handles, now)

    patch.setattr(Blkback, "_give", give)


def block_without_a_look_at_the_sector(patch: pytest.MonkeyPatch) -> None:
    original = Blkback._what_is_wrong

    def wrong(back: Blkback, request: Request, segments: list[Segment]) -> str | None:
        return original(back, request._replace(sector=0), segments)

    patch.setattr(Blkback, "_what_is_wrong", wrong)


def block_without_a_look_at_the_segments(patch: pytest.MonkeyPatch) -> None:
    original = Blkback._what_is_wrong

    def wrong(back: Blkback, request: Request, segments: list[Segment]) -> str | None:
        found = original(back, request, segments)
        return None if found == "segment" else found

    patch.setattr(Blkback, "_what_is_wrong", wrong)


def block_that_keeps_what_it_has_mapped(patch: pytest.MonkeyPatch) -> None:
    """When a later segment's grant is refused."""
    original = Blkback._unmap
    patch.setattr(Blkback, "_unmap", lambda back, handles: original(back, handles[: max(1, len(handles) - 1)]))


def block_that_unmaps_too_early(patch: pytest.MonkeyPatch) -> None:
    original = Blkback._finish

    def finish(back: Blkback, request: InFlight) -> None:
        back._unmap(request.handles[:1])
        original(back, request)

    patch.setattr(Blkback, "_finish", finish)


def block_that_forgets_what_is_in_flight(patch: pytest.MonkeyPatch) -> None:
    original = Blkback.disconnect

    def disconnect(back: Blkback) -> None:
        back.s.flight = []
        original(back)

    patch.setattr(Blkback, "disconnect", disconnect)


def block_that_says_yes(patch: pytest.MonkeyPatch) -> None:
    """The response comes before the data are there."""
    original = Blkback._read

    def read(back: Blkback, request: InFlight) -> None:
        if request.order % 2:
            original(back, request)

    patch.setattr(Blkback, "_read", read)


def net_without_a_look_at_sizes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(netback, "LONGEST", 1 << 16)


def net_with_responses_for_nothing(patch: pytest.MonkeyPatch) -> None:
    original = Netback._answer
    patch.setattr(Netback, "_answer", lambda back, ids, extras, status: original(back, ids, extras * 2, status))


def net_that_listens_to_anybody(patch: pytest.MonkeyPatch) -> None:
    """A kick wakes it, whatever the front end has done before."""

    def kicked(back: Netback) -> None:
        back.s.wake = back.cpu.now + back.cpu.delay
        back.cpu.reschedule()

    patch.setattr(Netback, "kicked", kicked)


def net_with_a_queue_without_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(netback, "QUEUE", 1 << 20)


def net_with_the_last_frame_s_rest(patch: pytest.MonkeyPatch) -> None:
    original = Grants.write
    kept = [b""]

    def write(grants: Grants, ref: int, offset: int, data: bytes, *rest: Any) -> None:
        kept[0] = data + kept[0][len(data) :]
        original(grants, ref, offset, kept[0], *rest)

    patch.setattr(Grants, "write", write)


def grants_without_read_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("modes.paravirt.grants.READ_ONLY", 0)
    assert READ_ONLY


def grants_of_any_frame(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("modes.paravirt.foreign.MachineFrames.hold", lambda foreign, frame, *, write: frame << 12)
    patch.setattr("modes.paravirt.foreign.MachineFrames.let_go", lambda foreign, frame, *, write: None)


@pytest.mark.parametrize(
    "plant",
    [
        ring_without_a_limit, ring_that_answers_twice, ring_that_shows_late, block_request_read_twice,
        block_without_a_look_at_the_sector, block_without_a_look_at_the_segments, block_that_keeps_what_it_has_mapped,
        block_that_unmaps_too_early, block_that_forgets_what_is_in_flight, block_that_says_yes,
        net_without_a_look_at_sizes, net_with_responses_for_nothing,
        net_that_listens_to_anybody, net_with_a_queue_without_end, net_with_the_last_frame_s_rest,
        grants_without_read_only, grants_of_any_frame,
    ],
)  # fmt: skip
def test_a_bug_planted_in_the_back_ends_is_found(plant: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a failed check, or whatever the bug raises
        pv_backends.run(1, 20_000)
