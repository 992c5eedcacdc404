"""The board that the guest finds: chips of software, every access to them an exit.

Local APIC, I/O APIC, a 16550 on pin 4, the power-off and panic registers. The chips are the same models that the
silicon has on metal (hv/silicon); here they stand behind exits. More of a PC comes with the emulated board.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.silicon.bus import PortBus
from hv.silicon.timing import MILLI
from hv.silicon.uart16550 import Uart
from hv.silicon.x86_64.cpu import Cpu, Shutdown
from hv.silicon.x86_64.ioapic import Ioapic
from hv.silicon.x86_64.lapic import TPR, Lapic
from hv.silicon.x86_64.machine import (
    COM1,
    COM1_PIN,
    IOAPIC_BASE,
    LAPIC_BASE,
    PANIC_PORT,
    POWER_PORT,
    PanicPort,
    PowerButton,
)
from hv.x86_64.decode import Access, finish_read

if TYPE_CHECKING:
    from hv.vm import Vm


class Board:
    """`ports` and the two APICs. A change of a pending interrupt is noted in `attention`."""

    def __init__(self, vm: Vm) -> None:
        timing = vm.machine.timing
        self.ports = PortBus()
        self.ioapic = Ioapic(lambda vector, target, level: self.lapic.raise_vector(vector, level))
        self.lapic = Lapic(
            0, timing.tsc_hz * MILLI // timing.apic_hz, lambda: vm.now, self._send, lambda: None,
            self.ioapic.end_of_interrupt,
        )  # fmt: skip
        self.uart = Uart(self._line(COM1_PIN, vm), vm.console.sink)
        self.ports.add(COM1, 8, self.uart)
        self.ports.add(POWER_PORT, 2, PowerButton(vm.machine.end))
        self.ports.add(PANIC_PORT, 1, PanicPort(vm.machine.end))

    def access(self, cpu: Cpu, gpa: int, access: Access | None) -> None:
        """Perform an access outside RAM: an APIC's registers, or nobody (reads give all ones, writes are lost).

        `access` is what the decoder made of the instruction at RIP; None when it is none that it knows.
        """
        chips: dict[int, Lapic | Ioapic] = {LAPIC_BASE: self.lapic, IOAPIC_BASE: self.ioapic}
        chip, offset = chips.get(gpa & ~0xFFF), gpa & 0xFFF
        if access is None:
            what = "where there is no memory" if chip is None else "a device's registers"
            raise Shutdown(
                f"access to guest-physical {gpa:#x}, {what}, by an instruction that hv does not emulate, at RIP "
                f"{cpu.state.eip:#x} (CR3 {cpu.state.cr[3]:#x})"
            )
        self.lapic.set_priority_class(cpu.tpr)
        if not access.is_write:
            finish_read(cpu, access, (1 << 64) - 1 if chip is None else chip.read(offset))
        elif chip is not None:
            chip.write(offset, access.value)
            if chip is self.lapic and offset == TPR:
                cpu.tpr = self.lapic.state.tpr >> 4
        cpu.skip(access.length)

    def _line(self, pin: int, vm: Vm) -> Callable[[bool], None]:
        """An interrupt line. What comes from outside while no exit is open interrupts the physical CPU first."""

        def drive(level: bool) -> None:
            self.ioapic.pin(pin, level)
            if not vm.ledger.open:
                vm.machine.cpus[0].host_interrupt = True

        return drive

    def _send(self, icr: int) -> None:
        """An interrupt command: to itself, or to nobody while there is one vCPU."""
        shorthand, target = icr >> 18 & 3, icr >> 56
        if not icr >> 8 & 7 and (shorthand in (1, 2) or (shorthand == 0 and target in (0, 0xFF))):
            self.lapic.raise_vector(icr & 0xFF)
