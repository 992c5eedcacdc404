"""Full emulation of everything but the CPU: the board of 1998, every access to its chips an exit.

The chips that every PC has stand on the board already (hv/silicon/x86_64/pc.py), and that is all that the interrupts
column is. The boot column has the firmware find them; a column with a card of its own plugs it in.
"""

from __future__ import annotations

from hv.mode import Mode


class EmulatedDevices(Mode):
    id = "full-emulation"
    summary = "the chips of a PC in software, register by register"
    cells = {"interrupts": "VS", "boot": "VS"}

    def equip(self, column: str) -> None:
        if column == "boot":
            self.vm.boot_firmware()
