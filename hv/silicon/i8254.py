"""The interval timer of a PC, register level (Intel 8254 data sheet): three counters of 1.193182 MHz, and port 0x61.

Counter 0 drives IRQ 0, counter 2 can be gated and read through port 0x61. A counter is not stepped: what it holds
follows from the time at which it was loaded. Ports: 0x40 to 0x42 the counters, 0x43 the control word.
Simplified: the low part of OUT is no event of its own, it lies just before the rise; the speaker is silent.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hv.silicon.timing import MILLI

PIT_HZ = 1_193_182
COUNTERS, CONTROL = 0x40, 3
PORT_B = 0x61
GATE_2, OUT_2, REFRESH = 1, 0x20, 0x10
PORT_B_WRITABLE = 0xF
REFRESH_TICKS = 18  # about 15 us a row of DRAM
READ_BACK, NOT_COUNT, NOT_STATUS = 3, 0x20, 0x10


class CounterState(msgspec.Struct):
    """Everything that a counter remembers. Times are in its own clock's ticks; `load` None: no count yet."""

    mode: int = 0
    bcd: bool = False
    access: int = 3  # 1 low byte, 2 high byte, 3 low byte then high byte
    load: int | None = None  # the count in use, 1 to 65536
    pending: int | None = None  # a new count that takes effect later
    switch: int = 0  # when it does, in modes 2 and 3
    start: int | None = None  # when the counter was loaded; None while it does not run
    held: int = 0  # how far it had come when it was stopped
    gate: bool = True
    low_written: int | None = None  # the low byte, while the high one is to come
    high_next: bool = False  # the next read gives the high byte
    latched: int | None = None
    status: int | None = None


class _Counter:
    """One of the three. `tick()` is the number of the clock's tick now."""

    def __init__(self, tick: Callable[[], int]) -> None:
        self.tick = tick
        self.s = CounterState()

    # --- time -------------------------------------------------------------------------------------------------

    def _elapsed(self) -> int:
        """Ticks since the count was loaded, without those in which the gate was closed."""
        s = self.s
        return s.held if s.start is None else max(0, self.tick() - s.start)

    def settle(self) -> None:
        """A new count of a periodic mode takes effect at the end of the period."""
        s = self.s
        if s.mode in (2, 3) and s.pending is not None and s.start is not None and self.tick() >= s.switch:
            s.load, s.pending, s.start = s.pending, None, s.switch

    def _begin(self) -> None:
        """Load the count: at the next tick."""
        s = self.s
        if s.pending is not None:
            s.load, s.pending = s.pending, None
        s.held = 0
        s.start = self.tick() + 1 if s.load is not None and (s.gate or s.mode in (1, 5)) else None

    @property
    def out(self) -> bool:
        """The output pin."""
        self.settle()
        s, passed = self.s, self._elapsed()
        if s.load is None or (s.start is None and s.mode in (1, 2, 3, 5)):
            return s.mode != 0
        if s.low_written is not None and s.mode == 0:
            return False
        match s.mode:
            case 0 | 1:
                return passed >= s.load
            case 2:
                return passed % s.load != s.load - 1
            case 3:
                return passed % s.load < (s.load + 1) // 2
            case _:
                return passed != s.load

    def rise(self) -> int | None:
        """The tick at which the output rises next, or None."""
        self.settle()
        s = self.s
        if s.load is None or s.start is None:
            return None
        passed = self._elapsed()
        if s.mode in (2, 3):
            return s.switch if s.pending is not None else s.start + (passed // s.load + 1) * s.load
        end = s.load + (s.mode in (4, 5))
        return s.start + end if passed < end else None

    def _value(self) -> int:
        """What the counting element holds."""
        self.settle()
        s, passed = self.s, self._elapsed()
        if s.load is None:
            return 0
        if s.mode == 2:
            value = s.load - passed % s.load
        elif s.mode == 3:
            value = (s.load - 2 * passed % s.load) & ~1
        else:
            value = s.load - passed
        if s.bcd:
            value %= 10_000
            return int(str(value), 16)
        return value & 0xFFFF

    # --- registers --------------------------------------------------------------------------------------------

    def control(self, value: int) -> None:
        access, s = value >> 4 & 3, self.s
        if not access:
            self.latch()
            return
        mode = value >> 1 & 7
        self.s = CounterState(mode=mode & 3 if mode > 5 else mode, bcd=bool(value & 1), access=access, gate=s.gate)

    def latch(self) -> None:
        if self.s.latched is None:
            self.s.latched = self._value()

    def latch_status(self) -> None:
        s = self.s
        if s.status is None:
            out = self.out
            null = s.load is None or s.pending is not None or (s.start is not None and self.tick() < s.start)
            s.status = out << 7 | null << 6 | s.access << 4 | s.mode << 1 | s.bcd

    def read(self) -> int:
        s = self.s
        if s.status is not None:
            value, s.status = s.status, None
            return value
        value = self._value() if s.latched is None else s.latched
        if s.access == 3:
            s.high_next = not s.high_next
            if s.high_next:
                return value & 0xFF
        s.latched = None
        return value & 0xFF if s.access == 1 else value >> 8

    def write(self, value: int) -> None:
        s = self.s
        if s.access == 3 and s.low_written is None:
            s.low_written = value
            if s.mode == 0 and s.start is not None:
                s.held, s.start = self._elapsed(), None
            return
        count = value if s.access == 1 else value << 8 | (s.low_written or 0)
        s.low_written = None
        self._load(_decimal(count) or 10_000 if s.bcd else count or 0x1_0000)

    def _load(self, count: int) -> None:
        """A whole count has been written."""
        self.settle()
        s = self.s
        if s.mode in (2, 3) and s.start is not None and s.load is not None:
            s.switch = s.start + (self._elapsed() // s.load + 1) * s.load
            s.pending = count
        elif s.mode in (1, 5):  # the gate's next rise starts it
            s.pending = count
            s.load = s.load or count
        else:
            s.pending = count
            self._begin()

    def set_gate(self, level: bool) -> None:
        s = self.s
        rises = level and not s.gate
        self.settle()
        falls = s.gate and not level
        s.gate = level
        if falls and s.mode in (0, 2, 3, 4) and s.start is not None:
            s.held, s.start = self._elapsed(), None
        elif rises and s.mode in (0, 4) and s.load is not None and s.low_written is None:
            s.start = self.tick() - s.held
        elif rises and s.mode in (1, 2, 3, 5):
            self._begin()


def _decimal(count: int) -> int:
    """The value of four decimal digits; a digit beyond nine counts as the chip's adder would take it."""
    return sum((count >> 4 * place & 15) * (1, 10, 100, 1000)[place] for place in range(4)) % 10_000


class Pit:
    """`irq(level)` is IRQ 0; `clock()` the time in millicycles, of which a second has tsc_hz x 1000."""

    def __init__(self, tsc_hz: int, clock: Callable[[], int], irq: Callable[[bool], None]) -> None:
        self.second = tsc_hz * MILLI
        self.clock, self.irq = clock, irq
        self.reschedule: Callable[[], None] = lambda: None  # the deadline has changed
        self.counters = [_Counter(self._tick) for _ in range(3)]
        self.port_b = 0
        self.deadline: int | None = None
        self.counters[2].set_gate(False)

    def _tick(self) -> int:
        return self.clock() * PIT_HZ // self.second

    @property
    def state(self) -> tuple[list[CounterState], int, int | None]:
        return [counter.s for counter in self.counters], self.port_b, self.deadline

    @state.setter
    def state(self, state: tuple[list[CounterState], int, int | None]) -> None:
        states, self.port_b, self.deadline = state
        for counter, saved in zip(self.counters, states, strict=True):
            counter.s = saved

    def _changed(self) -> None:
        """Counter 0 may have another output, or another time at which it rises."""
        self.irq(self.counters[0].out)
        self._look_ahead()

    def _look_ahead(self) -> None:
        rise = self.counters[0].rise()
        self.deadline = None if rise is None else -(-rise * self.second // PIT_HZ)
        self.reschedule()

    def advance(self, now: int) -> None:
        """Counter 0's output rises, and has been low before."""
        self.irq(False)
        self.irq(True)
        self._look_ahead()

    def port_read(self, offset: int, size: int) -> int:
        value = self.counters[offset].read() if offset != CONTROL else 0xFF
        return value | (1 << 8 * size) - 1 & ~0xFF

    def port_write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if offset != CONTROL:
            self.counters[offset].write(value)
        elif value >> 6 != READ_BACK:
            self.counters[value >> 6].control(value)
        else:
            for number, counter in enumerate(self.counters):
                if value >> 1 + number & 1:
                    if not value & NOT_COUNT:
                        counter.latch()
                    if not value & NOT_STATUS:
                        counter.latch_status()
        self._changed()


class PortB:
    """Port 0x61: the gate of counter 2, its output, the refresh of the memory, which a program can time by."""

    def __init__(self, pit: Pit) -> None:
        self.pit = pit

    def port_read(self, offset: int, size: int) -> int:
        pit = self.pit
        refresh = pit._tick() // REFRESH_TICKS & 1
        value = pit.port_b | pit.counters[2].out * OUT_2 | refresh * REFRESH
        return value | (1 << 8 * size) - 1 & ~0xFF

    def port_write(self, offset: int, size: int, value: int) -> None:
        self.pit.port_b = value & PORT_B_WRITABLE
        self.pit.counters[2].set_gate(bool(value & GATE_2))
