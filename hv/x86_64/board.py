"""The board that the guest finds: chips of software, every access to them an exit.

Local APIC, I/O APIC, a 16550 on pin 4, the power-off and panic registers. The chips are the same models that the
silicon has on metal (hv/silicon); here they stand behind exits. More of a PC comes with the emulated board.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from hv.silicon.bus import PortBus
from hv.silicon.timing import MILLI
from hv.silicon.uart16550 import Uart, UartState
from hv.silicon.x86_64.apic_bus import ApicBus, ApicBusState
from hv.silicon.x86_64.cpu import Cpu, Shutdown
from hv.silicon.x86_64.ioapic import Ioapic, IoapicState
from hv.silicon.x86_64.lapic import TPR, Lapic, LapicState
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


class BoardState(msgspec.Struct):
    """Everything that the chips remember."""

    lapics: list[LapicState]
    bus: ApicBusState
    ioapic: IoapicState
    uart: UartState


class Board:
    """`ports`, a local APIC a vCPU, and the I/O APIC."""

    def __init__(self, vm: Vm) -> None:
        timing = vm.machine.timing
        self.vm = vm
        self.ports = PortBus()
        self.ioapic = Ioapic(self._send)
        self.lapics = [
            Lapic(
                cpu.index, timing.tsc_hz * MILLI // timing.apic_hz, lambda: vm.now, partial(self._send_ipi, cpu.index),
                lambda: None, self.ioapic.end_of_interrupt,
            )
            for cpu in vm.machine.cpus
        ]  # fmt: skip
        self.bus = ApicBus(self.lapics)
        self.uart = Uart(self._line(COM1_PIN, vm), vm.console.sink)
        self.ports.add(COM1, 8, self.uart)
        self.ports.add(POWER_PORT, 2, PowerButton(vm.machine.end))
        self.ports.add(PANIC_PORT, 1, PanicPort(vm.machine.end))

    def state(self) -> BoardState:
        return BoardState([lapic.state for lapic in self.lapics], self.bus.state, self.ioapic.state, self.uart.state)

    def set_state(self, state: BoardState) -> None:
        for lapic, its in zip(self.lapics, state.lapics, strict=True):
            lapic.state = its
        self.bus.state, self.ioapic.state, self.uart.state = state.bus, state.ioapic, state.uart

    def access(self, cpu: Cpu, gpa: int, access: Access | None) -> None:
        """Perform an access outside RAM: an APIC's registers, or nobody (reads give all ones, writes are lost).

        `access` is what the decoder made of the instruction at RIP; None when it is none that it knows.
        """
        lapic = self.lapics[cpu.index]
        chips: dict[int, Lapic | Ioapic] = {LAPIC_BASE: lapic, IOAPIC_BASE: self.ioapic}
        chip, offset = chips.get(gpa & ~0xFFF), gpa & 0xFFF
        if access is None:
            what = "where there is no memory" if chip is None else "a device's registers"
            raise Shutdown(
                f"access to guest-physical {gpa:#x}, {what}, by an instruction that hv does not emulate, at RIP "
                f"{cpu.state.eip:#x} (CR3 {cpu.state.cr[3]:#x})"
            )
        lapic.set_priority_class(cpu.tpr)
        if not access.is_write:
            finish_read(cpu, access, (1 << 64) - 1 if chip is None else chip.read(offset))
        elif chip is not None:
            chip.write(offset, access.value)
            if chip is lapic and offset == TPR:
                cpu.tpr = lapic.state.tpr >> 4
        cpu.skip(access.length)

    def _line(self, pin: int, vm: Vm) -> Callable[[bool], None]:
        """An interrupt line. What comes from outside while no exit is open interrupts physical CPU 0 first."""

        def drive(level: bool) -> None:
            self.ioapic.pin(pin, level)
            if not vm.ledger.open:
                vm.machine.cpus[0].host_interrupt = True

        return drive

    def _send_ipi(self, sender: int, icr: int) -> None:
        """A vCPU's interrupt command. The physical CPUs of the others are interrupted, so that they look."""
        self._kick(self.bus.send(icr, self.vm.now, sender=sender))

    def _send(self, entry: int) -> None:
        """A message of the I/O APIC, on the CPU that made the exit or, from outside, on CPU 0."""
        here = self.vm.machine.running.index if self.vm.ledger.open else 0
        self._kick(self.bus.send(entry, self.vm.now, here=here))

    def _kick(self, targets: list[int]) -> None:
        for target in targets:
            self.vm.machine.kick(self.vm.machine.cpus[target])
