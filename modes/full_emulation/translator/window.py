"""The window: 2 MiB of linear addresses in which the translated kernel runs, and what lies in them.

Only the kernel's view of the shadow tables maps it, at an address that the guest's own tables leave empty; it moves
when the guest maps something there. It lies in the first or last 2 GiB, so that 32 bits address it and RIP-relative
operands of a kernel in the last 2 GiB reach the guest's data.

    page       what                                                     translated code may
    0..252     memory for the table of targets, which lies elsewhere    (targets.py)
    253        scratch: places for registers                            read, write
    254        the virtual IF and CR8, which translated code changes    read, write (read: while an interrupt waits)
    255        facts: control registers, selectors, tables to look up   read
    256..511   the translation cache                                    read, execute

The window begins at a multiple of 2 MiB, and Unicorn's TLB finds a page by the low bits of its number. So the busiest
pages are not the first ones: those bits are zero at the start of many a kernel's code, and so in its targets' slots.

A 32-bit kernel of 1998 could not even reach such a window: the hypervisor cut it off its segments' limits. 64-bit mode
ignores limits, and user and kernel share ring 3 here. So a store of the guest to an address that it has not mapped
faults as on hardware everywhere but in pages 253 and 254, and a load finds bytes from page 253 on instead of a fault;
so does a jump into it of a kernel that runs untranslated.
What the guest could change there is its own state and nothing else; the hypervisor believes none of it.
"""

from __future__ import annotations

import struct

from hv.silicon.memory import Memory
from hv.silicon.x86_64.paging import NX, PRESENT, USER, WRITABLE
from hv.x86_64.pool import HypervisorMemory
from modes.full_emulation.state import VirtualCpu

SIZE = 2 << 20
PAGES = SIZE >> 12
SCRATCH_PAGE, INTERRUPT_PAGE, FACTS_PAGE, CODE_PAGE = 253, 254, 255, 256
SCRATCH, INTERRUPTS, FACTS, CODE = SCRATCH_PAGE << 12, INTERRUPT_PAGE << 12, FACTS_PAGE << 12, CODE_PAGE << 12
# Offsets in the window. A register r is kept at REGISTERS + 8 * r.
REGISTERS, VALUE = SCRATCH, SCRATCH + 0x80  # VALUE is 8 bytes, and 8 zero bytes behind them
IF, CR8 = INTERRUPTS, INTERRUPTS + 8
CR, SELECTORS, GDTR, IDTR, LDTR, TR = (FACTS + offset for offset in (0, 0x50, 0x80, 0x90, 0xA0, 0xA8))
TOO_BIG = FACTS + 0x100  # by byte: is it above 15?
FLAGS_BYTE = FACTS + 0x200  # by IF and byte: bits 15:8 of RFLAGS with that IF
REGISTERS_NOW = struct.Struct("<9Q 8x 6Q HQ6x HQ6x 2Q")
ALWAYS = PRESENT | USER | 0x60  # accessed and dirty, so that the CPU need not write

# Where it may lie: downwards from the end of the last 2 GiB, where kernels have the least, then of the first. Between
# two places there is room for the targets of the lowest addresses, where a boot runs.
APART = 32 * SIZE
PLACES = (*range((1 << 64) - (256 << 20), (1 << 64) - (1 << 31), -APART), *range((1 << 31) - (256 << 20), 0, -APART))


def _lookup_bytes() -> bytes:
    """TOO_BIG and FLAGS_BYTE, for sequences that may not touch the flags."""
    return bytes(value > 15 for value in range(256)) + bytes(
        value & ~2 | interrupts << 1 for interrupts in (0, 1) for value in range(256)
    )


class Window:
    """Its memory, and the page table that maps it."""

    def __init__(self, memory: Memory, pool: HypervisorMemory, base: int) -> None:
        self.memory = memory
        self.base = base  # linear
        self.physical = pool.alloc(PAGES)
        self.page_table = pool.alloc()
        start = self.physical - pool.region.base
        view = memoryview(pool.region.data)
        self.bytes = view[start : start + SIZE]
        start = self.page_table - pool.region.base
        self._entries = view[start : start + 0x1000].cast("Q")
        for page in (SCRATCH_PAGE, INTERRUPT_PAGE):
            self._entries[page] = self.data_entry(page) | WRITABLE
        self._entries[FACTS_PAGE] = self.data_entry(FACTS_PAGE)
        for page in range(CODE_PAGE, PAGES):
            self._entries[page] = self.frame(page) | ALWAYS
        self.bytes[TOO_BIG : TOO_BIG + 768] = _lookup_bytes()

    def frame(self, page: int) -> int:
        """Physical address of one of its pages."""
        return self.physical + (page << 12)

    def data_entry(self, page: int) -> int:
        """A page-table entry through which one of its pages can be read."""
        return self.frame(page) | ALWAYS | NX

    def holds(self, address: int) -> bool:
        return self.base <= address < self.base + SIZE

    @property
    def guarded(self) -> bool:
        """A write of IF or CR8 faults, because an interrupt waits for it."""
        return not self._entries[INTERRUPT_PAGE] & WRITABLE

    def guard(self, on: bool) -> None:
        """Let the next write of IF or CR8 fault, or not. The caller empties the real TLB."""
        self._entries[INTERRUPT_PAGE] = self.data_entry(INTERRUPT_PAGE) | (0 if on else WRITABLE)

    # --- data that the translated code uses -------------------------------------------------------------------

    def word(self, offset: int) -> int:
        value: int = struct.unpack_from("<Q", self.bytes, offset)[0]
        return value

    def tell(self, v: VirtualCpu) -> None:
        """Bring the facts up to date."""
        facts = REGISTERS_NOW.pack(
            v.cr0, 0, v.cr2, v.cr3, v.cr4, 0, 0, 0, 0, *v.selectors, v.gdt[1], v.gdt[0], v.idt[1], v.idt[0],
            v.ldt[0], v.tr[0],
        )  # fmt: skip
        if self.bytes[CR : CR + len(facts)] != facts:
            self.bytes[CR : CR + len(facts)] = facts

    # --- translated code --------------------------------------------------------------------------------------

    def write(self, address: int, code: bytes) -> None:
        """Put code at a linear address; the CPU forgets what it knew of those bytes."""
        self.memory.write(self.physical + address - self.base, code)
