"""The clock and the battery-backed memory of a PC, register level (Motorola MC146818A data sheet), ports 0x70 and 0x71.

Beyond the clock's 14 bytes lie what a firmware wants to know, as in the PC/AT and, for large memories, as in Bochs and
QEMU: the sizes of memory, the number of CPUs. The clock starts at a fixed date and runs in virtual time.
Simplified: no daylight saving, no square wave; an impossible date becomes the nearest possible one.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Callable

import msgspec

from hv.silicon.timing import MILLI

INDEX = 0x70
SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
ALARMS = (1, 3, 5)  # of seconds, minutes, hours; 0xC0 and above match anything
A, B, C, D, CENTURY = 10, 11, 12, 13, 0x32
A_UIP, A_RATE, A_DIVIDER, A_RUNS, A_FIRST = 0x80, 0xF, 0x70, 0x20, 0x26
B_SET, B_PERIODIC, B_ALARM, B_UPDATE, B_BINARY, B_24 = 0x80, 0x40, 0x20, 0x10, 4, 2
C_IRQ, C_PERIODIC, C_ALARM, C_UPDATE = 0x80, 0x40, 0x20, 0x10
D_VALID = 0x80
PM = 0x80  # bit 7 of the hours on a 12-hour clock
DO_NOT_CARE = 0xC0
UPDATE_US = 244 + 1984  # UIP: so long before an update, and the update itself
OSCILLATOR = 32_768  # Hz
FIRST_DATE = dt.datetime(2017, 11, 28, tzinfo=dt.UTC)
MEBI, LARGEST_BELOW = 1 << 20, 0xFFFF


class CmosState(msgspec.Struct):
    """Everything that the chip remembers. `wall` is the date, in seconds since 1970, at the moment `since`."""

    index: int = 0
    memory: bytearray = msgspec.field(default_factory=lambda: bytearray(128))
    wall: int = 0
    since: int = 0
    seen: int = 0  # up to when the flags of register C are right
    flags: int = 0


class Cmos:
    """`irq(level)` is IRQ 8. `clock()` gives millicycles, of which a second has tsc_hz x 1000."""

    def __init__(self, tsc_hz: int, clock: Callable[[], int], irq: Callable[[bool], None]) -> None:
        self.second = tsc_hz * MILLI
        self.clock, self.irq = clock, irq
        self.reschedule: Callable[[], None] = lambda: None  # the deadline has changed
        self.state = s = CmosState(wall=int(FIRST_DATE.timestamp()))
        s.memory[A], s.memory[B], s.memory[D] = A_FIRST, B_24, D_VALID

    def describe(self, low: int, high: int, cpus: int) -> None:
        """Note what the machine has: bytes of RAM below and above 4 GiB, and CPUs."""
        memory = self.state.memory
        extended = min((low - MEBI) // 1024, LARGEST_BELOW)
        for at, size, value in (
            (0x15, 2, 640), (0x17, 2, extended), (0x30, 2, extended), (0x34, 2, max(0, low - 16 * MEBI) >> 16),
            (0x5B, 3, high >> 16), (0x5F, 1, cpus - 1),
        ):  # fmt: skip
            memory[at : at + size] = value.to_bytes(size, "little")

    # --- time -------------------------------------------------------------------------------------------------

    @property
    def _runs(self) -> bool:
        memory = self.state.memory
        return not memory[B] & B_SET and memory[A] & A_DIVIDER == A_RUNS

    def _date(self, now: int) -> int:
        """The date in seconds since 1970."""
        s = self.state
        return s.wall + (now - s.since) // self.second

    def _bcd(self, value: int) -> int:
        return value if self.state.memory[B] & B_BINARY else value // 10 << 4 | value % 10

    def _number(self, value: int) -> int:
        return value if self.state.memory[B] & B_BINARY else (value >> 4) * 10 + (value & 15)

    def _hours(self, hour: int) -> int:
        """An hour of the day in the form that register B asks for."""
        if self.state.memory[B] & B_24:
            return self._bcd(hour)
        return self._bcd((hour - 1) % 12 + 1) | (PM if hour >= 12 else 0)

    def _show(self, date: int) -> None:
        """Put a date into the clock's bytes."""
        memory, when = self.state.memory, dt.datetime.fromtimestamp(date, dt.UTC)
        memory[HOURS] = self._hours(when.hour)
        for at, value in (
            (SECONDS, when.second), (MINUTES, when.minute), (WEEKDAY, when.isoweekday() % 7 + 1), (DAY, when.day),
            (MONTH, when.month), (YEAR, when.year % 100), (CENTURY, when.year // 100),
        ):  # fmt: skip
            memory[at] = self._bcd(value)

    def _read_date(self) -> int:
        """The date that the clock's bytes say."""
        memory, number = self.state.memory, self._number
        hour = number(memory[HOURS] & (0xFF if memory[B] & B_24 else 0x7F))
        if not memory[B] & B_24:
            hour = hour % 12 + (12 if memory[HOURS] & PM else 0)
        year = min(max(number(memory[CENTURY]) * 100 + number(memory[YEAR]), 1970), 9998)
        month = min(max(number(memory[MONTH]), 1), 12)
        day = min(max(number(memory[DAY]), 1), calendar.monthrange(year, month)[1])
        parts = min(hour, 23), min(number(memory[MINUTES]), 59), min(number(memory[SECONDS]), 59)
        return int(dt.datetime(year, month, day, *parts, tzinfo=dt.UTC).timestamp())

    # --- interrupts -------------------------------------------------------------------------------------------

    def _period(self) -> int:
        """Oscillator ticks between two periodic interrupts, or 0."""
        rate = self.state.memory[A] & A_RATE
        return 0 if not rate else 1 << rate - 1 if rate > 2 else 1 << rate + 6

    def _oscillations(self, now: int) -> int:
        return (now - self.state.since) * OSCILLATOR // self.second

    def _alarm_in(self, first: int, last: int) -> bool:
        """Does the alarm match a second in [first, last]?"""
        return any(self._matches(second) for second in range(first, min(last, first + 86_400) + 1))

    def _matches(self, second: int) -> bool:
        memory, now = self.state.memory, (second % 60, second // 60 % 60, second // 3600 % 24)
        shown = self._bcd(now[0]), self._bcd(now[1]), self._hours(now[2])
        return all(memory[at] >= DO_NOT_CARE or memory[at] == value for at, value in zip(ALARMS, shown, strict=True))

    def _catch_up(self, now: int) -> None:
        """Bring the flags of register C up to date."""
        s = self.state
        if self._runs:
            period = self._period()
            if period and self._oscillations(now) // period > self._oscillations(s.seen) // period:
                s.flags |= C_PERIODIC
            before, after = self._date(s.seen), self._date(now)
            if after > before:
                s.flags |= C_UPDATE
                s.flags |= C_ALARM if self._alarm_in(before + 1, after) else 0
        s.seen = now
        asked = s.flags & s.memory[B] & (C_PERIODIC | C_ALARM | C_UPDATE)
        s.flags = s.flags | C_IRQ if asked else s.flags & ~C_IRQ
        self.irq(bool(asked))

    @property
    def deadline(self) -> int | None:
        """When register C gets a flag that interrupts and that it does not have yet."""
        s = self.state
        if not self._runs or s.flags & C_IRQ:
            return None
        wanted = s.memory[B]
        times = []
        if wanted & B_PERIODIC and (period := self._period()):
            tick = (self._oscillations(s.seen) // period + 1) * period
            times.append(s.since + -(-tick * self.second // OSCILLATOR))
        if wanted & B_UPDATE:
            times.append(self._moment(self._date(s.seen) + 1))
        if wanted & B_ALARM:
            first = self._date(s.seen) + 1
            match = next((second for second in range(first, first + 86_400) if self._matches(second)), None)
            if match is not None:
                times.append(self._moment(match))
        return min(times, default=None)

    def _moment(self, date: int) -> int:
        return self.state.since + (date - self.state.wall) * self.second

    def advance(self, now: int) -> None:
        self._catch_up(now)

    # --- registers --------------------------------------------------------------------------------------------

    def port_read(self, offset: int, size: int) -> int:
        ones = (1 << 8 * size) - 1
        return self._read(self.state.index) | ones & ~0xFF if offset else ones

    def _read(self, at: int) -> int:
        s, now = self.state, self.clock()
        if self._runs and (at < A or at == CENTURY) and at not in ALARMS:
            self._show(self._date(now))
        elif at == A:
            left = self.second - (now - s.since) % self.second
            updating = self._runs and left * 1_000_000 <= UPDATE_US * self.second
            return s.memory[A] | updating * A_UIP
        elif at == C:
            self._catch_up(now)
            value, s.flags = s.flags, 0
            self._catch_up(now)
            self.reschedule()
            return value
        return s.memory[at]

    def port_write(self, offset: int, size: int, value: int) -> None:
        s, value = self.state, value & 0xFF
        if not offset:
            s.index = value & 0x7F  # bit 7 would hold back NMIs, of which there are none
            return
        now, at = self.clock(), s.index
        self._catch_up(now)
        if at in (C, D):
            return
        clock = (at < A or at == CENTURY) and at not in ALARMS
        ran = self._runs
        if ran and (clock or at in (A, B)):
            self._show(self._date(now))  # as it stands at this moment
        s.memory[at] = value & ~A_UIP if at == A else value
        if at == B and value & B_SET:
            s.memory[B] &= ~B_UPDATE  # MC146818A: SET clears the update interrupt's enable bit
        if self._runs and (clock or not ran):
            # The clock goes on from what its bytes say; the divider's chain starts a new second (or keeps its own).
            s.wall, s.since = self._read_date(), s.since + (now - s.since) // self.second * self.second if ran else now
        self._catch_up(now)
        self.reschedule()
