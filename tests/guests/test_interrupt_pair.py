"""Two CPUs that interrupt each other while they run, mask, sleep and set timers, under every technique.

Who is interrupted when is chance, so there is no model: what was sent has come once in the end, never below a priority,
and soon to a CPU that only runs. Where interrupts are posted, notifications meet vCPUs that have just gone to sleep or
woken up.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.silicon.x86_64.machine import Idle
from tests.interrupt_pair import Pair
from tests.pair_script import ARMED, DISORDER, DONE, LATE, LINES, NOTED, OUTSIDE, Op, send
from tests.support import (
    NATIVE_AVIC,
    NATIVE_HW,
    NATIVE_METAL,
    NATIVE_POSTED,
    NATIVE_TRANSLATED,
    NATIVE_TRAP,
    Where,
)

LIMIT = 50_000_000  # cycles
MOST_TO_WAKE = 100
TWO = {
    "metal": NATIVE_METAL, "emulated": NATIVE_HW, "deprivileged": NATIVE_TRAP, "translated": NATIVE_TRANSLATED,
    "posted": NATIVE_POSTED, "avic": NATIVE_AVIC,
}  # fmt: skip


def scripts(cpu: int) -> st.SearchStrategy[list[Op]]:
    """What a CPU may do. In the end it is there for the other."""
    sends = st.sampled_from([send(vector) for vector, line in LINES.items() if line.sender == cpu])
    op = st.one_of(
        sends, sends, sends,
        st.builds(Op, st.sampled_from(["tpr", "cr8"]), st.integers(0, 15)),
        st.sampled_from([Op("on"), Op("off"), Op("exit"), Op("linger"), Op("doze"), Op("doze")]),
        st.builds(Op, st.sampled_from(["alarm", "nap"]), st.integers(0, 200)),
        st.integers(1, 60).map(lambda n: Op("spin", n)),
    )  # fmt: skip
    return st.lists(op, min_size=10, max_size=30).map(lambda ops: [*ops, Op("linger"), Op("linger")])


class Cut(NamedTuple):
    """After so many cycles: interrupts from outside; a snapshot, or none."""

    cycles: int
    woken: frozenset[int]
    snapshot: bool


class Case(NamedTuple):
    scripts: tuple[list[Op], list[Op]]
    cuts: list[Cut]


cuts = st.builds(Cut, st.integers(1, 20_000), st.frozensets(st.integers(0, 1)), st.booleans())
cases = st.builds(Case, st.tuples(scripts(0), scripts(1)), st.lists(cuts, max_size=8))


def play(pair: Pair, case: Case) -> dict[int, int]:
    """Until both scripts are over. Returns how often each vector was sent."""
    sent = dict.fromkeys(OUTSIDE, 0)

    def wake(cpus: frozenset[int]) -> None:
        for cpu in sorted(cpus):
            vector = OUTSIDE[cpu]
            if pair.came(vector) == sent[vector]:
                sent[vector] += 1
                pair.wake(cpu)

    assert isinstance(pair.run(), Idle)
    both = frozenset((0, 1))
    for cut in [Cut(1, both, False), *case.cuts]:
        wake(cut.woken)
        if cut.snapshot:
            pair.vm.restore(pair.vm.snapshot())
        pair.run(cut.cycles)
    for _ in range(MOST_TO_WAKE):
        assert isinstance(pair.run(LIMIT), Idle)
        assert all(pair.came(vector) == pair.sent(vector) for vector in LINES)  # or one would not sleep
        if pair.own(0, DONE) and pair.own(1, DONE):
            return sent | {vector: pair.sent(vector) for vector in LINES}
        wake(both)  # one dozes
    raise AssertionError("it sleeps for ever")


def check(where: Where, case: Case) -> None:
    pair = Pair(where, case.scripts)
    try:
        sent = play(pair, case)
        assert {vector: pair.came(vector) for vector in sent} == sent
        for cpu in range(2):
            assert pair.own(cpu, NOTED) == pair.own(cpu, ARMED)
            assert not pair.own(cpu, DISORDER)
            assert not pair.own(cpu, LATE)
    finally:
        pair.close()


@pytest.mark.parametrize("where", TWO.values(), ids=TWO)
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(case=cases)
def test_what_was_sent_has_come_once(where: Where, case: Case) -> None:
    check(where, case)
