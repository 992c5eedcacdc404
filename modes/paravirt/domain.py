"""A domain: its frames and page tables, its vCPUs, its event channels, and the pages that it shares with Xen."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hv.silicon.memory import Memory
from hv.silicon.timing import Timing
from modes.paravirt.abi import EINVAL, EVENT_CHANNELS, FEATURES, FIRST_RESERVED_GDT_ENTRY, M2P_START, XEN_SLOTS, Refused
from modes.paravirt.common import VCPU_INFO_SIZE, XenDomain, XenVcpu
from modes.paravirt.descriptors import XEN_PAGE, check_page
from modes.paravirt.events import SELECTOR
from modes.paravirt.foreign import MachineFrames
from modes.paravirt.frames import Frames, Kind
from modes.paravirt.grants import Grants
from modes.paravirt.state import DomainState, PvVcpuState
from modes.paravirt.tables import PageTables
from modes.paravirt.vcpu import GDT_BASE, GDT_SPAN, PvVcpu

PRESENT, WRITABLE, USER, ACCESSED, DIRTY = 1, 2, 4, 0x20, 0x40
SUPERVISOR_DATA = PRESENT | WRITABLE | ACCESSED | DIRTY
NO_PFN = (1 << 64) - 1  # in the machine-to-physical table: no frame of this domain
ARCH = 0xC10  # offset in shared_info


class XenTables:
    """Xen's own part of the address space: the machine-to-physical table, and a GDT for each vCPU.

    They lie in slots 256 to 271 of every top-level table. Ring 3 may read the first and only the CPU the second.
    """

    def __init__(self, memory: Memory, alloc: Callable[[], int], first_mfn: int, frames: int, vcpus: int) -> None:
        self.memory, self.alloc = memory, alloc
        self.top = [0] * len(XEN_SLOTS)
        self.m2p: dict[int, int] = {}  # machine address of the page that holds entries 512*n to 512*n+511
        self.gdt_slots: dict[int, int] = {}  # linear address -> machine address of its level-1 entry
        for page in range(first_mfn >> 9, (first_mfn + frames - 1 >> 9) + 1):
            self.m2p[page] = alloc()
            memory.write(self.m2p[page], b"\xff" * 0x1000)
            memory.write_u64(self._slot(M2P_START + (page << 12), USER | PRESENT), self.m2p[page] | PRESENT | USER)
        self.xen_page = alloc()
        memory.write(self.xen_page, XEN_PAGE)
        for vcpu in range(vcpus):
            self._add_gdt(vcpu)

    def _slot(self, linear: int, rights: int) -> int:
        """Machine address of the level-1 entry for a linear address, with the tables above it."""
        index = (linear >> 39 & 511) - XEN_SLOTS.start
        if not self.top[index]:
            self.top[index] = self.alloc() | rights | PRESENT | WRITABLE
        table = self.top[index] & ~0xFFF
        for shift in (30, 21):
            at = table + (linear >> shift & 511) * 8
            entry = self.memory.read_u64(at)
            if not entry:
                entry = self.alloc() | rights | PRESENT | WRITABLE
                self.memory.write_u64(at, entry)
            table = entry & ~0xFFF
        return table + (linear >> 12 & 511) * 8

    def slots(self) -> bytes:
        """What every top-level table has in Xen's slots."""
        return struct.pack("<16Q", *self.top)

    def _add_gdt(self, vcpu: int) -> None:
        """Room for a vCPU's GDT, with Xen's page at its end."""
        base = GDT_BASE + GDT_SPAN * vcpu
        for page in range(16):
            self.gdt_slots[base + (page << 12)] = self._slot(base + (page << 12), 0)
        self.memory.write_u64(self.gdt_slots[base + (14 << 12)], self.xen_page | SUPERVISOR_DATA)

    def map_gdt(self, vcpu: int, frames: list[int]) -> None:
        for page in range(14):
            entry = frames[page] << 12 | SUPERVISOR_DATA if page < len(frames) else 0
            self.memory.write_u64(self.gdt_slots[GDT_BASE + GDT_SPAN * vcpu + (page << 12)], entry)

    def set_pfn(self, mfn: int, pfn: int) -> None:
        """An entry of the machine-to-physical table, of which only the part for RAM exists."""
        page = self.m2p.get(mfn >> 9)
        if page is not None:
            self.memory.write_u64(page + (mfn & 511) * 8, pfn)

    def pfn(self, mfn: int) -> int:
        page = self.m2p.get(mfn >> 9)
        return NO_PFN if page is None else self.memory.read_u64(page + (mfn & 511) * 8)


class Domain(XenDomain):
    """A PV domain."""

    features = FEATURES
    vcpus: list[PvVcpu]

    def __init__(
        self, domid: int, memory: Memory, frames: Frames, xen: XenTables, timing: Timing, now: Callable[[], int],
        kick: Callable[[int], None],
    ) -> None:  # fmt: skip
        super().__init__(domid, memory, timing, now, kick)
        self.frames, self.xen = frames, xen
        self.tables = PageTables(memory, frames, domid, xen.slots())
        frames.keepers[domid] = self
        self.grants = Grants(memory, MachineFrames(frames, domid))
        self.vcpus = []
        self.free: list[int] = []

    def add_vcpu(self, vcpu: PvVcpu) -> None:
        self.vcpus.append(vcpu)
        self.add_state(vcpu.index, vcpu.s)

    # --- frames that change their kind --------------------------------------------------------------------------

    def promote(self, mfn: int, kind: Kind) -> None:
        if kind == Kind.DESCRIPTORS:
            check_page(self.memory, mfn)
        else:
            self.tables.promote(mfn, kind)

    def demote(self, mfn: int, kind: Kind) -> None:
        if kind != Kind.DESCRIPTORS:
            self.tables.demote(mfn, kind)

    def scrub(self, mfn: int) -> None:
        """Nobody finds what the last owner had there."""
        self.memory.write(mfn << 12, bytes(0x1000))
        self.xen.set_pfn(mfn, NO_PFN)
        self.free.append(mfn)

    # --- descriptors ----------------------------------------------------------------------------------------------

    def set_gdt(self, vcpu: PvVcpu, frames: list[int], entries: int) -> None:
        if entries > FIRST_RESERVED_GDT_ENTRY:
            raise Refused(EINVAL)
        taken = []
        try:
            for mfn in frames:
                self.frames.take_as(mfn, Kind.DESCRIPTORS, self.domid)
                taken.append(mfn)
        except Refused:
            for mfn in taken:
                self.frames.drop_as(mfn)
            raise
        old, vcpu.s.gdt, vcpu.s.gdt_entries = vcpu.s.gdt, frames, entries
        for mfn in old:
            self.frames.drop_as(mfn)
        self.xen.map_gdt(vcpu.index, frames)

    def descriptor(self, s: PvVcpuState, selector: int) -> int:
        """The descriptor that a selector names, 0 for none."""
        index = selector >> 3
        if selector & 4 or not index:
            return 0
        if index >= FIRST_RESERVED_GDT_ENTRY:
            offset = (index - FIRST_RESERVED_GDT_ENTRY) * 8
            return int.from_bytes(XEN_PAGE[offset : offset + 8], "little")
        if index >= s.gdt_entries:
            return 0
        return self.memory.read_u64((s.gdt[index >> 9] << 12) + (index & 511) * 8)

    # --- vCPUs ----------------------------------------------------------------------------------------------------

    def move_info(self, vcpu: XenVcpu, mfn: int, offset: int) -> None:
        """vcpu_info goes to a frame of the domain's, once and for ever; the frame stays a writable one."""
        if offset > 0x1000 - VCPU_INFO_SIZE or offset & 7:
            raise Refused(EINVAL)
        if vcpu.s.info >> 12 != self.events.shared >> 12:
            raise Refused(EINVAL)
        self.frames.take_as(mfn, Kind.WRITABLE, self.domid)
        new = mfn << 12 | offset
        self.memory.write(new, self.memory.read(vcpu.s.info, VCPU_INFO_SIZE))
        vcpu.s.info = new
        self.memory.write(new + SELECTOR, b"\xff" * 8)  # look at everything once: something may have been missed
        self.events.mark_pending(vcpu.index)

    # --- snapshots ------------------------------------------------------------------------------------------------

    def state(self) -> DomainState:
        return DomainState(
            self.frames.state(), [v.s for v in self.vcpus], self.events.channels, self.events.shared, self.console,
            self.store, self.console_port, self.store_port, self.grants.s, self.assists, self.free,
        )  # fmt: skip

    def set_state(self, state: DomainState) -> None:
        self.frames.set_state(state.frames)
        self.states[:] = state.vcpus
        for vcpu, s in zip(self.vcpus, state.vcpus, strict=True):
            vcpu.s = s
            vcpu.memory.root = s.root
        self.events.channels, self.events.shared = state.channels, state.shared
        self.console, self.store = state.console, state.store
        self.console_port, self.store_port = state.console_port, state.store_port
        self.grants.s, self.assists, self.free = state.grants, state.assists, state.free


assert EVENT_CHANNELS == 64 * 64  # as many as fit in the words of shared_info
