"""PCI, register by register: the configuration mechanism, headers, windows, bus mastering and interrupt wires."""

from __future__ import annotations

import pytest

from hv.silicon.bus import MmioBus, PortBus
from hv.silicon.memory import BusError
from hv.silicon.pci import BAR0, COMMAND, INTERRUPT_PIN, STATUS, VENDOR, Bar, Function, Header, PciBus

ADDRESS, DATA = 0xCF8, 0xCFC
CARD = Header(
    0x8086, 0x100E, 0x02_0000, revision=2, subsystem_vendor=0x8086, subsystem=0x1E, pin=1,
    bars={0: Bar(0x2_0000), 1: Bar(64, io=True)},
)  # fmt: skip


class Card(Function):
    """Remembers what was written to its windows."""

    def __init__(self, header: Header = CARD) -> None:
        super().__init__(header)
        self.written: list[tuple[int, int, int, int]] = []

    def read(self, bar: int, offset: int, size: int) -> int:
        return bar << 16 | offset

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.written.append((bar, offset, size, value))


class Outside:
    now = 7

    def read(self, address: int, size: int) -> bytes:
        return bytes(size)

    def write(self, address: int, data: bytes) -> None:
        pass

    def interrupt(self, level: bool) -> None:
        raise AssertionError

    def reschedule(self) -> None:
        pass


class Machine:
    def __init__(self) -> None:
        self.ports, self.mmio = PortBus(), MmioBus()
        self.wires: list[tuple[int, bool]] = []
        self.bus = PciBus(self.ports, self.mmio, lambda wire, level: self.wires.append((wire, level)))
        self.card = self.plug(3)

    def plug(self, device: int, number: int = 0, header: Header = CARD) -> Card:
        card = Card(header)
        self.bus.plug(card, device << 3 | number, Outside())
        return card

    def read(self, offset: int, size: int = 4, device: int = 3) -> int:
        self.ports.write(ADDRESS, 4, 1 << 31 | device << 11 | offset & 0xFC)
        return self.ports.read(DATA + (offset & 3), size)

    def write(self, offset: int, value: int, size: int = 4, device: int = 3) -> None:
        self.ports.write(ADDRESS, 4, 1 << 31 | device << 11 | offset & 0xFC)
        self.ports.write(DATA + (offset & 3), size, value)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_card_says_what_it_is(machine: Machine) -> None:
    assert machine.read(VENDOR) == 0x100E_8086
    assert machine.read(8) == 0x0200_0002
    assert machine.read(0x2C) == 0x001E_8086
    assert machine.read(INTERRUPT_PIN, 1) == 1


def test_an_empty_slot_reads_as_all_ones_and_swallows_writes(machine: Machine) -> None:
    assert machine.read(VENDOR, device=4) == 0xFFFF_FFFF
    machine.write(COMMAND, 7, 2, device=4)


def test_without_the_enable_bit_or_on_another_bus_nobody_answers(machine: Machine) -> None:
    for address in (3 << 11, 1 << 31 | 1 << 16 | 3 << 11):
        machine.ports.write(ADDRESS, 4, address)
        assert machine.ports.read(DATA, 4) == 0xFFFF_FFFF


def test_the_address_register_takes_only_whole_words(machine: Machine) -> None:
    machine.ports.write(ADDRESS, 4, 0xFFFF_FFFF)
    assert machine.ports.read(ADDRESS, 4) == 0x80FF_FFFC  # reserved bits read as zero
    machine.ports.write(ADDRESS, 1, 0)
    machine.ports.write(ADDRESS + 1, 1, 0xE)  # the reset register of other chipsets
    assert machine.ports.read(ADDRESS, 4) == 0x80FF_FFFC


def test_identity_is_read_only(machine: Machine) -> None:
    for offset in (0, 8, 0x2C, 0x34):
        before = machine.read(offset)
        machine.write(offset, ~before & 0xFFFF_FFFF)
        assert machine.read(offset) == before


def test_sizing_a_window_gives_its_size_and_kind(machine: Machine) -> None:
    for bar, sized in ((0, 0xFFFE_0000), (1, 0xFFFF_FFC1), (2, 0)):
        machine.write(BAR0 + 4 * bar, 0xFFFF_FFFF)
        assert machine.read(BAR0 + 4 * bar) == sized


def test_a_window_answers_where_it_was_put_and_only_while_it_is_on(machine: Machine) -> None:
    machine.write(BAR0, 0xFEB0_0000)
    machine.write(BAR0 + 4, 0xC000)
    assert machine.mmio.read(0xFEB0_0010, 4) == 0xFFFF_FFFF
    machine.write(COMMAND, 2, 2)
    assert machine.mmio.read(0xFEB0_0010, 4) == 0x10
    assert machine.ports.read(0xC004, 4) == 0xFFFF_FFFF
    machine.write(COMMAND, 1, 2)
    assert machine.mmio.read(0xFEB0_0010, 4) == 0xFFFF_FFFF
    machine.ports.write(0xC004, 2, 0xABCD)
    assert machine.card.written == [(1, 4, 2, 0xABCD)]


def test_a_window_that_moves_leaves_its_old_place(machine: Machine) -> None:
    machine.write(COMMAND, 3, 2)
    machine.write(BAR0, 0xFEB0_0000)
    machine.write(BAR0, 0xFEC8_0000)
    assert machine.mmio.read(0xFEB0_0000, 4) == 0xFFFF_FFFF
    assert machine.mmio.read(0xFEC8_0004, 4) == 4


def test_dma_needs_the_bus_master_bit(machine: Machine) -> None:
    with pytest.raises(BusError):
        machine.card.slot.read(0, 4)
    with pytest.raises(BusError):
        machine.card.slot.write(0, b"x")
    machine.write(COMMAND, 4, 2)
    assert machine.card.slot.read(0, 4) == bytes(4)


def test_two_cards_share_a_wire_and_it_is_high_while_either_pulls_it(machine: Machine) -> None:
    other = machine.plug(7)
    machine.card.slot.interrupt(True)
    other.slot.interrupt(True)
    machine.card.slot.interrupt(False)
    assert machine.wires == [(2, True)]
    other.slot.interrupt(False)
    assert machine.wires == [(2, True), (2, False)]


def test_a_capability_is_in_the_list() -> None:
    card = Card()
    card.capability(0xDC, 1, b"\x22\xc8")
    card.capability(0xE4, 5, b"\0\0", b"\x01")
    assert card.config_read(0x34, 1) == 0xE4
    assert card.config_read(0xE4, 2) == 0xDC05
    assert card.config_read(0xDC, 4) == 0xC822_0001
    assert card.config_read(STATUS, 2) & 0x10
    card.config_write(0xE6, 2, 0xFFFF)
    assert card.config_read(0xE6, 2) == 1


def test_status_bits_are_cleared_by_writing_ones(machine: Machine) -> None:
    machine.card.config[STATUS + 1] = 0xF9
    machine.write(STATUS, 0x3000, 2)
    assert machine.read(STATUS, 2) == 0xC900


def test_a_snapshot_holds_the_configuration_and_the_wires(machine: Machine) -> None:
    machine.write(COMMAND, 3, 2)
    machine.write(BAR0, 0xFEB0_0000)
    machine.card.slot.interrupt(True)
    other = Machine()
    other.bus.state = machine.bus.state
    assert other.mmio.read(0xFEB0_0008, 4) == 8
    assert other.bus.level(2)
