"""Full emulation of everything but the CPU: the board of 1998, every access to its chips an exit.

The chips that every PC has stand on the board already (hv/silicon/x86_64/pc.py), and that is all that the interrupts
column is. The boot column has the firmware find them; a column with a card of its own plugs it in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.devices.e1000.nic import E1000
from hv.devices.ide import LEGACY, Ide
from hv.mode import Mode
from hv.neighbours import ethernet_address

if TYPE_CHECKING:
    from hv.vm import Vm

IDE_PLACE = (1, 1)  # PCI device and function
NIC_SLOT = 3


class EmulatedDevices(Mode):
    """The part of full-emulation (translator/mode.py) that is not the CPU."""

    cells = {"net": "VS", "local": "VS", "remote": "VS", "interrupts": "VS", "boot": "VS"}

    def __init__(self, vm: Vm) -> None:
        super().__init__(vm)
        self.ide: Ide | None = None

    def equip(self, column: str) -> None:
        vm = self.vm
        if column == "net":
            self._plug_network_card()
        elif column == "local":
            self._controller().attach(0, 0, vm.outside.local, vm.costs.local, "hv local disk")
        elif column == "remote":
            self._controller().attach(1, 0, vm.outside.remote, vm.costs.remote, "hv remote disk")
        elif column == "boot":
            vm.boot_firmware()

    def _controller(self) -> Ide:
        """The PIIX3's IDE function, beside its ISA bridge. Both disks are behind it, each on a channel of its own."""
        if self.ide is None:
            board = self.vm.board
            self.ide = Ide(board.ports, (board.line(LEGACY[0].irq), board.line(LEGACY[1].irq)))
            board.plug(self.ide, *IDE_PLACE)
        return self.ide

    def _plug_network_card(self) -> None:
        """An 82540EM, and the wire that it is on."""
        vm, board = self.vm, self.vm.board
        nic = E1000(vm.costs.timing.tsc_hz, ethernet_address(vm.number))
        wire = vm.outside.lay_wire(vm.costs, board.clock)
        nic.connect(wire.plug_card(nic.receive))
        board.plug(nic, NIC_SLOT)
        wire.reschedule = board.add(wire)
