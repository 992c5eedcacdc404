"""Bare metal: the guest owns the silicon. No hypervisor code runs, so there are no exits, because nothing exits.

Unicorn needs VMRUN as microcode even here (hv/silicon/x86_64/cpu.py); what that intercepts are assists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.cards import DRIVES, NIC_SLOT, Drive, build_drive, build_nic
from hv.loader import Guest
from hv.mode import Mode
from hv.neighbours import ethernet_address
from hv.silicon.nvme.subsystem import PRIMARY
from hv.silicon.x86_64.state import RBX
from hv.x86_64.pvh import first_state

if TYPE_CHECKING:
    from hv.vm import Vm


def plug_drive(vm: Vm, column: str, drive: Drive) -> None:
    """An NVMe card on the board, its one namespace the guest's."""
    card = build_drive(vm, column, drive)
    vm.board.plug(card, drive.slot)
    card.subsystem.attach(1, PRIMARY)


class BareMetal(Mode):
    id = "bare-metal"
    summary = "the guest owns the hardware; nothing exits"
    cells = {"cpu": "H", "net": "H", "local": "H", "remote": "H", "interrupts": "H", "boot": "H"}
    most_cpus = 8

    def equip(self, column: str) -> None:
        if column == "boot":
            self.vm.boot_firmware()
        elif column == "net":
            nic, wire = build_nic(self.vm, ethernet_address(self.vm.number))
            self.vm.board.plug(nic, NIC_SLOT)
            wire.reschedule = self.vm.board.add(wire)
        elif column in DRIVES:
            plug_drive(self.vm, column, DRIVES[column])

    def start(self, guest: Guest) -> None:
        vm = self.vm
        machine = vm.machine
        machine.start_on_metal(machine.cpus[0], lambda vmcb: first_state(vmcb, guest.entry))
        machine.engine.state.regs[RBX] = vm.start_info


MODE = BareMetal
