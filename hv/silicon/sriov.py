"""SR-IOV: one card that is many functions (Single Root I/O Virtualization and Sharing Specification 1.1, chapter 3).

The physical function (PF) has the capability, with which whoever owns it switches virtual functions (VFs) on. A VF has
a configuration space of its own, without identity (vendor and device read as ones) and without base addresses: its
windows lie one behind the other in the windows that the PF's capability names.
Simplified: no migration, pages of 4 KiB, all of the card's VFs always belong to this PF.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hv.silicon.pci import BAR0, COMMAND_MASTER, Bar, Header
from hv.silicon.pcie import ExpressFunction

SRIOV, SRIOV_ID, SRIOV_SIZE = 0x160, 0x10, 0x40
CONTROL, INITIAL_VFS, TOTAL_VFS, NUM_VFS = SRIOV + 8, SRIOV + 0xC, SRIOV + 0xE, SRIOV + 0x10
FIRST_OFFSET, STRIDE, VF_DEVICE = SRIOV + 0x14, SRIOV + 0x16, SRIOV + 0x1A
PAGE_SIZES, PAGE_SIZE, VF_BAR0 = SRIOV + 0x1C, SRIOV + 0x20, SRIOV + 0x24
VF_ENABLE, VF_MEMORY = 1 << 0, 1 << 3  # control


class Virtual(msgspec.Struct, frozen=True):
    """What the capability says of the VFs: how many, how they are called, how big one's windows are, where they are."""

    count: int
    device: int
    bars: Mapping[int, Bar]
    first: int = 1
    stride: int = 1


class VirtualFunction(ExpressFunction):
    """One of a card's virtual functions. A subclass gives the registers, as for any function."""

    def __init__(self, physical: PhysicalFunction, index: int) -> None:
        header = physical.header
        virtual = physical.virtual
        super().__init__(
            Header(
                0xFFFF, 0xFFFF, header.class_code, header.revision, header.subsystem_vendor, header.subsystem,
                bars=virtual.bars,
            )
        )  # fmt: skip
        self.physical, self.index = physical, index
        self.register(4, 2, 0, COMMAND_MASTER)  # memory is switched on in the PF
        for number in virtual.bars:
            self.register(BAR0 + 4 * number, 4)

    @property
    def present(self) -> bool:  # type: ignore[override]
        return self.index < self.physical.enabled_vfs

    def bar_address(self, number: int) -> int | None:
        physical = self.physical
        size = self.header.bars[number].size
        base = physical.word(VF_BAR0 + 4 * number) & ~0xF
        if not self.present or not physical.word(CONTROL, 2) & VF_MEMORY:
            return None
        address = base + self.index * size
        return address if base > 0 and address <= (1 << 32) - size else None


class PhysicalFunction(ExpressFunction):
    """A function with an SR-IOV capability. The subclass sets `virtual_functions`, as many as `virtual` says."""

    virtual_functions: Sequence[VirtualFunction] = ()

    def __init__(self, header: Header, virtual: Virtual) -> None:
        super().__init__(header)
        self.virtual = virtual
        self.extended_capability(SRIOV, SRIOV_ID, SRIOV_SIZE)
        self.register(CONTROL, 2, 0, VF_ENABLE | VF_MEMORY)
        self.register(INITIAL_VFS, 2, virtual.count)
        self.register(TOTAL_VFS, 2, virtual.count)
        self.register(NUM_VFS, 2, 0, 0xFFFF)
        self.register(FIRST_OFFSET, 2, virtual.first)
        self.register(STRIDE, 2, virtual.stride)
        self.register(VF_DEVICE, 2, virtual.device)
        self.register(PAGE_SIZES, 4, 1)
        self.register(PAGE_SIZE, 4, 1)
        for number, bar in virtual.bars.items():
            self.register(VF_BAR0 + 4 * number, 4, 8 * bar.prefetchable, -bar.size & 0xFFFF_FFF0)

    @property
    def followers(self) -> Sequence[tuple[int, Any]]:  # type: ignore[override]
        virtual = self.virtual
        return [(virtual.first + index * virtual.stride, vf) for index, vf in enumerate(self.virtual_functions)]

    @property
    def enabled_vfs(self) -> int:
        """So many VFs are there now."""
        return self.word(NUM_VFS, 2) if self.word(CONTROL, 2) & VF_ENABLE else 0

    def config_write(self, offset: int, size: int, value: int) -> None:
        before, enabled = self.config[SRIOV : SRIOV + SRIOV_SIZE], self.enabled_vfs
        super().config_write(offset, size, value)
        if enabled and NUM_VFS - size < offset < NUM_VFS + 2:  # 3.3.7: their number may not change while they are there
            self.config[NUM_VFS : NUM_VFS + 2] = before[NUM_VFS - SRIOV : NUM_VFS - SRIOV + 2]
        if self.word(NUM_VFS, 2) > self.virtual.count:
            self.config[NUM_VFS : NUM_VFS + 2] = bytes(2)
        if self.config[SRIOV : SRIOV + SRIOV_SIZE] != before:
            for vf in self.virtual_functions[self.enabled_vfs : enabled]:
                vf.function_level_reset()  # taken away, perhaps by the PF's own reset
            self.bus.remap()
