"""The 8254, register by register (Intel 8254 data sheet), and port 0x61."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.silicon.i8254 import PIT_HZ, Pit, PortB

TSC = 2_500_000_000
SECOND = TSC * 1000


class Bench:
    """A chip whose clock a test turns by hand, tick by tick; what IRQ 0 has seen."""

    def __init__(self) -> None:
        self.now = 0
        self.levels: list[bool] = []
        self.chip = Pit(TSC, lambda: self.now, self.levels.append)
        self.port_b = PortB(self.chip)

    @property
    def edges(self) -> int:
        """How often IRQ 0 has risen."""
        return sum(b and not a for a, b in zip([False, *self.levels], self.levels, strict=False))

    def tick(self, count: int) -> None:
        """Let so many ticks of the chip's clock pass, acting when it is due."""
        end = self.now * PIT_HZ // SECOND + count
        while self.chip.deadline is not None and self.chip.deadline * PIT_HZ // SECOND <= end:
            self.now = max(self.now, self.chip.deadline)
            self.chip.advance(self.now)
        self.now = -(-end * SECOND // PIT_HZ)

    def program(self, counter: int, mode: int, count: int, *, bcd: bool = False) -> None:
        self.chip.port_write(3, 1, counter << 6 | 0x30 | mode << 1 | bcd)
        self.chip.port_write(counter, 1, count & 0xFF)
        self.chip.port_write(counter, 1, count >> 8)

    def gate(self, on: bool) -> None:
        """Of counter 2."""
        self.port_b.port_write(0, 1, on)

    def read(self, counter: int) -> int:
        return self.chip.port_read(counter, 1) | self.chip.port_read(counter, 1) << 8

    def out(self, counter: int) -> bool:
        self.chip.port_write(3, 1, 0xE0 | 2 << counter)
        return bool(self.chip.port_read(counter, 1) >> 7)

    def trace(self, ticks: int, counter: int = 2) -> str:
        """The output, tick by tick."""
        said = ""
        for _ in range(ticks):
            said += "01"[self.out(counter)]
            self.tick(1)
        return said


def test_mode_0_rises_at_the_end_of_the_count_and_stays() -> None:
    """N + 1 clocks after the count is written (data sheet, mode 0)."""
    bench = Bench()
    bench.gate(True)
    bench.program(2, 0, 4)
    assert bench.trace(9) == "000001111"


def test_mode_0_stands_still_while_the_gate_is_closed() -> None:
    bench = Bench()
    bench.gate(True)
    bench.program(2, 0, 100)
    bench.tick(11)
    bench.gate(False)
    bench.tick(50)
    assert bench.read(2) == 90
    bench.gate(True)
    bench.tick(90)
    assert bench.out(2)


def test_mode_1_is_one_shot_from_the_gate_s_rise() -> None:
    bench = Bench()
    bench.program(2, 1, 3)
    assert bench.trace(3) == "111"
    bench.gate(True)
    bench.tick(1)
    assert bench.trace(5) == "00011"
    bench.gate(False)
    bench.gate(True)  # again
    bench.tick(1)
    assert bench.trace(5) == "00011"


def test_mode_2_is_low_for_the_last_clock_of_each_period() -> None:
    bench = Bench()
    bench.gate(True)
    bench.program(2, 2, 4)
    bench.tick(1)
    assert bench.trace(12) == "111011101110"


def test_mode_3_is_a_square_wave_with_the_odd_clock_in_its_high_half() -> None:
    bench = Bench()
    bench.gate(True)
    bench.program(2, 3, 4)
    bench.tick(1)
    assert bench.trace(8) == "11001100"
    bench.program(2, 3, 5)
    bench.tick(1)
    assert bench.trace(10) == "1110011100"


@pytest.mark.parametrize("mode", [4, 5])
def test_modes_4_and_5_strobe_once(mode: int) -> None:
    bench = Bench()
    bench.gate(mode == 4)
    bench.program(2, mode, 3)
    if mode == 5:
        assert bench.trace(4) == "1111"
        bench.gate(True)
    bench.tick(1)
    assert bench.trace(7) == "1110111"


def test_closing_the_gate_of_a_periodic_mode_sets_the_output_and_opening_it_starts_again() -> None:
    bench = Bench()
    bench.gate(True)
    bench.program(2, 3, 10)
    bench.tick(8)
    assert not bench.out(2)
    bench.gate(False)
    assert bench.out(2)
    bench.gate(True)
    bench.tick(1)
    assert bench.trace(10) == "1111100000"


def test_counter_0_interrupts_once_a_period() -> None:
    bench = Bench()
    bench.program(0, 2, 100)
    bench.tick(1001)
    assert bench.edges == 11  # the mode itself raises the output, then ten periods


def test_counter_0_in_mode_0_interrupts_once() -> None:
    bench = Bench()
    bench.program(0, 0, 50)
    bench.tick(500)
    assert bench.edges == 1
    assert bench.chip.deadline is None


def test_a_control_word_without_a_count_stands_still() -> None:
    bench = Bench()
    bench.program(0, 3, 0)
    assert bench.chip.deadline is not None
    bench.chip.port_write(3, 1, 0x30)
    assert bench.chip.deadline is None


def test_zero_is_the_longest_count() -> None:
    bench = Bench()
    bench.program(0, 0, 0)
    bench.tick(1 + 0x8000)
    assert bench.read(0) == 0x8000
    bench.program(0, 0, 0, bcd=True)
    bench.tick(1 + 1)
    assert bench.read(0) == 0x9999


def test_counting_in_decimal() -> None:
    bench = Bench()
    bench.program(0, 0, 0x1000, bcd=True)
    bench.tick(1 + 1)
    assert bench.read(0) == 0x0999


def test_a_latched_count_stays_until_it_is_read() -> None:
    bench = Bench()
    bench.program(0, 0, 1000)
    bench.tick(1 + 10)
    bench.chip.port_write(3, 1, 0x00)
    bench.tick(10)
    bench.chip.port_write(3, 1, 0x00)  # ignored
    assert bench.read(0) == 990
    assert bench.read(0) == 980


def test_read_back_latches_status_and_count_of_several_counters() -> None:
    bench = Bench()
    bench.program(0, 2, 500)
    bench.program(1, 3, 0x1234, bcd=True)
    bench.tick(1 + 100)
    bench.chip.port_write(3, 1, 0xC0 | 2 | 4)  # both, of counters 0 and 1
    bench.tick(7)
    assert bench.chip.port_read(0, 1) == 0x80 | 0x30 | 2 << 1
    assert bench.read(0) == 400
    assert bench.chip.port_read(1, 1) & 0x3F == 0x30 | 3 << 1 | 1


def test_the_null_count_bit_says_that_a_count_is_not_in_use_yet() -> None:
    bench = Bench()

    def null() -> bool:
        bench.chip.port_write(3, 1, 0xE2)
        return bool(bench.chip.port_read(0, 1) & 0x40)

    bench.chip.port_write(3, 1, 0x34)
    assert null()
    bench.program(0, 2, 100)
    assert null()
    bench.tick(1)
    assert not null()
    bench.chip.port_write(0, 1, 50)
    bench.chip.port_write(0, 1, 0)
    assert null()
    bench.tick(100)
    assert not null()
    assert bench.read(0) == 50


def test_single_byte_access() -> None:
    bench = Bench()
    bench.chip.port_write(3, 1, 0x10)
    bench.chip.port_write(0, 1, 0x40)
    bench.tick(1)
    assert bench.chip.port_read(0, 1) == 0x40
    bench.chip.port_write(3, 1, 0x20)
    bench.chip.port_write(0, 1, 0x40)
    bench.tick(1)
    assert bench.chip.port_read(0, 1) == 0x40


def test_port_61_shows_the_output_of_counter_2_and_a_refresh_that_toggles() -> None:
    bench = Bench()
    bench.port_b.port_write(0, 1, 0xFF)
    assert bench.port_b.port_read(0, 1) & 0x0F == 0x0F
    bench.program(2, 0, 10)
    assert not bench.port_b.port_read(0, 1) & 0x20
    bench.tick(11)
    assert bench.port_b.port_read(0, 1) & 0x20
    seen = set()
    for _ in range(40):
        seen.add(bench.port_b.port_read(0, 1) & 0x10)
        bench.tick(1)
    assert seen == {0, 0x10}


@given(mode=st.integers(2, 3), count=st.integers(2, 40), ticks=st.integers(0, 200))
def test_the_periodic_modes_agree_with_a_counter_that_is_stepped(mode: int, count: int, ticks: int) -> None:
    """The reference is the data sheet's description, clock by clock."""
    bench = Bench()
    bench.gate(True)
    bench.program(2, mode, count)
    bench.tick(1 + ticks)
    element, high = count, True
    for _ in range(ticks):
        if mode == 2:
            element = element - 1 or count
        else:
            # Odd counts: the high half is one clock longer than the low half.
            element -= 1
            if element <= (count // 2 if high else 0):
                high = not high
                element = count if high else count // 2
    assert bench.out(2) == (element != 1 if mode == 2 else high)
    if mode == 2:
        assert bench.read(2) == element
