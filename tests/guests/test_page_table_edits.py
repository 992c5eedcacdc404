"""Random edits of a guest's own page tables are seen alike everywhere; tests/fuzz/page_tables.py makes the cases."""

from __future__ import annotations

import pytest

from tests.fuzz.page_tables import OPS, case

SEQUENCES, PARTS = 240, 8


@pytest.mark.parametrize("part", range(PARTS))
def test_edits_of_page_tables_are_seen_as_on_metal(part: int) -> None:
    reached: set[str] = set()
    for seed in range(part, SEQUENCES, PARTS):
        try:
            reached.update(case(seed))
        except AssertionError as error:
            raise AssertionError(f"python -m tests.fuzz page_tables --seed {seed} --cases 1") from error
    assert reached >= set(OPS) - {"end"}
    assert {f"error {code}" for code in (0, 2, 4, 5, 6, 7, 16, 20)} <= reached
