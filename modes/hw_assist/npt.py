"""Nested page tables, filled on demand (APM vol. 2, 15.25).

The guest believes in guest-physical addresses; the CPU translates each of them once more, through these tables. A
page has no entry until the guest first touches it: that is the one `npf` exit it ever costs.
The same with the registers of a card that the guest was given: after the first touch the CPU reaches them by itself.
Simplified: 4 KiB pages only, and guest frame N is always host frame RAM base + N.
"""

from __future__ import annotations

from hv.x86_64.pool import HypervisorMemory

PRESENT_WRITABLE_USER = 7  # the nested walk counts as a user access
ADDRESS = 0x000F_FFFF_FFFF_F000


class NestedTables:
    """One guest's second-level tables. `root` is for the VMCB's N_CR3."""

    def __init__(self, pool: HypervisorMemory) -> None:
        self.pool, self.memory = pool, pool.memory
        self.root = pool.alloc()

    def unmap(self, gpa: int, size: int) -> None:
        """Take the translations of some pages away. The caller flushes the TLB."""
        for page in range(gpa, gpa + size, 0x1000):
            table = self.root
            for shift in (39, 30, 21):
                table = self.memory.read_u64(table + (page >> shift & 511) * 8) & ADDRESS
                if not table:
                    break
            else:
                self.memory.write_u64(table + (page >> 12 & 511) * 8, 0)

    def map(self, gpa: int, hpa: int) -> None:
        """Translate the page at guest-physical `gpa` to the one at host-physical `hpa`, all access allowed."""
        table = self.root
        for shift in (39, 30, 21):
            slot = table + (gpa >> shift & 511) * 8
            entry = self.memory.read_u64(slot)
            if not entry:
                entry = self.pool.alloc() | PRESENT_WRITABLE_USER
                self.memory.write_u64(slot, entry)
            table = entry & ADDRESS
        self.memory.write_u64(table + (gpa >> 12 & 511) * 8, hpa & ADDRESS | PRESENT_WRITABLE_USER)
