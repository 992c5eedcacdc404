"""Address breakpoints: the CPU stops in front of an instruction that begins at a marked linear address.

They stand for what a deprivileging hypervisor does to an instruction that should trap and does not: it writes a
trapping one over it (VirtualBox's raw mode patched the guest's code so). Here the byte stays as it is, so that the
guest reads its own code unchanged, and so that bytes in the middle of an instruction may be marked too: only an address
at which an instruction begins is ever compared. Simplified: there are as many as a hypervisor wants, for 1024 pages.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

from hv.silicon.x86_64.microcode import BREAKPOINT_PAGES, Microcode

EMPTY = (1 << 64) - 1
MOST = BREAKPOINT_PAGES * 3 // 4  # a hash table wants some air


class Breakpoints:
    """Marked offsets by linear page. microcode.c looks them up before every instruction."""

    def __init__(self, microcode: Microcode) -> None:
        self._filter = (ctypes.c_uint8 * 0x1_0000)()  # by the low 16 bits of the address: the one load that always runs
        self._pages = (ctypes.c_uint64 * BREAKPOINT_PAGES)(*(EMPTY,) * BREAKPOINT_PAGES)
        self._marks = (ctypes.c_uint8 * (BREAKPOINT_PAGES << 12))()
        self.marked: dict[int, frozenset[int]] = {}
        microcode.break_filter = ctypes.addressof(self._filter)
        microcode.break_pages = ctypes.addressof(self._pages)
        microcode.break_marks = ctypes.addressof(self._marks)

    def add(self, page: int, offsets: Iterable[int]) -> bool:
        """Mark offsets in linear page number `page`, besides what is marked. False when there is no room."""
        known = self.marked.get(page)
        if known is None and len(self.marked) >= MOST:
            return False
        new = frozenset(offsets)
        if known is not None and new <= known:
            return True
        self.marked[page] = new if known is None else known | new
        slot = page % BREAKPOINT_PAGES
        while self._pages[slot] not in (EMPTY, page):
            slot = (slot + 1) % BREAKPOINT_PAGES
        self._pages[slot] = page
        low = (page & 15) << 12
        for offset in new:
            self._filter[low | offset] = 1
            self._marks[slot << 12 | offset] = 1
        return True

    def hit(self, address: int) -> bool:
        """Is this address marked? The portable path's look-up."""
        return bool(self._filter[address & 0xFFFF]) and address & 0xFFF in self.marked.get(address >> 12, ())

    def clear(self) -> None:
        """Forget all of them."""
        self.marked.clear()
        ctypes.memset(self._filter, 0, ctypes.sizeof(self._filter))
        ctypes.memset(self._marks, 0, ctypes.sizeof(self._marks))
        ctypes.memset(self._pages, 0xFF, ctypes.sizeof(self._pages))

    def restore(self, marked: dict[int, frozenset[int]]) -> None:
        """Exactly these."""
        if marked != self.marked:
            self.clear()
            for page, offsets in marked.items():
                self.add(page, offsets)
