"""The board of a PC with Intel's 440FX chipset: chips, buses and the wires between them.

Bare metal has it as hardware (machine.py); a hypervisor's guest finds the same one in software, every access an exit
(hv/x86_64/board.py). The two differ only in who is told of a change, and that is what a subclass says.

    0x20 0xA0 0x4D0 8259 pair     0x40 8254, IRQ 0       0x61 gate of its counter 2     0x70 CMOS and clock, IRQ 8
    0x3F8 16550, IRQ 4            0x505 pvpanic          0x510 fw_cfg                   0x604 power off (PIIX4 PM1a)
    0xCF8 PCI                     FEC0_0000 I/O APIC     FEE0_0000 local APIC of each CPU
    00:00.0 host bridge 440FX     00:01.0 ISA bridge PIIX3
    E000_0000 all of configuration space in memory, which the 440FX does not have and its successors do

IRQ 0 is on pin 2 of the I/O APIC, every other IRQ on the pin of its number. The 8259s' output is LINT0 of CPU 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec

from hv.silicon.bus import MmioBus, PortBus
from hv.silicon.cmos import INDEX, Cmos
from hv.silicon.deadlines import Deadlines
from hv.silicon.fw_cfg import FW_CFG, PORTS, FwCfg
from hv.silicon.i8254 import COUNTERS, PORT_B, Pit, PortB
from hv.silicon.i8259 import MASTER, MASTER_ELCR, SLAVE, ElcrPort, PicPair, PicPort
from hv.silicon.pci import PIRQS, Function, Header, PciBus
from hv.silicon.pcie import Ecam
from hv.silicon.timing import MILLI, Timing
from hv.silicon.uart16550 import Uart
from hv.silicon.x86_64.apic_bus import ApicBus
from hv.silicon.x86_64.ioapic import Ioapic
from hv.silicon.x86_64.lapic import EXTINT, LVT_LINT0, Lapic, Message

IOAPIC_BASE, LAPIC_BASE = 0xFEC0_0000, 0xFEE0_0000
PIT_IRQ, PIT_PIN, CMOS_IRQ = 0, 2, 8
ECAM_BASE, ECAM_SIZE = 0xE000_0000, 16 << 20  # 16 buses
COM1, COM1_IRQ, PANIC_PORT, POWER_PORT = 0x3F8, 4, 0x505, 0x604
IRQS = 16
SLEEP_ENABLE = 1 << 13  # PM1a control, SLP_EN
PIRQ_ROUTE, PIRQ_OFF = 0x60, 0x80  # the ISA bridge's four routing registers (82371SB, PIRQRC)


class PowerButton:
    """PM1a control: setting SLP_EN ends the machine."""

    def __init__(self, end: Callable[[str, str], None]) -> None:
        self.end = end

    def port_read(self, offset: int, size: int) -> int:
        return 0

    def port_write(self, offset: int, size: int, value: int) -> None:
        if value & SLEEP_ENABLE:
            self.end("power-off", "the guest powered the machine off")


class PanicPort:
    """pvpanic: bit 0 says that the guest's kernel has panicked."""

    def __init__(self, end: Callable[[str, str], None]) -> None:
        self.end = end

    def port_read(self, offset: int, size: int) -> int:
        return 1

    def port_write(self, offset: int, size: int, value: int) -> None:
        if value & 1:
            self.end("panic", "the guest's kernel panicked")


class Ram(Protocol):
    """The guest's memory by bus address, for DMA. Raises BusError where there is none."""

    def dma_read(self, address: int, size: int) -> bytes: ...
    def dma_write(self, address: int, data: bytes) -> None: ...


class BoardSlot:
    """The machine from the place of a device on the board (hv/silicon/device.py)."""

    def __init__(self, board: Pc, line: Callable[[bool], None]) -> None:
        self.board, self.interrupt = board, line
        self.reschedule: Callable[[], None] = lambda: None  # what Pc.add() says

    @property
    def now(self) -> int:
        return self.board.clock()

    def read(self, address: int, size: int) -> bytes:
        return self.board.ram.dma_read(address, size)

    def write(self, address: int, data: bytes) -> None:
        if address >> 20 == LAPIC_BASE >> 20:
            self.board.message(address, int.from_bytes(data, "little"))
        else:
            self.board.ram.dma_write(address, data)


class IsaBridge(Function):
    """The PIIX3's function 0: where the four PCI interrupt wires lead to."""

    def __init__(self, routed: Callable[[], None]) -> None:
        super().__init__(Header(0x8086, 0x7000, 0x06_0100, multifunction=True))
        self.routed = routed
        for wire in range(PIRQS):
            self.register(PIRQ_ROUTE + wire, 1, PIRQ_OFF, 0x8F)

    def configured(self, offset: int, size: int) -> None:
        self.routed()

    def irq(self, wire: int) -> int | None:
        """The IRQ that a wire leads to, if any."""
        route = self.config[PIRQ_ROUTE + wire]
        return None if route & PIRQ_OFF else route & 0xF


class LinesState(msgspec.Struct):
    """Who pulls each IRQ: a bit a connection."""

    sources: list[int]


class Pc(Deadlines):
    """`line`, `slot` and `plug` connect devices. The ports of one that is added are put on `ports`."""

    def __init__(
        self, timing: Timing, cpus: int, ram: Ram, clock: Callable[[], int], sink: Callable[[int], None],
        end: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        super().__init__()
        self.ram, self.clock = ram, clock
        self.ports, self.mmio = PortBus(), MmioBus()
        self.state = LinesState([0] * IRQS)
        self._drivers = 0
        self.ioapic = Ioapic(self._deliver)
        self.pics = PicPair(self._interrupt_request)
        tick = timing.tsc_hz * MILLI // timing.apic_hz
        self.lapics = [
            Lapic(index, tick, clock, partial(self._send_ipi, index), self.changed, self.ioapic.end_of_interrupt)
            for index in range(cpus)
        ]
        self.bus = ApicBus(self.lapics)
        self.lapics[0].inta = self.pics.acknowledge
        self.lapics[0].state.lvt[LVT_LINT0] = EXTINT << 8  # as a PC starts: the 8259s reach the first CPU
        self.pit = Pit(timing.tsc_hz, clock, self.line(PIT_IRQ))
        self.cmos = Cmos(timing.tsc_hz, clock, self.line(CMOS_IRQ))
        self.fw_cfg = FwCfg(BoardSlot(self, lambda level: None))
        self.pit.reschedule, self.cmos.reschedule = self.add(self.pit), self.add(self.cmos)
        self.add(self.fw_cfg)
        for base, size, chip in (
            (MASTER, 2, PicPort(self.pics, 0)), (SLAVE, 2, PicPort(self.pics, 1)),
            (MASTER_ELCR, 2, ElcrPort(self.pics)), (COUNTERS, 4, self.pit), (PORT_B, 1, PortB(self.pit)),
            (INDEX, 2, self.cmos), (FW_CFG, PORTS, self.fw_cfg),
        ):  # fmt: skip
            self.ports.add(base, size, chip)
        self.uart = Uart(self.line(COM1_IRQ), sink)
        self.ports.add(COM1, 8, self.uart)
        self.ports.add(POWER_PORT, 2, PowerButton(end))
        self.ports.add(PANIC_PORT, 1, PanicPort(end))
        self._pirq_lines = [[self.line(irq) for irq in range(IRQS)] for _ in range(PIRQS)]
        self.pci = PciBus(self.ports, self.mmio, self._pirq)
        self.mmio.add(ECAM_BASE, ECAM_SIZE, Ecam(self.pci))
        self.isa_bridge = IsaBridge(self._route)
        self.plug(Function(Header(0x8086, 0x1237, 0x06_0000, revision=2)), 0)
        self.plug(self.isa_bridge, 1)

    # --- for devices ------------------------------------------------------------------------------------------

    def line(self, irq: int) -> Callable[[bool], None]:
        """A connection to an IRQ. An IRQ is high while any of those connected to it pulls it."""
        bit = 1 << self._drivers
        self._drivers += 1

        def drive(level: bool) -> None:
            sources = self.state.sources
            before = bool(sources[irq])
            sources[irq] = sources[irq] | bit if level else sources[irq] & ~bit
            if bool(sources[irq]) != before:
                self.drive(irq, level)

        return drive

    def slot(self, irq: int) -> BoardSlot:
        """A place for a device on the board itself, with an IRQ of its own."""
        return BoardSlot(self, self.line(irq))

    def plug(self, function: Function, device: int, number: int = 0) -> None:
        """Put a card's function into PCI slot `device`, and those that come with it behind it."""
        place = device << 3 | number
        for distance, card in ((0, function), *function.followers):
            slot = BoardSlot(self, lambda level: None)
            self.pci.plug(card, place + distance, slot)
            slot.reschedule = self.add(card)

    def reschedule(self, number: int) -> None:
        """The deadline of device `number` has changed."""
        self.note_deadline(number)
        self.changed()

    def receive(self, cpu: int, now: int) -> None:
        """The clock of CPU number `cpu` has come to `now`: messages to it arrive. CPU 0's is the devices' clock."""
        self.bus.receive(cpu, now)
        if cpu == 0:
            self.advance(now)

    def next_event(self, cpu: int) -> int:
        """When something will happen by itself that concerns this CPU: a message to it, its timer, or a device."""
        when, expiry = self.bus.next(cpu), self.lapics[cpu].state.expiry
        if expiry is not None and expiry < when:
            when = expiry
        return self.deadline if cpu == 0 and self.deadline < when else when

    # --- the wires --------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """A pending interrupt or a deadline may be another one now."""

    def here(self) -> int:
        """The CPU that gets an interrupt at once, if it is for that one."""
        return 0

    def sent(self, targets: list[int]) -> None:
        """A message is under way to these CPUs."""

    def drive(self, irq: int, level: bool) -> None:
        """An IRQ changes: both the 8259s and the I/O APIC see it."""
        self.pics.line(irq, level)
        self.ioapic.pin(PIT_PIN if irq == PIT_IRQ else irq, level)

    def _interrupt_request(self, level: bool) -> None:
        """The 8259s' output, which is connected to the first CPU."""
        self.lapics[0].pin(0, level)
        if level and self.here() != 0:
            self.sent([0])

    def _deliver(self, message: Message) -> None:
        """Carry a message of the I/O APIC or a card."""
        self.sent(self.bus.send(message, self.clock(), here=self.here()))

    def _pirq(self, wire: int, level: bool) -> None:
        irq = self.isa_bridge.irq(wire)
        if irq is not None:
            self._pirq_lines[wire][irq](level)

    def _route(self) -> None:
        """The routing registers may have changed."""
        for wire, lines in enumerate(self._pirq_lines):
            routed = self.isa_bridge.irq(wire)
            for irq, line in enumerate(lines):
                line(irq == routed and self.pci.level(wire))

    def message(self, address: int, data: int) -> None:
        """A card writes to the local APICs' addresses: a message-signalled interrupt (Intel SDM vol. 3, 10.11)."""
        self._deliver(
            Message(
                vector=data & 0xFF, mode=data >> 8 & 7, destination=address >> 12 & 0xFF,
                logical=bool(address >> 2 & 1), level=False,
            )
        )  # fmt: skip

    def _send_ipi(self, sender: int, icr: int) -> None:
        """Carry the interrupt command of a CPU."""
        self.sent(self.bus.command(icr, self.clock(), sender))

    # --- the registers in memory ------------------------------------------------------------------------------

    def mmio_read(self, cpu: int, address: int, size: int) -> int:
        """What CPU number `cpu` reads outside RAM."""
        page, offset = address & ~0xFFF, address & 0xFFF
        if page == LAPIC_BASE:
            return self.lapics[cpu].read(offset)
        if page == IOAPIC_BASE:
            return self.ioapic.read(offset)
        return self.mmio.read(address, size)

    def mmio_write(self, cpu: int, address: int, size: int, value: int) -> None:
        page, offset = address & ~0xFFF, address & 0xFFF
        if page == LAPIC_BASE:
            self.lapics[cpu].write(offset, value)
        elif page == IOAPIC_BASE:
            self.ioapic.write(offset, value)
        else:
            self.mmio.write(address, size, value)

    # --- snapshots --------------------------------------------------------------------------------------------

    def _chips(self) -> list[Any]:
        return [self, *self.lapics, self.bus, self.ioapic, self.pics, self.uart, self.pci, *self.devices]

    def save(self) -> list[Any]:
        """The state of every chip, as plain records."""
        return [copy.deepcopy(chip.state) for chip in self._chips()]

    def load(self, saved: list[Any]) -> None:
        """Go back to what save() gave."""
        for chip, state in zip(self._chips(), saved, strict=True):
            chip.state = copy.deepcopy(state)
        for number in range(len(self.devices)):
            self.reschedule(number)
