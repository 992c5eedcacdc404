"""The drive as a PCI Express card: a physical function with SR-IOV, and its virtual functions.

Window 0 of each: registers, from 0x1000 doorbells, at 0x2000 the MSI-X table, at 0x3000 its pending bits. The last two
have pages of their own, so that a hypervisor can keep them and give the rest to a guest.
"""

from __future__ import annotations

import msgspec

from hv.silicon.nvme.controller import Controller
from hv.silicon.nvme.state import ControllerState
from hv.silicon.nvme.subsystem import MOST_FLEXIBLE, PRIMARY, PRIVATE_VECTORS, Secondary, Subsystem, SubsystemState
from hv.silicon.pci import Bar, Header
from hv.silicon.pcie import ExpressFunction, Msix, MsixState, msix_state
from hv.silicon.sriov import PhysicalFunction, Virtual, VirtualFunction

CLASS = 0x01_0802  # mass storage, NVM, NVM Express
WINDOW, TABLE, PENDING = 0x4000, 0x2000, 0x3000
VIRTUAL_FUNCTIONS = 7


class NvmeState(msgspec.Struct):
    """Everything that a function remembers; the PF's also what is common to the card."""

    controller: ControllerState
    msix: MsixState
    subsystem: SubsystemState | None = None


class NvmeFunction(ExpressFunction):
    """What both kinds of function are: a controller and an MSI-X unit behind window 0."""

    state: NvmeState
    msix: Msix
    controller: Controller

    def build(self, id: int, subsystem: Subsystem, vectors: int) -> None:
        """Put controller `id` behind the window."""
        self.vectors = vectors
        self.state = NvmeState(ControllerState(), msix_state(vectors))
        self.msix = Msix(self, vectors, 0, TABLE, PENDING)
        self.controller = Controller(self, id, subsystem)

    def read(self, bar: int, offset: int, size: int) -> int:
        return self.msix.read(offset, size) if offset >= TABLE else self.controller.read(offset, size)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        if offset < TABLE:
            self.controller.write(offset, size, value)
        else:
            self.msix.write(offset, size, value)

    @property
    def deadline(self) -> int | None:
        return self.controller.deadline

    def advance(self, now: int) -> None:
        self.controller.advance(now)

    def reset(self) -> None:
        """As after power-on."""
        self.controller.reset()
        self.state.controller, self.state.msix = ControllerState(), msix_state(self.vectors)
        self.slot.reschedule()


class NvmeVirtual(NvmeFunction, VirtualFunction):
    """A secondary controller's function."""

    def __init__(self, physical: NvmePhysical, index: int) -> None:
        VirtualFunction.__init__(self, physical, index)
        self.build(index + 1, physical.subsystem, MOST_FLEXIBLE)

    def reset(self) -> None:
        super().reset()
        if not self.present:
            self.controller.subsystem.state.secondaries[self.controller.id].online = False


class NvmePhysical(NvmeFunction, PhysicalFunction):
    """The primary controller's function. `device` is its PCI device identifier, and its virtual functions'."""

    def __init__(self, device: int, subsystem: Subsystem) -> None:
        header = Header(
            subsystem.vendor, device, CLASS, subsystem_vendor=subsystem.vendor, subsystem=device, pin=1,
            bars={0: Bar(WINDOW)},
        )  # fmt: skip
        PhysicalFunction.__init__(self, header, Virtual(VIRTUAL_FUNCTIONS, device, {0: Bar(WINDOW)}))
        self.subsystem = subsystem
        self.build(PRIMARY, subsystem, PRIVATE_VECTORS)
        secondaries = {id: Secondary() for id in range(1, VIRTUAL_FUNCTIONS + 1)}
        self.state.subsystem = SubsystemState(secondaries=secondaries)
        self.virtual_functions = [NvmeVirtual(self, index) for index in range(VIRTUAL_FUNCTIONS)]
