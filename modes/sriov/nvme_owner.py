"""The hypervisor as the owner of an NVMe card: it drives the physical function and makes virtual ones ready for guests.

A small driver after the NVM Express specification 1.4: an admin queue in the hypervisor's own memory, one command at a
time. It waits by letting the card do its work; that happens before the guest's time begins, or inside one exit of it.
"""

from __future__ import annotations

import struct

from hv.errors import HvError
from hv.silicon.deadlines import NEVER
from hv.silicon.nvme.card import NvmePhysical, NvmeVirtual
from hv.silicon.nvme.spec import (
    ACQ,
    AQA,
    ASQ,
    CC,
    CC_ENABLE,
    CQ_ENTRY,
    CSTS,
    DOORBELLS,
    PAGE,
    READY,
    SQ_ENTRY,
    Admin,
)
from hv.silicon.pci import BAR0, COMMAND, COMMAND_MASTER, COMMAND_MEMORY
from hv.silicon.sriov import CONTROL, NUM_VFS, VF_BAR0, VF_ENABLE, VF_MEMORY
from hv.silicon.x86_64.root_complex import RootComplex
from hv.x86_64.iommu_tables import Domain, IommuTables
from hv.x86_64.pool import HypervisorMemory

ENTRIES = 16
QUEUES, VECTORS = 0, 1  # kinds of resources
ASSIGN, ONLINE, OFFLINE = 8, 9, 7  # actions of Virtualization Management
VF_QUEUES, VF_VECTORS = 9, 9


class NvmeOwner:
    """`card` is in the root complex at `place`; `window` is a free bus address for its windows."""

    def __init__(
        self, card: NvmePhysical, place: int, window: int, root: RootComplex, pool: HypervisorMemory,
        tables: IommuTables,
    ) -> None:  # fmt: skip
        self.card, self.root, self.memory = card, root, pool.memory
        self.sq, self.cq, self.buffer = pool.alloc(), pool.alloc(), pool.alloc()
        self.tail = self.head = 0
        self.phase = 1
        domain = Domain(pool)
        for page in (self.sq, self.cq, self.buffer):
            domain.map(page, page, PAGE)
        tables.give(place, domain)
        size = card.header.bars[0].size
        self._configure(BAR0, window)
        self._configure(VF_BAR0, window + size)
        self._configure(COMMAND, COMMAND_MEMORY | COMMAND_MASTER, 2)
        self._configure(NUM_VFS, len(card.virtual_functions), 2)
        self._configure(CONTROL, VF_ENABLE | VF_MEMORY, 2)
        self._start()

    def _configure(self, offset: int, value: int, size: int = 4) -> None:
        self.root.pci.config_write(self.card, offset, size, value)

    def _start(self) -> None:
        """Enable the controller (7.6.1)."""
        self.card.write(0, AQA, 4, ENTRIES - 1 | (ENTRIES - 1) << 16)
        self.card.write(0, ASQ, 8, self.sq)
        self.card.write(0, ACQ, 8, self.cq)
        self.card.write(0, CC, 4, CC_ENABLE | SQ_ENTRY << 16 | CQ_ENTRY << 20)
        self._wait()
        if not self.card.read(0, CSTS, 4) & READY:
            raise HvError("the NVMe card does not start", 1)

    def _wait(self) -> None:
        """Until the card has nothing left to do."""
        while self.root.deadline != NEVER and self.card.deadline is not None:
            self.root.advance(self.root.deadline)

    def command(self, opcode: Admin, *words: int, namespace: int = 0, data: bytes = b"") -> int:
        """One admin command. Returns its status."""
        if data:
            self.memory.write(self.buffer, data.ljust(PAGE, b"\0"))
        entry = struct.pack(
            "<BBHI8x8xQQ6I", opcode, 0, self.tail, namespace, self.buffer, 0, *words, *[0] * (6 - len(words))
        )
        self.memory.write(self.sq + 64 * self.tail, entry)
        self.tail = (self.tail + 1) % ENTRIES
        self.card.write(0, DOORBELLS, 4, self.tail)
        self._wait()
        (status,) = struct.unpack("<H", self.memory.read(self.cq + 16 * self.head + 14, 2))
        if status & 1 != self.phase:
            raise HvError("the NVMe card does not answer", 1)
        self.head += 1
        if self.head == ENTRIES:
            self.head, self.phase = 0, self.phase ^ 1
        self.card.write(0, DOORBELLS + 4, 4, self.head)
        return int(status >> 1)

    def give(self, vf: NvmeVirtual, namespace: int) -> None:
        """Make a virtual function a whole drive: queues, interrupts, a namespace."""
        target = vf.controller.id
        for kind, count in ((QUEUES, VF_QUEUES), (VECTORS, VF_VECTORS)):
            self._must(self.command(Admin.VIRTUALIZATION, ASSIGN | kind << 8 | target << 16, count))
        self._must(self.command(Admin.VIRTUALIZATION, ONLINE | target << 16))
        self._must(self.command(Admin.NAMESPACE_ATTACHMENT, 0, namespace=namespace, data=struct.pack("<HH", 1, target)))

    def take_away(self, vf: NvmeVirtual) -> None:
        """Stop a virtual function at once, whatever it is doing."""
        self._must(self.command(Admin.VIRTUALIZATION, OFFLINE | vf.controller.id << 16))

    def _must(self, status: int) -> None:
        if status:
            raise HvError(f"the NVMe card refuses a command of its owner: status {status:#x}", 1)
