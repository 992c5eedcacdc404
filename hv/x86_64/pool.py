"""The hypervisor's own memory: pages for VMCBs, permission maps and page tables, out of the guest's reach."""

from __future__ import annotations

from hv.silicon.memory import Memory, Region, anonymous
from hv.silicon.x86_64.cpu import Shutdown

POOL_BASE = 0xFC_0000_0000
POOL_SIZE = 64 << 20

CARDS_POOL_BASE = POOL_BASE + POOL_SIZE  # and more of it for those that drive cards
CARDS_POOL_SIZE = 4 << 20
SHARED_POOL_BASE = CARDS_POOL_BASE + CARDS_POOL_SIZE  # and for pages that the guest sees too
SHARED_POOL_SIZE = 1 << 20


class HypervisorMemory:
    """Pages that are never given back one by one."""

    def __init__(self, memory: Memory, base: int = POOL_BASE, size: int = POOL_SIZE) -> None:
        self.memory, self.base, self.size = memory, base, size
        self.region = memory.add(Region("hypervisor", base, size, anonymous(size), 0))
        self.used = 0

    def alloc(self, pages: int = 1) -> int:
        """Host-physical address of zeroed pages."""
        address = self.base + self.used
        self.used += pages * 0x1000
        if self.used > self.size:
            raise Shutdown("the hypervisor has no memory left for page tables")
        return address
