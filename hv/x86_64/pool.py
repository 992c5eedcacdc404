"""The hypervisor's own memory: pages for VMCBs, permission maps and page tables, out of the guest's reach."""

from __future__ import annotations

from hv.silicon.memory import Memory, Region, anonymous
from hv.silicon.x86_64.cpu import Shutdown

POOL_BASE = 0xFC_0000_0000
POOL_SIZE = 64 << 20


class HypervisorMemory:
    """Pages that are never given back one by one."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.region = memory.add(Region("hypervisor", POOL_BASE, POOL_SIZE, anonymous(POOL_SIZE), 0))
        self.used = 0

    def alloc(self, pages: int = 1) -> int:
        """Host-physical address of zeroed pages."""
        address = POOL_BASE + self.used
        self.used += pages * 0x1000
        if self.used > POOL_SIZE:
            raise Shutdown("the hypervisor has no memory left for nested page tables")
        return address
