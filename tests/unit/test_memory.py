"""Physical memory: which region an address is in, and what a restore puts back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.silicon.memory import LOOK, PAGE, BusError, Memory, Region, anonymous

PLACES = ((0x1_0000, 2), (0, 3), (0x1_2000, 1), (0x40_0000, 4))  # base, pages; two of them touch


def memory() -> Memory:
    built = Memory()
    for number, (base, pages) in enumerate(PLACES):
        built.add(Region(str(number), base, pages * PAGE, anonymous((pages + number) * PAGE), number * PAGE))
    return built


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.integers(-9, 5 * PAGE), st.integers(1, 2 * PAGE))))
def test_an_access_is_in_the_region_that_holds_all_of_it(accesses: list[tuple[tuple[int, int], int, int]]) -> None:
    built = memory()
    for (near, _), distance, size in accesses:
        address = near + distance
        holders = [n for n, (base, pages) in enumerate(PLACES) if base <= address <= base + pages * PAGE - size]
        if holders:
            region, at = built.find(address, size)
            assert (region.name, at) == (str(holders[0]), address - region.base + holders[0] * PAGE)
        else:
            with pytest.raises(BusError):
                built.find(address, size)


def test_a_restore_takes_back_every_page() -> None:
    size = 2 * LOOK + PAGE  # the last piece that is looked at is a short one
    built = Memory()
    built.add(Region("RAM", 0, size, anonymous(size), 0))
    kept, changed, new, last = 0, LOOK - PAGE, LOOK, size - PAGE
    for page in (kept, changed, last):
        built.write(page + 7, b"before")
    saved = built.save()
    assert set(saved[0]) == {kept, changed, last}
    before = built.read(0, size)
    for page in (changed, new, last):
        built.write(page, b"and after")
    built.load(saved)
    assert built.read(0, size) == before
