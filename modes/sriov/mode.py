"""The sriov mode: cards in the root complex, of which the guest gets a virtual function each.

The cards stand in the physical machine (hv/cards.py). The hypervisor owns their physical functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from hv.cards import DRIVES, NIC_SLOT, build_drive, build_nic
from hv.mode import Mode
from hv.neighbours import ethernet_address
from hv.silicon.ixgbe.card import VENDOR, VIRTUAL_DEVICE
from hv.silicon.nvme.card import NvmeVirtual
from hv.silicon.pcie import ExpressFunction
from hv.x86_64.assigned import AssignedFunction, guest_header
from hv.x86_64.iommu_tables import Domain, IommuTables
from hv.x86_64.pool import CARDS_POOL_BASE, CARDS_POOL_SIZE, HypervisorMemory
from modes.sriov.nic_owner import Guest as GuestOfNic
from modes.sriov.nic_owner import NicOwner
from modes.sriov.nvme_owner import NvmeOwner

if TYPE_CHECKING:
    from hv.vm import Vm

FIRST_VECTOR = 0x30  # of the hypervisor's, for interrupts of cards


OWN_ADDRESS = bytes.fromhex("026876000100")  # the network card's, which the hypervisor keeps for itself
WINDOWS, WINDOW_STEP = 0xF000_0000, 1 << 20  # bus addresses for the windows of cards, by slot


class SriovState(msgspec.Struct):
    """What the mode remembers besides its tables, which are in memory, and the functions' own state."""

    used: int
    owners: dict[str, tuple[int, int, int]]  # tail, head and phase of each drive's owner's admin queue
    guests: list[GuestOfNic]  # what the network card's owner knows of each virtual function


class Sriov(Mode):
    id = "sriov"
    summary = "a virtual function of a card, mapped into the guest behind an IOMMU"
    cells = {"net": "VH", "local": "VH", "remote": "VH"}

    def __init__(self, vm: Vm) -> None:
        super().__init__(vm)
        self.root = vm.machine.build_root_complex()
        self.pool = HypervisorMemory(vm.machine.memory, CARDS_POOL_BASE, CARDS_POOL_SIZE)
        self.tables = IommuTables(self.pool, self.root.iommu)
        self.domain = self._guest_memory()
        self.given: dict[str, AssignedFunction] = {}
        self.vectors = FIRST_VECTOR

    def _guest_memory(self) -> Domain:
        """All of the guest's RAM, under the addresses that it knows."""
        machine, domain = self.vm.machine, Domain(self.pool)
        for start, size in machine.ram_ranges():
            domain.map(start, machine.ram_base + start, size)
        return domain

    def equip(self, column: str) -> None:
        """The card of a column is the first guest's to plug in; each guest gets a function of it."""
        if column == "net":
            self._give_network_card()
        else:
            self._give_drive(column)

    def _give_network_card(self) -> None:
        """A virtual function with an Ethernet address of its own."""
        vm, root = self.vm, self.root
        shared, number, first = vm.neighbours, vm.number, NIC_SLOT << 3
        if number == 0:
            nic, wire = build_nic(vm, OWN_ADDRESS)
            root.plug(nic, NIC_SLOT)
            wire.reschedule = root.add(wire)
            self.tables.give(first, Domain(self.pool))  # its own DMA reaches nothing: it has no queues
            self.tables.interrupt(first, 0, 0, self.vectors)
            shared.owners["net"] = NicOwner(nic, WINDOWS + WINDOW_STEP * NIC_SLOT, root.pci)
            vm.physical_interrupts[self.vectors] = shared.owners["net"].service
            self.vectors += 1
        owner: NicOwner = shared.owners["net"]
        vf = owner.card.virtual_functions[number]
        place = first + owner.card.virtual.first + owner.card.virtual.stride * number
        if number > 0:
            root.adopt(vf, place)
        owner.give(number, ethernet_address(number))
        self.given["net"] = self.assign(vf, place, NIC_SLOT, VENDOR, VIRTUAL_DEVICE)

    def _give_drive(self, column: str) -> None:
        """A virtual function with a namespace."""
        vm, drive = self.vm, DRIVES[column]
        shared, number, first = vm.neighbours, vm.number, drive.slot << 3
        if number == 0:
            shared.drives[column] = card = build_drive(vm, column, drive)
            self.root.plug(card, drive.slot)
            window = WINDOWS + WINDOW_STEP * drive.slot
            shared.owners[column] = NvmeOwner(card, first, window, self.root, self.pool, self.tables)
        card = shared.drives[column]
        vf = card.virtual_functions[number]
        assert isinstance(vf, NvmeVirtual)
        place = first + card.virtual.first + card.virtual.stride * number
        if number > 0:
            self.root.adopt(vf, place)
        self.owner(column).give(vf, number + 1)
        self.given[column] = self.assign(vf, place, drive.slot, drive.vendor, drive.device)

    def owner(self, column: str) -> NvmeOwner:
        """Who drives the physical function of a column's card."""
        owner: NvmeOwner = self.vm.neighbours.owners[column]
        return owner

    def take_away(self, column: str) -> None:
        """Take a card away from the guest, whatever it is doing with it."""
        function = self.given[column]
        if column == "net":
            owner: NicOwner = self.vm.neighbours.owners["net"]
            owner.take_away(self.vm.number)
        else:
            vf = function.physical
            assert isinstance(vf, NvmeVirtual)
            self.owner(column).take_away(vf)
        self.tables.block(function.place)
        function.revoke()

    def assign(self, physical: ExpressFunction, place: int, slot: int, vendor: int, device: int) -> AssignedFunction:
        """Give a function to the guest, in PCI slot `slot` of its board. `place` is where it is in the root complex."""
        vm = self.vm
        header = guest_header(physical, vendor, device)
        function = AssignedFunction(physical, place, self.root, header, self._forget)
        self.tables.give(place, self.domain)
        assert function.msix is not None
        function.route = partial(self._route, function, self.vectors)
        for index in range(function.vectors):
            self.tables.interrupt(place, index, 0, self.vectors)
            vm.physical_interrupts[self.vectors] = self._sender(function, index)
            self.vectors += 1
        function.prepare()
        vm.board.plug(function, slot)
        return function

    def _route(self, function: AssignedFunction, first: int, index: int, address: int, data: int) -> bool:
        """A vector of the guest's function sends this message: post it, or let it interrupt the hypervisor."""
        target = self.vm.mode.posted(address, data)
        if target is None:
            self.tables.interrupt(function.place, index, 0, first + index)
        else:
            self.tables.post(function.place, index, *target)
        return target is not None

    def _sender(self, function: AssignedFunction, index: int) -> Callable[[], None]:
        assert function.msix is not None
        return partial(function.msix.fire, index)

    def _forget(self, address: int, size: int) -> None:
        self.vm.mode.forget_mapping(address, size)

    def state(self) -> SriovState:
        mine = [column for column in self.given if self.vm.number == 0]
        drives = {column: self.owner(column) for column in mine if column != "net"}
        owners = {column: (owner.tail, owner.head, owner.phase) for column, owner in drives.items()}
        return SriovState(self.pool.used, owners, self.vm.neighbours.owners["net"].state if "net" in mine else [])

    def set_state(self, state: SriovState) -> None:
        self.pool.used = state.used
        for column, (tail, head, phase) in state.owners.items():
            owner = self.owner(column)
            owner.tail, owner.head, owner.phase = tail, head, phase
        if state.guests:
            self.vm.neighbours.owners["net"].state = state.guests
