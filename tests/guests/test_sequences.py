"""Random sequences of sensitive and innocuous instructions end everywhere as on metal. `make fuzz` has more of them."""

from __future__ import annotations

import pytest

from tests.guests.sequences import ANYWHERE, code_of, difference, pieces
from tests.support import NATIVE_METAL, NATIVE_TRANSLATED, NATIVE_TRAP, PORTABLE_TRANSLATED, Where

SEQUENCES, SEQUENCES_TRAPPED, SEQUENCES_PORTABLE = 240, 40, 12


@pytest.mark.parametrize("part", range(4))
def test_a_translated_kernel_ends_where_metal_ends(part: int) -> None:
    for seed in range(part, SEQUENCES, 4):
        assert not difference(seed, NATIVE_TRANSLATED, NATIVE_METAL), f"seed {seed}"


@pytest.mark.parametrize(
    ("where", "reference", "count"),
    [(NATIVE_TRAP, NATIVE_METAL, SEQUENCES_TRAPPED), (PORTABLE_TRANSLATED, NATIVE_TRANSLATED, SEQUENCES_PORTABLE)],
    ids=["trap", "portable"],
)
def test_so_do_the_others(where: Where, reference: Where, count: int) -> None:
    for seed in range(count):
        assert not difference(seed, where, reference), f"seed {seed}"


def test_the_sequences_are_of_both_rings_and_have_every_piece() -> None:
    rings = [code_of(seed)[1] for seed in range(SEQUENCES)]
    assert rings.count(0) > SEQUENCES // 2
    assert rings.count(3) > SEQUENCES // 5
    everything = b"".join(code_of(seed)[0] for seed in range(SEQUENCES))
    assert [text for text, piece in zip(ANYWHERE, pieces(), strict=True) if piece not in everything] == []
