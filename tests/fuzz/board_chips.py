"""Hostile drivers of the board's chips: random register accesses do no harm, and what each chip promises stays true.

8259 pair, 8254, CMOS, 16550, PCI configuration, local APIC and I/O APIC, on a board of their own. A case is a few
hundred accesses of one chip, of all sizes, with interrupt lines and time moving in between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from hv.costs import load
from hv.silicon.deadlines import NEVER
from hv.silicon.memory import BusError
from hv.silicon.pci import Bar, Function, Header
from hv.silicon.timing import MILLI
from hv.silicon.uart16550 import FIFO
from hv.silicon.x86_64.ioapic import PINS, Ioapic
from hv.silicon.x86_64.pc import COM1, IOAPIC_BASE, LAPIC_BASE, Pc

ACCESSES = 300
SIZES = (1, 2, 4)
RAM = 1 << 20
TIMING = load().timing
PORTS = {
    "8259": [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1],
    "8254": [0x40, 0x41, 0x42, 0x43, 0x61],
    "cmos": [0x70, 0x71],
    "pci": [0xCF8, 0xCF9, 0xCFA, 0xCFB, 0xCFC, 0xCFD, 0xCFE, 0xCFF],
    "fw_cfg": list(range(0x510, 0x51C)),
    "16550": list(range(COM1, COM1 + 8)),
}
CHIPS = [*PORTS, "lapic", "ioapic"]


class Ram:
    """A MiB that nothing may reach beyond."""

    def __init__(self) -> None:
        self.data = bytearray(RAM)

    def dma_read(self, address: int, size: int) -> bytes:
        if not 0 <= address <= RAM - size:
            raise BusError("no RAM")
        return bytes(self.data[address : address + size])

    def dma_write(self, address: int, data: bytes) -> None:
        if not 0 <= address <= RAM - len(data):
            raise BusError("no RAM")
        self.data[address : address + len(data)] = data


class Table:
    """The board on a table, with two more cards and a clock that the case turns."""

    def __init__(self) -> None:
        self.now = 0
        self.ended = 0
        self.ram = Ram()
        self.board = Pc(TIMING, 2, self.ram, lambda: self.now, lambda byte: None, self.end)
        self.board.cmos.describe(RAM * 64, 0, 2)
        self.board.fw_cfg.add_files({"name": b"content" * 9})
        for device, bars in ((3, {0: Bar(0x2_0000), 1: Bar(64, io=True)}), (4, {5: Bar(0x1000, prefetchable=True)})):
            self.board.plug(Function(Header(0x1234, device, 0xFF_0000, pin=device - 2, bars=bars)), device)
        for lapic in self.board.lapics:
            lapic.write(0xF0, 0x1FF)

    def end(self, cause: str, report: str) -> None:
        self.ended += 1

    def access(self, chip: str, numbers: random.Random) -> str:
        """One access. What it reached."""
        size = numbers.choice(SIZES)
        value = numbers.choice((0, 1, 0xFF, 0xFFFF_FFFF, 1 << numbers.randrange(32), numbers.getrandbits(32)))
        value &= (1 << 8 * size) - 1
        write = numbers.random() < 0.6
        board, cpu = self.board, numbers.randrange(2)
        if chip in PORTS:
            port = numbers.choice(PORTS[chip])
            if chip == "pci" and numbers.random() < 0.5:
                port, size, write = 0xCF8, 4, True
                value = 1 << 31 | numbers.choice((0, 8, 11, 24, 32)) << 8 | numbers.randrange(64) << 2
            if write:
                board.ports.write(port, size, value)
            else:
                check_width(board.ports.read(port, size), size)
            return f"{chip} {port:#x} {'write' if write else 'read'}"
        base = LAPIC_BASE if chip == "lapic" else IOAPIC_BASE
        offset = numbers.randrange(0x400) & ~0xF if chip == "lapic" else numbers.choice((0, 0x10))
        if write:
            board.mmio_write(cpu, base + offset, 4, value)
        else:
            check_width(board.mmio_read(cpu, base + offset, 4), 4)
        return f"{chip} {offset:#x} {'write' if write else 'read'}"

    def disturb(self, numbers: random.Random, lines: list[Callable[[bool], None]]) -> None:
        """The world goes on: lines, time, the CPU taking and ending interrupts."""
        what = numbers.randrange(5)
        board = self.board
        if what == 0:
            numbers.choice(lines)(numbers.random() < 0.5)
        elif what == 1:
            self.now += numbers.choice((1, 1000, 3_000_000, 2_000_000_000)) * MILLI
            board.advance(self.now)
            for lapic in board.lapics:
                fired = lapic.advance(min(self.now, (lapic.state.expiry or 0) + 1000 * MILLI))
                assert fired >= 0
        elif what == 2:
            for lapic in board.lapics:
                if lapic.interrupts:
                    assert 0 <= lapic.accept() < 256
        elif what == 3:
            board.lapics[numbers.randrange(2)].write(0xB0, 0)
        else:
            board.uart.receive(numbers.randbytes(numbers.randrange(2 * FIFO)))


def check_width(value: int, size: int) -> None:
    assert 0 <= value < 1 << 8 * size, f"a read of {size} bytes gave {value:#x}"


def check_promises(board: Pc, now: int) -> None:
    """What must hold whatever a driver has done."""
    for chip in board.pics.chips:
        s = chip.s
        level = s.elcr & s.levels
        assert level & ~s.irr == 0, "a level-triggered input that is high is not requested"
        assert s.irr & ~s.levels == 0, "a request without its line"
        assert all(0 <= bits < 256 for bits in (s.irr, s.isr, s.imr))
        assert s.base & 7 == 0
    assert (board.pics.chips[0].request() is not None) == bool(board.lapics[0].state.pins & 1), "INTR and LINT0 differ"
    for lapic in board.lapics:
        state = lapic.state
        assert state.irr >> 256 == 0
        assert state.irr & 0xFFFF == 0, "a vector below 16 was accepted"
        pending = lapic.pending()
        assert pending is None or pending >> 4 > lapic.ppr() >> 4
    check_ioapic(board.ioapic)
    uart = board.uart.state
    assert len(uart.rx) <= FIFO, "more bytes than a FIFO holds"
    assert all(0 <= register < 256 for register in (uart.ier, uart.fcr, uart.lcr, uart.mcr, uart.scratch))
    for function in board.pci.functions.values():
        identity = function.header.vendor | function.header.device << 16
        assert function.config_read(0, 4) == identity, "a card has lost its name"
        for number, bar in function.header.bars.items():
            address = function.bar_address(number)
            assert address is None or address % bar.size == 0, "a window that is not aligned"
    for device in board.devices:
        assert device.deadline is None or device.deadline > now - 1, "a deadline that has passed"
    assert board.deadline == min((d.deadline for d in board.devices if d.deadline is not None), default=NEVER)


def check_ioapic(chip: Ioapic) -> None:
    for number in range(PINS):
        entry = chip.state.entries[number]
        assert 0 <= entry < 1 << 64
        if entry >> 14 & 1:
            assert entry >> 15 & 1, "remote IRR of an edge-triggered pin"


def case(seed: int) -> Iterable[str]:
    """A few hundred accesses of one chip."""
    numbers = random.Random(seed)
    chip = CHIPS[seed % len(CHIPS)]
    table = Table()
    lines = [table.board.line(irq) for irq in range(16)]
    reached = []
    for _ in range(ACCESSES):
        reached.append(table.access(chip, numbers))
        if numbers.random() < 0.3:
            table.disturb(numbers, lines)
        table.board.advance(table.now)
        check_promises(table.board, table.now)
    saved = table.board.save()
    table.board.load(saved)
    assert table.board.save() == saved, "a snapshot is not what it was"
    return reached
