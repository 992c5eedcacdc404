"""The I/O APIC, register by register (Intel 82093AA data sheet)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hv.silicon.x86_64.ioapic import PINS, Ioapic

INDEX, WINDOW = 0x00, 0x10
MASKED, LEVEL, ACTIVE_LOW, REMOTE_IRR, DELIVERY_STATUS = 1 << 16, 1 << 15, 1 << 13, 1 << 14, 1 << 12


class Bench:
    """A chip on the bench, and the messages that it has sent: vector, destination, level."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int, bool]] = []
        self.chip = Ioapic(lambda m: self.messages.append((m.vector, m.destination, m.level)))

    def read(self, register: int) -> int:
        self.chip.write(INDEX, register)
        return self.chip.read(WINDOW)

    def write(self, register: int, value: int) -> None:
        self.chip.write(INDEX, register)
        self.chip.write(WINDOW, value)

    def route(self, pin: int, low: int, high: int = 0) -> None:
        self.write(0x11 + 2 * pin, high)
        self.write(0x10 + 2 * pin, low)


def test_after_reset_24_pins_are_there_and_all_are_masked() -> None:
    ioapic = Bench()
    assert ioapic.read(1) >> 16 & 0xFF == PINS - 1 == 23
    assert ioapic.read(1) & 0xFF == 0x11
    assert {ioapic.read(0x10 + 2 * pin) & MASKED for pin in range(PINS)} == {MASKED}
    for pin in range(PINS):
        ioapic.chip.pin(pin, True)
    assert ioapic.messages == []


def test_the_index_selects_and_the_id_is_kept_in_its_four_bits() -> None:
    ioapic = Bench()
    ioapic.write(0, 0xFF00_0000)
    assert ioapic.chip.read(INDEX) == 0
    assert ioapic.read(0) == 0x0F00_0000
    assert ioapic.read(2) == 0x0F00_0000  # the arbitration id is loaded with it


def test_both_halves_of_an_entry_are_kept_but_for_the_read_only_bits() -> None:
    ioapic = Bench()
    ioapic.route(5, MASKED | REMOTE_IRR | DELIVERY_STATUS | 0x0835, 0x0300_0000)
    assert ioapic.read(0x1A) == MASKED | 0x0835
    assert ioapic.read(0x1B) == 0x0300_0000


def test_an_edge_sends_one_message_to_the_entry_s_destination() -> None:
    ioapic = Bench()
    ioapic.route(4, 0x24, 0x0100_0000)
    ioapic.chip.pin(4, True)
    ioapic.chip.pin(4, True)
    assert ioapic.messages == [(0x24, 1, False)]
    ioapic.chip.pin(4, False)
    assert len(ioapic.messages) == 1
    ioapic.chip.pin(4, True)
    assert len(ioapic.messages) == 2


def test_an_edge_on_a_masked_pin_is_lost() -> None:
    ioapic = Bench()
    ioapic.route(4, MASKED | 0x24)
    ioapic.chip.pin(4, True)
    ioapic.chip.pin(4, False)
    ioapic.route(4, 0x24)
    assert ioapic.messages == []


def test_a_level_waits_for_the_end_of_interrupt_and_comes_again_while_it_lasts() -> None:
    ioapic = Bench()
    ioapic.route(9, LEVEL | 0x40)
    ioapic.chip.pin(9, True)
    ioapic.chip.pin(9, True)
    assert ioapic.messages == [(0x40, 0, True)]
    assert ioapic.read(0x10 + 18) & REMOTE_IRR
    ioapic.chip.end_of_interrupt(0x41)
    assert len(ioapic.messages) == 1
    ioapic.chip.end_of_interrupt(0x40)
    assert len(ioapic.messages) == 2
    ioapic.chip.pin(9, False)
    ioapic.chip.end_of_interrupt(0x40)
    assert len(ioapic.messages) == 2
    assert not ioapic.read(0x10 + 18) & REMOTE_IRR


def test_a_level_that_lasts_is_delivered_when_its_pin_is_unmasked() -> None:
    ioapic = Bench()
    ioapic.route(9, MASKED | LEVEL | 0x40)
    ioapic.chip.pin(9, True)
    assert ioapic.messages == []
    ioapic.route(9, LEVEL | 0x40)
    assert ioapic.messages == [(0x40, 0, True)]


def test_an_active_low_pin_fires_when_its_wire_falls() -> None:
    """`pin` gives the wire's assertion; polarity is the board's business. The bit must at least be kept."""
    ioapic = Bench()
    ioapic.route(3, MASKED | ACTIVE_LOW | 0x33)
    assert ioapic.read(0x16) & ACTIVE_LOW


def test_registers_that_do_not_exist_read_as_zero_and_take_no_writes() -> None:
    ioapic = Bench()
    before = [ioapic.read(register) for register in range(0x40)]
    for register in (3, 0x0F, 0x40, 0xFF):
        ioapic.write(register, 0xFFFF_FFFF)
        assert ioapic.read(register) == 0
    ioapic.chip.write(0x20, 0xFFFF_FFFF)
    assert ioapic.chip.read(0x20) == 0
    assert [ioapic.read(register) for register in range(0x40)] == before


@given(
    st.lists(
        st.tuples(
            st.sampled_from("rwpe"), st.integers(0, 0xFFF) | st.sampled_from([0, 0x10]), st.integers(0, (1 << 64) - 1)
        ),
        max_size=80,
    )
)
def test_no_traffic_upsets_the_chip(traffic: list[tuple[str, int, int]]) -> None:
    ioapic = Bench()
    for kind, where, value in traffic:
        if kind == "w":
            ioapic.chip.write(where, value)
        elif kind == "r":
            assert 0 <= ioapic.chip.read(where) < 1 << 32
        elif kind == "p":
            ioapic.chip.pin(where % PINS, bool(value & 1))
        else:
            ioapic.chip.end_of_interrupt(value & 0xFF)
    assert all(0 <= entry < 1 << 64 for entry in ioapic.chip.state.entries)
    assert all(0 <= vector <= 0xFF and 0 <= target <= 0xFF for vector, target, _ in ioapic.messages)
