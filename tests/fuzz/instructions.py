"""Random instruction sequences end in the same state on metal, hw-assist, hw-shadow and deprivileged."""

from __future__ import annotations

from collections.abc import Iterable

from tests.guests.test_same_everywhere import end_state
from tests.support import NATIVE_HW, NATIVE_METAL, NATIVE_SHADOW, NATIVE_TRAP, PORTABLE_METAL

FIRST = 1 << 20  # the suite has the first few hundred sequences


def case(seed: int) -> Iterable[str]:
    number, ring = FIRST + seed, 3 * (seed & 1)
    metal = end_state(number, ring, NATIVE_METAL)
    for where in (NATIVE_HW, NATIVE_SHADOW, NATIVE_TRAP, PORTABLE_METAL):
        assert end_state(number, ring, where) == metal, where
    return [f"vector {record.vector}" for record in metal["log"]]
