"""The ledger, the marks that it files exits under, and the one table of reasons."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.exits import REASONS
from hv.ledger import Ledger, Tally
from hv.silicon.probe import Probe, Window


def test_every_reason_has_a_stable_id_two_names_and_a_meaning() -> None:
    for id, reason in REASONS.items():
        assert reason.id == id
        assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?", id)
        assert reason.amd
        assert reason.intel
        assert reason.meaning
    assert {"cpuid", "hlt", "npf", "ioio", "external_interrupt"} <= set(REASONS)


@given(st.lists(st.tuples(st.sampled_from(["npf", "ioio", "cpuid"]), st.integers(0, 10**9)), max_size=30))
def test_a_tally_is_count_sum_least_and_most(exits: list[tuple[str, int]]) -> None:
    ledger = Ledger(Probe())
    for reason, time in exits:
        ledger.count(0, reason, time)
    expected = {}
    for reason in sorted({reason for reason, _ in exits}):
        times = [time for name, time in exits if name == reason]
        expected[reason] = Tally(len(times), sum(times), min(times), max(times))
    assert ledger.tallies(0) == ledger.tallies(0) == expected
    assert list(ledger.tallies(0)) == sorted(expected)
    assert ledger.totals() == {reason: tally.count for reason, tally in expected.items()}


def test_exits_are_filed_under_the_window_in_which_they_happen() -> None:
    probe = Probe()
    ledger = Ledger(probe)

    def mark(which: int) -> None:
        probe.hit(which, 0, 0, Counter())

    ledger.count(0, "npf", 1)
    mark(1)
    ledger.count(0, "ioio", 2)
    ledger.count(1, "ioio", 2)
    mark(2)
    ledger.count(0, "hlt", 3)
    mark(1)
    ledger.count(0, "cpuid", 4)
    mark(2)
    assert [{r: t.count for r, t in ledger.tallies(window).items()} for window in range(5)] == [
        {"npf": 1}, {"ioio": 2}, {"hlt": 1}, {"cpuid": 1}, {},
    ]  # fmt: skip
    assert [{r: t.count for r, t in ledger.tallies(1, vcpu).items()} for vcpu in range(3)] == [
        {"ioio": 1},
        {"ioio": 1},
        {},
    ]
    assert ledger.totals() == {"cpuid": 1, "hlt": 1, "ioio": 2, "npf": 1}


def test_a_reason_that_is_not_in_the_table_cannot_be_counted() -> None:
    ledger = Ledger(Probe())
    with pytest.raises(KeyError):
        ledger.count(0, "weather", 1)
    assert ledger.totals() == {}


def test_a_window_is_the_difference_between_its_marks() -> None:
    probe = Probe()
    probe.hit(1, 100, 1000, Counter(syscall=3, exception=1))
    assert probe.window == 1
    probe.hit(2, 150, 1700, Counter(syscall=5, exception=1, cpuid=2))
    assert probe.window == 2
    assert probe.windows == [Window(50, 700, {"cpuid": 2, "syscall": 2})]


def test_an_end_without_a_begin_counts_for_nothing_and_a_second_begin_starts_anew() -> None:
    probe = Probe()
    probe.hit(2, 1, 1, Counter())
    assert (probe.window, probe.windows) == (0, [])
    probe.hit(1, 10, 10, Counter())
    probe.hit(1, 20, 20, Counter())
    probe.hit(2, 25, 26, Counter())
    assert (probe.window, probe.windows) == (2, [Window(5, 6, {})])
