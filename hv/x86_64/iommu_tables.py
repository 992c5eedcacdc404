"""The hypervisor's side of the IOMMU: the tables that it walks (hv/silicon/iommu.py has their formats).

A function that nobody was given can reach nothing. One that a guest was given reaches the guest's RAM under its
guest-physical addresses, and interrupts the hypervisor with the vectors that were set for it, or has them posted for
the guest.
"""

from __future__ import annotations

import struct

from hv.silicon.iommu import CONTROL as INTERRUPT_CONTROL
from hv.silicon.iommu import (
    DESTINATION,
    ENTRY,
    INTERRUPTS_VALID,
    MODE,
    NEXT_LEVEL,
    POSTED,
    PRESENT,
    READ,
    REMAP,
    REMAP_ENABLE,
    REMAP_ENTRY,
    TABLE_LENGTH,
    TRANSLATES,
    VALID,
    VECTOR,
    WRITE,
    Iommu,
)
from hv.x86_64.pool import HypervisorMemory

FUNCTIONS = 512  # of the device table: two buses
LEVELS = 4  # 48 bits of address
BIG_PAGE = 2 << 20
ADDRESS = 0x000F_FFFF_FFFF_F000
VECTORS_LOG2 = 5  # of a function's interrupt table


class Domain:
    """Page tables for DMA: what the functions in it reach, by 2 MiB or by page."""

    def __init__(self, pool: HypervisorMemory) -> None:
        self.pool, self.memory = pool, pool.memory
        self.root = pool.alloc()

    def map(self, address: int, physical: int, size: int) -> None:
        """Let a range be reached for reading and writing. Big pages where all is aligned."""
        while size > 0:
            big = not (address | physical) % BIG_PAGE and size >= BIG_PAGE
            self._leaf(address, physical, 2 if big else 1)
            step = BIG_PAGE if big else 0x1000
            address, physical, size = address + step, physical + step, size - step

    def _leaf(self, address: int, physical: int, level: int) -> None:
        table = self.root
        for above in range(LEVELS, level, -1):
            slot = table + 8 * (address >> 12 + 9 * (above - 1) & 511)
            entry = self.memory.read_u64(slot)
            if not entry:
                entry = self.pool.alloc() | PRESENT | (above - 1) << NEXT_LEVEL | READ | WRITE
                self.memory.write_u64(slot, entry)
            table = entry & ADDRESS
        slot = table + 8 * (address >> 12 + 9 * (level - 1) & 511)
        self.memory.write_u64(slot, physical | PRESENT | READ | WRITE)


class IommuTables:
    """The device table, and each function's table of interrupts."""

    def __init__(self, pool: HypervisorMemory, iommu: Iommu) -> None:
        self.pool, self.memory, self.iommu = pool, pool.memory, iommu
        self.devices = pool.alloc(FUNCTIONS * ENTRY // 0x1000)
        self.interrupts: dict[int, int] = {}  # function -> its table
        for function in range(FUNCTIONS):
            self.block(function)
        iommu.enable(self.devices, FUNCTIONS)

    def block(self, function: int) -> None:
        """Let a function reach nothing and interrupt nobody."""
        self._set(function, VALID | TRANSLATES, INTERRUPTS_VALID)

    def give(self, function: int, domain: Domain) -> None:
        """Let a function reach what is in a domain."""
        table = self.interrupts.setdefault(function, self.pool.alloc())
        first = VALID | TRANSLATES | LEVELS << MODE | domain.root | READ | WRITE
        self._set(function, first, INTERRUPTS_VALID | VECTORS_LOG2 << TABLE_LENGTH | table | REMAP << INTERRUPT_CONTROL)

    def interrupt(self, function: int, index: int, cpu: int, vector: int) -> None:
        """Let message `index` of a function be physical interrupt `vector` on a CPU."""
        self._set_interrupt(function, index, REMAP_ENABLE | cpu << DESTINATION | vector << VECTOR, 0)

    def post(self, function: int, index: int, descriptor: int, vector: int) -> None:
        """Let message `index` of a function be posted, as a vector of the guest's, to the descriptor at an address."""
        low = REMAP_ENABLE | POSTED | vector << VECTOR | (descriptor >> 6 & 0x3FF_FFFF) << 38
        self._set_interrupt(function, index, low, descriptor >> 32 << 32)

    def _set_interrupt(self, function: int, index: int, low: int, high: int) -> None:
        self.memory.write(self.interrupts[function] + REMAP_ENTRY * index, struct.pack("<2Q", low, high))
        self.iommu.invalidate()

    def _set(self, function: int, first: int, third: int) -> None:
        self.memory.write(self.devices + ENTRY * function, struct.pack("<4Q", first, 0, third, 0))
        self.iommu.invalidate()
