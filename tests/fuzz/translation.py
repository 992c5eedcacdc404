"""Random sequences of sensitive and innocuous instructions end under the translator as on metal, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable

from tests.guests.sequences import code_of, difference
from tests.support import NATIVE_METAL, NATIVE_TRANSLATED

FIRST = 1 << 20  # the suite has the first few hundred


def case(seed: int) -> Iterable[str]:
    different = difference(FIRST + seed, NATIVE_TRANSLATED, NATIVE_METAL)
    assert not different, different
    return [f"ring {code_of(FIRST + seed)[1]}"]
