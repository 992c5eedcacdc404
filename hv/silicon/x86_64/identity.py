"""The second-level tables under a guest on metal, which sees the machine's own physical memory.

Unicorn needs nested paging to keep such a guest off what is not its own (SVM's microcode, the other regions): its RAM
is where it expects it, the chips are at their bus addresses, everything else is the void, where nobody answers.
"""

from __future__ import annotations

from hv.silicon.memory import Region
from hv.silicon.x86_64.engine import BUS_BASE, VOID_BASE, Engine
from hv.silicon.x86_64.pc import IOAPIC_BASE, LAPIC_BASE

GIB = 1 << 30


def identity_tables(engine: Engine, ram_base: int) -> int:
    """Second-level tables for a guest on metal: RAM where it is, the chips, and the void everywhere else."""
    memory = engine.memory
    pml4, void_pdpt, pdpt = engine.alloc(), engine.alloc(), engine.alloc()
    for i in range(512):
        memory.write_u64(pml4 + 8 * i, void_pdpt | 7)
        memory.write_u64(void_pdpt + 8 * i, VOID_BASE | 0x87)
        memory.write_u64(pdpt + 8 * i, VOID_BASE | 0x87)
    memory.write_u64(pml4, pdpt | 7)
    for region in memory.regions[1:]:
        first = region.base - ram_base
        for gib in range(first // GIB, -(-(first + region.size) // GIB)):
            memory.write_u64(pdpt + 8 * gib, _gib_table(engine, ram_base, gib * GIB, region, first) | 7)
    chips = engine.alloc()
    for i in range(512):
        memory.write_u64(chips + 8 * i, BUS_BASE + (i << 21) | 0x87)
    memory.write_u64(pdpt + 8 * 3, chips | 7)
    for base in (IOAPIC_BASE, LAPIC_BASE):
        table = engine.alloc()
        for i in range(512):
            memory.write_u64(table + 8 * i, BUS_BASE + ((base & GIB - 1) + (i << 12)) | 7)
        memory.write_u64(table, base | 7)
        memory.write_u64(chips + 8 * (base >> 21 & 511), table | 7)
    return pml4


def _gib_table(engine: Engine, ram_base: int, start: int, region: Region, first: int) -> int:
    """A page directory for the GiB at guest-physical `start`, with what `region` has of it."""
    memory = engine.memory
    directory = engine.alloc()
    for i in range(512):
        at = start + (i << 21)
        inside = min(first + region.size - at, 1 << 21)
        if at < first or inside <= 0:
            memory.write_u64(directory + 8 * i, VOID_BASE + (i << 21) | 0x87)
        elif inside == 1 << 21:
            memory.write_u64(directory + 8 * i, ram_base + at | 0x87)
        else:
            table = engine.alloc()
            for page in range(512):
                ram = page << 12 < inside
                base = ram_base + at if ram else VOID_BASE
                memory.write_u64(table + 8 * page, base + (page << 12) | 7)
            memory.write_u64(directory + 8 * i, table | 7)
    return directory
