"""The 82599's counters: a full one stays full, a wide one has 36 bits in two registers (data sheet, 8.2.3.23)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.silicon.ixgbe.chip import Chip
from hv.silicon.ixgbe.statistics import GORC, GPRC, Statistics


@pytest.mark.parametrize(("counter", "bits"), [(GPRC, 32), (GORC, 36)])
@given(amounts=st.lists(st.sampled_from((1, 2, 64, 1518, 1 << 31, (1 << 32) - 1)), max_size=40))
def test_a_counter_adds_up_until_it_is_full(counter: int, bits: int, amounts: list[int]) -> None:
    statistics, full = Statistics(Chip(1, 1)), (1 << bits) - 1
    for amount in amounts:
        statistics.count(counter, amount)
    value = statistics.chip.state.counters.get(counter, 0) | statistics.chip.state.counters.get(counter + 4, 0) << 32
    assert value == min(sum(amounts), full)
