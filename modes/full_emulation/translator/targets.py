"""The table of targets: how translated code finds the translation of an address, without leaving the cache.

Each address of the guest has a slot of its own, at `window + 2 MiB + 8 * address` modulo 2^64. It holds the address of
a landing in the cache, so JMP [RCX * 8 + targets] is the whole look-up: nothing is searched or compared. Addresses that
differ in their top three bits only share a slot; the landing tells them apart (Builder.landing).

The table is as sparse as the guest's code. A page of it, the slots of 512 bytes of code, is there when one of those
has been a target. Where there is none the load faults, and a slot without a landing holds the address of a call-out:
both are the exit `lookup_miss`. The pages come from the window's memory. They are hung in, 2 MiB of table (256 KiB of
code) at a time, where the guest's own tables map nothing, as the window is, and move with it.

Simplified: addresses further than 8 TiB from 0 on either side have no slots. Code there runs from the cache too, but
each of its returns is a `lookup_miss`.
"""

from __future__ import annotations

import msgspec

from modes.full_emulation.translator.window import SCRATCH_PAGE, SIZE, Window

AREAS = 8  # page tables; each maps an area. The rest of the memory is pages of slots
PAGES_OF_SLOTS = SCRATCH_PAGE - AREAS
AREA_SHIFT, PAGE_SHIFT = 18, 9  # of the code that an area, a page is for
PAGES_A_CODE_PAGE = 0x1000 >> PAGE_SHIFT
REACH = 1 << 43  # so far from address 0 the slots' addresses are canonical, wherever the window is


class TargetsState(msgspec.Struct):
    """Which pages of the window's memory are in use, by guest address >> AREA_SHIFT and >> PAGE_SHIFT."""

    miss: int  # linear address of the call-out in empty slots
    areas: dict[int, int] = {}
    pages: dict[int, int] = {}


class Targets:
    """`set` and `forget`, once `cover` has made a place for them."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.s = TargetsState(0)

    def empty(self, miss: int) -> None:
        """No target, and no area."""
        for page in self.s.areas.values():
            self._words(page)[:] = memoryview(bytes(0x1000)).cast("Q")
        self.s = TargetsState(miss)

    # --- areas ------------------------------------------------------------------------------------------------

    def places(self, base: int) -> dict[int, int]:
        """With the window at `base`: linear addresses of the areas, and the page tables to hang in there."""
        return {
            base + SIZE + (area << AREA_SHIFT + 3) & (1 << 64) - 1: self.window.frame(page)
            for area, page in self.s.areas.items()
        }

    def covers(self, address: int) -> bool:
        """Is there an area for the slot, if there is a slot?"""
        return address >> AREA_SHIFT in self.s.areas or not self._has_slot(address)

    @property
    def all_areas_used(self) -> bool:
        return len(self.s.areas) == AREAS

    def cover(self, address: int) -> None:
        """A new area, which the caller hangs in."""
        self.s.areas[address >> AREA_SHIFT] = len(self.s.areas)

    # --- slots ------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Could the targets in one more page of code be too many?"""
        return len(self.s.pages) + PAGES_A_CODE_PAGE > PAGES_OF_SLOTS

    def set(self, address: int, landing: int) -> None:
        if self._has_slot(address):
            page = self.s.pages.get(address >> PAGE_SHIFT) or self._add_page(address)
            self._words(page)[address & (1 << PAGE_SHIFT) - 1] = landing & (1 << 64) - 1

    def forget(self, address: int) -> None:
        self.set(address, self.s.miss)

    def _add_page(self, address: int) -> int:
        s = self.s
        page = s.pages[address >> PAGE_SHIFT] = AREAS + len(s.pages)
        words = self._words(page)
        for slot in range(512):
            words[slot] = s.miss
        entries = self._words(s.areas[address >> AREA_SHIFT])
        entries[address >> PAGE_SHIFT & 511] = self.window.data_entry(page)
        return page

    def _has_slot(self, address: int) -> bool:
        return address + REACH & (1 << 64) - 1 < 2 * REACH

    def _words(self, page: int) -> memoryview:
        return self.window.bytes[page << 12 : (page + 1) << 12].cast("Q")
