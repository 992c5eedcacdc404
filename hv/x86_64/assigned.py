"""A function of a card, as the guest that was given it finds it: direct assignment.

Configuration space and the MSI-X table are the hypervisor's, in software: the guest never sees the real ones, and they
matter at start-up only. All other pages of the windows are mapped, so that the guest reaches the card's registers
without an exit. A real interrupt of the function comes to the hypervisor, which sends the guest the message that the
guest's own table has for it; or the IOMMU posts that (iommu.py), and no software is in the way.
Simplified: windows whose MSI-X table has pages of its own; the capabilities are Express and MSI-X, no others.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hv.silicon.pci import COMMAND, COMMAND_MASTER, Bar, Header
from hv.silicon.pcie import (
    DEVICE_CONTROL,
    ENTRY,
    ENTRY_MASKED,
    MSIX,
    MSIX_ENABLE,
    ExpressFunction,
    Msix,
    MsixState,
    msix_state,
)
from hv.silicon.x86_64.root_complex import RootComplex

PAGE = 0x1000
MESSAGES = 0xFEE0_0000  # where interrupt messages go


class AssignedState(msgspec.Struct):
    """The guest's MSI-X table, and where the windows were when pages of them were mapped last."""

    msix: MsixState
    mapped: dict[int, int] = {}
    gone: bool = False


class AssignedFunction(ExpressFunction):
    """`physical` is the function in the root complex, `header` what the guest is told of it.

    `forget(address, size)` is called when mapped pages are somewhere else now, and `route(index, address, data)` when
    the guest may have changed what a vector sends. It says whether the hardware does that alone from now on.
    """

    route: Callable[[int, int, int], bool]

    def __init__(
        self, physical: ExpressFunction, place: int, root: RootComplex, header: Header,
        forget: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        super().__init__(header)
        real = physical.msix
        assert real is not None
        self.physical, self.place, self.root, self.forget = physical, place, root, forget
        self.state = AssignedState(msix_state(real.vectors))
        self.msix = Msix(self, real.vectors, real.bar, real.table, real.pba)

    @property
    def vectors(self) -> int:
        assert self.msix is not None
        return self.msix.vectors

    # --- windows ----------------------------------------------------------------------------------------------

    def physical_page(self, gpa: int) -> int | None:
        """The physical address of the page at a guest-physical one, if the guest may have it."""
        for number, bar in self.header.bars.items():
            base = self.bar_address(number)
            if base is None or not base <= gpa < base + bar.size:
                continue
            offset = (gpa - base) & ~(PAGE - 1)
            real = self.physical.bar_address(number)
            if real is None or self._kept(number, offset):
                return None
            self.state.mapped[number] = base
            return self.root.address(real) + offset
        return None

    def _kept(self, number: int, offset: int) -> bool:
        """Is this page of a window the hypervisor's, because the MSI-X table or its pending bits are there?"""
        msix = self.msix
        assert msix is not None
        return number == msix.bar and ((offset <= msix.table_end and offset + PAGE > msix.table) or offset == msix.pba)

    def read(self, bar: int, offset: int, size: int) -> int:
        """An access that exits: to the table, or by a CPU that has no second-level translation."""
        assert self.msix is not None
        if bar == self.msix.bar and self.msix.claims(offset):
            own = self.msix.read(offset, size)
            return own | self.physical.read(bar, offset, size) if offset >= self.msix.pba else own
        real = self.physical.bar_address(bar)
        return (1 << 8 * size) - 1 if real is None else self.root.mmio.read(real + offset, size)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        assert self.msix is not None
        if bar == self.msix.bar and self.msix.claims(offset):
            self.msix.write(offset, size, value)
            if offset < self.msix.table_end:
                self._routed((offset - self.msix.table) // ENTRY)
            return
        real = self.physical.bar_address(bar)
        if real is not None and not self._kept(bar, offset & ~(PAGE - 1)):
            self.root.mmio.write(real + offset, size, value)

    # --- configuration ----------------------------------------------------------------------------------------

    def configured(self, offset: int, size: int) -> None:
        """The guest has written: what concerns the real function goes on to it."""
        if self.command & COMMAND_MASTER != self.physical.command & COMMAND_MASTER:
            self._write_real(COMMAND, 2, self.command & COMMAND_MASTER)
        enabled = self.config[MSIX + 3] & MSIX_ENABLE
        if enabled != self.physical.config[MSIX + 3] & MSIX_ENABLE:
            self._write_real(MSIX + 2, 2, enabled << 8)
        if offset <= MSIX + 3 < offset + size:
            for index in range(self.vectors):
                self._routed(index)
        self._forget_moved()

    def _forget_moved(self) -> None:
        for number, old in sorted(self.state.mapped.items()):
            if self.bar_address(number) != old:
                self.forget(old, self.header.bars[number].size)
                del self.state.mapped[number]

    def reset(self) -> None:
        """The guest has reset its function: the real one is reset too."""
        self.state.msix = msix_state(self.vectors)
        self._write_real(DEVICE_CONTROL, 2, 0x8000)
        self.prepare()
        for index in range(self.vectors):
            self._routed(index)

    def _routed(self, index: int) -> None:
        """What the guest's table says of a vector may be new. If the hardware does it, it must know of masks too."""
        assert self.msix is not None
        address, data, masked = self.msix.entry(index)
        alone = self.route(index, address, data)
        control = self.msix.table + ENTRY * index + 12
        self.physical.write(self.msix.bar, control, 4, ENTRY_MASKED if alone and masked else 0)

    def prepare(self) -> None:
        """Let the real function send message N for its interrupt N; the IOMMU says where that goes."""
        assert self.msix is not None
        for vector in range(self.vectors):
            at = self.msix.table + 16 * vector
            for word, value in enumerate((MESSAGES, 0, vector, 0)):
                self.physical.write(self.msix.bar, at + 4 * word, 4, value)

    def _write_real(self, offset: int, size: int, value: int) -> None:
        self.root.pci.config_write(self.physical, offset, size, value)

    # --- taking it away ---------------------------------------------------------------------------------------

    @property
    def present(self) -> bool:  # type: ignore[override]
        return not self.state.gone

    def bar_address(self, number: int) -> int | None:
        return None if self.state.gone else super().bar_address(number)

    def revoke(self) -> None:
        """The function is pulled out: what is mapped goes, and reads give ones from now on."""
        self.state.gone = True
        self._forget_moved()
        self.bus.remap()


def guest_header(physical: ExpressFunction, vendor: int, device: int) -> Header:
    """What the guest is told: a VF has no vendor and device of its own, the hypervisor knows them from the PF."""
    real = physical.header
    return Header(
        vendor, device, real.class_code, real.revision, real.subsystem_vendor, real.subsystem,
        bars={number: Bar(bar.size) for number, bar in real.bars.items()},
    )  # fmt: skip
