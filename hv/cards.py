"""The cards that a machine with real ones has, whoever drives them: a guest on bare metal, or a hypervisor.

`local` is an NVMe drive in the machine. `remote` is the provider's NVMe card: the same interface, but its namespace
lies behind a network, and a guest cannot tell. `net` is a 10-gigabit Ethernet controller; one wire is enough for all
guests that have a function of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hv.host.wire import TEN_GIGABIT, Wire
from hv.silicon.ixgbe.card import IxgbePhysical
from hv.silicon.nvme.card import NvmePhysical
from hv.silicon.nvme.subsystem import Subsystem

if TYPE_CHECKING:
    from hv.vm import Vm


class Drive(msgspec.Struct, frozen=True):
    """An NVMe card: its PCI vendor and device identifiers, model and serial number, its PCI slot."""

    vendor: int
    device: int
    model: str
    serial: str
    slot: int


AMAZON, INTEL = 0x1D0F, 0x8086
# The two that EC2's instances have: drivers know them by these names.
DRIVES = {
    "local": Drive(AMAZON, 0xCD01, "Amazon EC2 NVMe Instance Storage", "AWS00000000000000001", 4),
    "remote": Drive(AMAZON, 0x8061, "Amazon Elastic Block Store", "vol00000000000000001", 5),
}
# And one that anybody can buy: the drive that the cost model's `local` speaks of.
COMMODITY_DRIVE = Drive(INTEL, 0x2701, "INTEL SSDPED1K375GA", "PHKS00000000001AGN", 4)


def build_drive(vm: Vm, column: str, drive: Drive) -> NvmePhysical:
    """The card of a column, with a namespace for each guest, from 1, which no controller sees yet."""
    costs = vm.costs
    media = [outside.local if column == "local" else outside.remote for outside in vm.neighbours.outsides]
    times = costs.local if column == "local" else costs.remote
    namespaces = dict(enumerate(media, 1))
    subsystem = Subsystem(drive.model, drive.vendor, drive.serial, namespaces, times, costs.timing.card_read)
    return NvmePhysical(drive.device, subsystem)


NIC_SLOT = 3


def build_nic(vm: Vm, address: bytes) -> tuple[IxgbePhysical, Wire]:
    """The network card, with its own Ethernet address, and the wire, whose time has to pass where the card's does."""
    timing = vm.costs.timing
    nic = IxgbePhysical(timing.tsc_hz, timing.card_read, address)
    wire = vm.outside.lay_wire(vm.costs, lambda: vm.now, TEN_GIGABIT)
    nic.connect(wire.plug_card(nic.receive))
    return nic, wire
