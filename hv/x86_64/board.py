"""The board that a hypervisor's guest finds: the chips of a PC in software, every access to them an exit.

It is the same board that the silicon has on metal (hv/silicon/x86_64/pc.py). What happens here while no exit is open,
a byte that comes in on the serial line for one, interrupts the physical CPU first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import capstone

from hv.silicon.deadlines import NEVER
from hv.silicon.x86_64.cpu import Cpu, Shutdown
from hv.silicon.x86_64.lapic import TPR
from hv.silicon.x86_64.pc import IOAPIC_BASE, LAPIC_BASE, Pc
from hv.x86_64.assigned import AssignedFunction
from hv.x86_64.mmio import Emulation, Translate
from hv.x86_64.platform import Platform

if TYPE_CHECKING:
    from hv.vm import Vm


class Board(Pc):
    """A Pc, and what an access to it from an exit does."""

    def __init__(self, vm: Vm) -> None:
        machine = vm.machine
        self.vm = vm
        self.platform = Platform()
        super().__init__(
            machine.timing, len(machine.cpus), machine, lambda: vm.now, vm.console.sink, machine.end
        )  # fmt: skip

    def here(self) -> int:
        """The CPU that has made the exit. What comes from outside comes to CPU 0."""
        return self.vm.machine.running.index if self.vm.ledger.open else 0

    def sent(self, targets: list[int]) -> None:
        """The physical CPUs of the vCPUs that a message goes to are interrupted, so that they look."""
        for target in targets:
            self.vm.machine.kick(self.vm.machine.cpus[target])

    def message(self, address: int, data: int) -> None:
        if not self.platform.message(address, data):
            super().message(address, data)

    def post(self, cpu: int, vector: int) -> None:
        """An interrupt from the hypervisor itself, for the local APIC of a CPU."""
        self.sent(self.bus.post(cpu, vector, self.clock(), self.here()))

    def reschedule(self, number: int) -> None:
        """CPU 0's timer is the devices' timer, also when another CPU has set one of them going."""
        super().reschedule(number)
        cpu = self.vm.machine.cpus[0]
        if cpu is not self.vm.machine.running and self.deadline != NEVER:
            cpu.host_timer = self.deadline if cpu.host_timer is None else min(cpu.host_timer, self.deadline)

    def drive(self, irq: int, level: bool) -> None:
        super().drive(irq, level)
        if not self.vm.ledger.open:
            self.vm.machine.cpus[0].host_interrupt = True

    def page(self, gpa: int, *, fetch: bool) -> int | None:
        """The host-physical page that the guest may have at a guest-physical one, to execute (`fetch`) too.

        None: there are a chip's registers, or nobody.
        """
        machine, gpa = self.vm.machine, gpa & ~0xFFF
        if self.platform.placed(gpa):
            return self.platform.page(gpa)
        if machine.is_ram(gpa, 0x1000):
            return machine.ram_base + gpa
        return None if fetch else self.assigned_page(gpa)

    def assigned_page(self, gpa: int) -> int | None:
        """A page of a card's function that the guest was given."""
        if gpa in (LAPIC_BASE, IOAPIC_BASE):
            return None
        for function in self.pci.functions.values():
            if isinstance(function, AssignedFunction):
                page = function.physical_page(gpa)
                if page is not None:
                    return page
        return None

    def access(self, cpu: Cpu, gpa: int, instruction: capstone.CsInsn | None, translate: Translate) -> None:
        """Perform an access outside RAM: a device's registers, or nobody (reads give all ones, writes are lost).

        `instruction` is the one at RIP, None when the access is not its own; `translate` knows the guest's tables.
        """
        lapic = self.lapics[cpu.index]
        lapic.set_priority_class(cpu.tpr)
        if instruction is None or not Emulation(cpu, self, gpa, instruction, translate).run():
            chip = gpa & ~0xFFF in (LAPIC_BASE, IOAPIC_BASE) or self.mmio.claims(gpa)
            what = "a device's registers" if chip else "where there is no memory"
            raise Shutdown(
                f"access to guest-physical {gpa:#x}, {what}, by an instruction that hv does not emulate, at RIP "
                f"{cpu.state.eip:#x} (CR3 {cpu.state.cr[3]:#x})"
            )
        if gpa == LAPIC_BASE + TPR:
            cpu.tpr = lapic.state.tpr >> 4
