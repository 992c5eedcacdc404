"""The clock and its memory, register by register (Motorola MC146818A data sheet)."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from hv.silicon.cmos import Cmos

TSC = 1_000_000
SECOND = TSC * 1000
MIB = 1 << 20
A, B, C, D = 10, 11, 12, 13
FIRST, LAST = dt.datetime.fromisoformat("1980-01-01"), dt.datetime.fromisoformat("2079-12-31")


class Bench:
    def __init__(self) -> None:
        self.now = 0
        self.level = False
        self.chip = Cmos(TSC, lambda: self.now, self.drive)

    def drive(self, level: bool) -> None:
        self.level = level

    def read(self, at: int) -> int:
        self.chip.port_write(0, 1, at)
        return self.chip.port_read(1, 1)

    def write(self, at: int, value: int) -> None:
        self.chip.port_write(0, 1, at)
        self.chip.port_write(1, 1, value)

    def time(self) -> tuple[int, ...]:
        return tuple(self.read(at) for at in (9, 8, 7, 4, 2, 0))

    def wait(self) -> int | None:
        """Go to the chip's deadline. How long that took, in millionths of a second."""
        before, when = self.now, self.chip.deadline
        if when is None:
            return None
        self.now = when
        self.chip.advance(when)
        return (when - before) * 1_000_000 // SECOND


def test_it_starts_at_its_date_in_decimal_digits() -> None:
    bench = Bench()
    assert bench.time() == (0x17, 0x11, 0x28, 0, 0, 0)
    assert bench.read(0x32) == 0x20
    assert bench.read(6) == 3  # a Tuesday
    assert bench.read(D) == 0x80


def test_it_runs_in_virtual_time() -> None:
    bench = Bench()
    bench.now = (26 * 3600 + 61) * SECOND
    assert bench.time() == (0x17, 0x11, 0x29, 2, 1, 1)


def test_binary_and_twelve_hours() -> None:
    bench = Bench()
    bench.now = (13 * 3600 + 59) * SECOND
    bench.write(B, 4)
    assert bench.read(4) == 0x81  # 1 p.m.
    assert bench.read(0) == 59
    bench.now += 11 * 3600 * SECOND
    assert bench.read(4) == 12  # midnight


@given(st.datetimes(FIRST, LAST), st.booleans(), st.booleans())
def test_it_can_be_set_and_goes_on(when: dt.datetime, binary: bool, full_day: bool) -> None:
    bench = Bench()
    bench.write(B, 0x80 | binary * 4 | full_day * 2)

    def form(value: int) -> int:
        return value if binary else value // 10 << 4 | value % 10

    hour = form(when.hour) if full_day else form((when.hour - 1) % 12 + 1) | (0x80 if when.hour > 11 else 0)
    values = {0: form(when.second), 2: form(when.minute), 4: hour, 7: form(when.day), 8: form(when.month),
              9: form(when.year % 100), 0x32: form(when.year // 100)}  # fmt: skip
    for at, value in values.items():
        bench.write(at, value)
    bench.now += 5 * SECOND
    assert {at: bench.read(at) for at in values} == values  # SET: it stands still
    bench.write(B, binary * 4 | full_day * 2)
    bench.now += 86_400 * SECOND
    later = when + dt.timedelta(days=1)
    assert (bench.read(7), bench.read(2), bench.read(0)) == (form(later.day), form(later.minute), form(later.second))


def test_the_periodic_interrupt_has_the_rate_of_register_a() -> None:
    bench = Bench()
    bench.write(A, 0x26)
    bench.write(B, 0x42)
    for _ in range(3):
        assert bench.wait() in (976, 977)
        assert bench.level
        assert bench.wait() is None  # nothing more until it is read
        assert bench.read(C) == 0xC0
        assert not bench.level
    bench.write(A, 0x23)
    assert bench.wait() in range(1, 123)
    bench.read(C)
    assert bench.wait() in (122, 123)


def test_the_update_interrupt_comes_once_a_second() -> None:
    bench = Bench()
    bench.now = SECOND // 4
    bench.write(B, 0x12)
    assert bench.wait() == 750_000
    assert bench.read(C) == 0xD0  # the periodic flag is set besides, and does not interrupt
    assert bench.wait() == 1_000_000


def test_the_alarm_compares_with_wild_cards() -> None:
    bench = Bench()
    for at, value in ((1, 0x10), (3, 0xC0), (5, 0xFF)):
        bench.write(at, value)
    bench.write(B, 0x22)
    assert bench.wait() == 10_000_000
    assert bench.read(C) == 0xF0
    assert bench.wait() == 60_000_000


def test_flags_are_set_without_interrupts_too_and_reading_takes_them_back() -> None:
    bench = Bench()
    bench.now = 3 * SECOND
    assert bench.read(C) & 0x10
    assert bench.read(C) == 0
    assert not bench.level


def test_uip_is_set_before_an_update() -> None:
    bench = Bench()
    bench.now = SECOND - SECOND // 1000
    assert bench.read(A) == 0xA6
    bench.now = SECOND
    assert bench.read(A) == 0x26


def test_the_divider_held_in_reset_stops_the_clock() -> None:
    bench = Bench()
    bench.write(A, 0x76)
    bench.now = 10 * SECOND
    assert bench.time()[-1] == 0
    bench.write(A, 0x26)
    bench.now += SECOND
    assert bench.time()[-1] == 1


def test_the_rest_is_memory_and_says_what_the_machine_has() -> None:
    bench = Bench()
    bench.write(0x40, 0xAB)
    assert bench.read(0x40) == 0xAB
    bench.chip.describe(64 * MIB, 3 << 30, 2)
    assert bench.read(0x30) | bench.read(0x31) << 8 == 63 * 1024
    assert bench.read(0x34) | bench.read(0x35) << 8 == 48 * 16
    assert bench.read(0x5B) | bench.read(0x5C) << 8 | bench.read(0x5D) << 16 == (3 << 30) >> 16
    assert bench.read(0x5F) == 1
    bench.chip.describe(3 << 30, 0, 1)
    assert bench.read(0x30) | bench.read(0x31) << 8 == 0xFFFF


def test_an_impossible_date_does_no_harm() -> None:
    bench = Bench()
    for at in (0, 2, 4, 6, 7, 8, 9, 0x32):
        bench.write(at, 0xFF)
    bench.now += SECOND
    assert all(0 <= value <= 0xFF for value in bench.time())
