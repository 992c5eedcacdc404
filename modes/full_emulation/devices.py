"""Full emulation of everything but the CPU: the board of 1998, every access to its chips an exit.

The chips that every PC has stand on the board already (hv/silicon/x86_64/pc.py), and that is all that the interrupts
column is. The boot column has the firmware find them; a column with a card of its own plugs it in.
"""

from __future__ import annotations

from hv.devices.e1000.nic import E1000
from hv.mode import Mode

NIC_SLOT = 3
NIC_ADDRESS = bytes.fromhex("026876000001")  # locally administered; "hv" in it


class EmulatedDevices(Mode):
    id = "full-emulation"
    summary = "the chips of a PC in software, register by register"
    cells = {"net": "VS", "interrupts": "VS", "boot": "VS"}

    def equip(self, column: str) -> None:
        if column == "net":
            self._plug_network_card()
        elif column == "boot":
            self.vm.boot_firmware()

    def _plug_network_card(self) -> None:
        """An 82540EM, and the wire that it is on."""
        vm, board = self.vm, self.vm.board
        nic = E1000(vm.costs.timing.tsc_hz, NIC_ADDRESS)
        wire = vm.outside.lay_wire(vm.costs, board.clock)
        nic.connect(wire.plug_card(nic.receive))
        wire.reschedule = board.reschedule
        board.plug(nic, NIC_SLOT)
        board.add(wire)
