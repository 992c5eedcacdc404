"""The storage of a machine that no provider built: an NVMe drive that anybody can buy, and disks on the network.

The remote disk is software in the guest: an initiator of ATA over Ethernet, over whatever network card it has. Outside
is the target, in front of the same sectors that a provider's card would show. Without a network there is none.
"""

from __future__ import annotations

from hv.cards import COMMODITY_DRIVE
from hv.mode import Mode
from modes.bare_metal import plug_drive


class Commodity(Mode):
    id = "commodity"
    summary = "a drive that anybody can buy; the remote disk is ATA over Ethernet"
    cells = {"local": "H", "remote": "H"}

    @classmethod
    def impossible_beside(cls, cpu: type[Mode]) -> str | None:
        return None if cpu.cells.get("cpu") == "H" else "a machine's own drive is for who owns the machine (cpu=H)"

    def equip(self, column: str) -> None:
        vm = self.vm
        if column == "local":
            plug_drive(vm, column, COMMODITY_DRIVE)
        elif vm.outside.wire is not None:
            vm.outside.serve_blocks(vm.costs)


MODE = Commodity
