"""The cards of the physical machine that a hypervisor runs on, and what stands between them and memory.

The hypervisor finds them through configuration space and gives functions of theirs to its guest. A card's DMA and its
interrupt messages pass the IOMMU (iommu.py). A message that gets through is a physical interrupt: it interrupts the
hypervisor, which asks for its vector (`take_vector`).
Simplified: no pins, so a card that is given to a guest needs MSI-X; a hypervisor's own devices are not here.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import msgspec

from hv.silicon.bus import MmioBus, PortBus
from hv.silicon.deadlines import Deadlines
from hv.silicon.iommu import Iommu, IommuPort
from hv.silicon.pci import Function, PciBus
from hv.silicon.pcie import Ecam
from hv.silicon.x86_64.engine import BUS_BASE
from hv.silicon.x86_64.pc import ECAM_BASE, ECAM_SIZE

if TYPE_CHECKING:
    from hv.silicon.x86_64.machine import Machine

WINDOWS = 0xC000_0000  # where bus addresses of cards begin, and the hole in RAM


class CardSlot:
    """The machine from the place of a function in the root complex (hv/silicon/device.py)."""

    def __init__(self, root: RootComplex, place: int, number: int) -> None:
        self.root, self.number = root, number
        port = IommuPort(root.iommu, place)
        self.read, self.write = port.read, port.write

    @property
    def now(self) -> int:
        return self.root.machine.now

    def interrupt(self, level: bool) -> None:
        """Nothing: no pins."""

    def reschedule(self) -> None:
        self.root.reschedule(self.number)


class RootState(msgspec.Struct):
    """Physical interrupts that nobody has taken yet: CPU and vector."""

    waiting: list[tuple[int, int]] = []


class RootComplex(Deadlines):
    """Its devices are the cards' functions, and what hangs on them."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine
        self.ports, self.mmio = PortBus(), MmioBus()
        self.pci = PciBus(self.ports, self.mmio, lambda wire, level: None)
        self.mmio.add(ECAM_BASE, ECAM_SIZE, Ecam(self.pci))
        self.iommu = Iommu(machine.memory, self._interrupt, machine.post)
        self.state = RootState()

    def plug(self, function: Function, device: int) -> None:
        """Put a card into slot `device`."""
        for distance, card in ((0, function), *function.followers):
            self.adopt(card, (device << 3) + distance)

    def adopt(self, function: Function, place: int) -> None:
        """Let a function belong here. One that was in another machine's root complex reaches this machine's memory."""
        self.pci.plug(function, place, CardSlot(self, place, len(self.devices)))
        self.add(function)
        self.pci.remap()

    def address(self, bus_address: int) -> int:
        """The physical address at which a CPU finds what is at a bus address of a card."""
        return BUS_BASE + bus_address - WINDOWS

    # --- time -------------------------------------------------------------------------------------------------

    def reschedule(self, number: int) -> None:
        """The deadline of device `number` has changed."""
        self.note_deadline(number)
        self.machine.look_by(self.deadline)

    # --- interrupts -------------------------------------------------------------------------------------------

    def _interrupt(self, destination: int, vector: int) -> None:
        """A physical interrupt for CPU `destination`."""
        if destination < len(self.machine.cpus) and (destination, vector) not in self.state.waiting:
            self.state.waiting.append((destination, vector))
            self.machine.cpus[destination].host_interrupt = True
            self.machine.stop_soon()

    def take_vector(self, cpu: int) -> int | None:
        """The hypervisor, interrupted on a CPU, asks why. None: by nothing of a card (more)."""
        for waiting in self.state.waiting:
            if waiting[0] == cpu:
                self.state.waiting.remove(waiting)
                return waiting[1]
        return None

    # --- snapshots --------------------------------------------------------------------------------------------

    def _parts(self) -> list[Any]:
        return [self, self.pci, self.iommu, *self.devices]

    def save(self) -> list[Any]:
        """The state of everything, as plain records."""
        return [copy.deepcopy(part.state) for part in self._parts()]

    def load(self, saved: list[Any]) -> None:
        """Go back to what save() gave."""
        for part, state in zip(self._parts(), saved, strict=True):
            part.state = copy.deepcopy(state)
        self.iommu.invalidate()
        for number in range(len(self.devices)):
            self.reschedule(number)
