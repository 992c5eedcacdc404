"""The local APIC in xAPIC form, register level (APM vol. 2, chapter 16), with its timer.

It knows neither its address nor its CPU: a machine on metal and a hypervisor's board use the same file.
Its two local pins are LINT0, which the 8259s drive, and LINT1. A pin in mode ExtINT passes the 8259s' interrupt through
to the CPU, which then asks them for the vector ("virtual wire", MultiProcessor Specification 3.6.2.2).
What it cannot do alone, it leaves in its state for the CPU's owner: `nmi`, `init` and `startup`.
Simplified: no thermal and performance interrupts; a pin in fixed mode is edge-triggered; SMI goes nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

ID, VERSION, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR_LOW, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x320, 0x330, 0x340, 0x350, 0x360, 0x370
TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE = 0x380, 0x390, 0x3E0
LVTS = (LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR)
# Bits that a write can change: vector and mask; delivery mode, polarity and trigger; the timer's mode.
LVT_WRITABLE = {
    LVT_TIMER: 0x3_00FF, LVT_THERMAL: 0x1_07FF, LVT_PERF: 0x1_07FF, LVT_LINT0: 0x1_A7FF, LVT_LINT1: 0x1_A7FF,
    LVT_ERROR: 0x1_00FF,
}  # fmt: skip
MASKED, PERIODIC = 1 << 16, 1 << 17
SVR_ENABLE = 1 << 8
VERSION_VALUE = 0x0005_0010  # six LVT entries
FIXED, LOWEST, NMI, INIT, STARTUP, EXTINT = 0, 1, 4, 5, 6, 7  # delivery modes (APM vol. 2, 16.5)
VECTORED = (FIXED, LOWEST)
# The error status register (APM vol. 2, 16.4.6)
NOT_ACCEPTED, ILLEGAL_VECTOR_SENT, ILLEGAL_VECTOR_RECEIVED = 1 << 2, 1 << 5, 1 << 6
PINS = (LVT_LINT0, LVT_LINT1)
BROADCAST = 0xFF


class Message(msgspec.Struct, frozen=True):
    """An interrupt message on the APICs' bus."""

    vector: int
    mode: int
    destination: int
    logical: bool
    level: bool


class LapicState(msgspec.Struct):
    """Everything that the chip remembers. The three vector sets are 256-bit integers; times are in millicycles."""

    id: int
    tpr: int = 0
    ldr: int = 0
    dfr: int = 0xFFFF_FFFF
    svr: int = 0xFF
    esr: int = 0
    icr: int = 0
    isr: int = 0
    irr: int = 0
    tmr: int = 0
    lvt: dict[int, int] = {}
    initial: int = 0
    divide: int = 0
    expiry: int | None = None
    pins: int = 0  # LINT0 and LINT1 as they are
    extint: bool = False  # the 8259s' interrupt is passed through just now
    errors: int = 0  # since the last write to the error status register
    nmi: bool = False
    init: bool = False
    startup: int | None = None  # the page number that a start-up message has brought


class Lapic:
    """`clock()` gives the time, `send(icr)` carries an interrupt command to its targets, `changed()` says that a
    pending interrupt or the next expiry may be another one now, `broadcast(vector)` tells the I/O APIC of the end of
    a level-triggered one. `tick` is the length of one timer clock."""

    posted = False  # memory takes a vector that arrives, at once; what comes later is a notification

    def __init__(
        self,
        id: int,
        tick: int,
        clock: Callable[[], int],
        send: Callable[[int], None],
        changed: Callable[[], None],
        broadcast: Callable[[int], None],
    ) -> None:
        self.tick, self.clock, self.send, self.changed, self.broadcast = tick, clock, send, changed, broadcast
        self.state = LapicState(id=id, lvt=dict.fromkeys(LVTS, MASKED))
        self.inta: Callable[[], int] = lambda: 0  # the CPU's question to the 8259s for a vector

    def reset(self) -> None:
        """INIT: everything but the identity goes back to its first state (APM vol. 2, 16.3.2)."""
        self.state = LapicState(id=self.state.id, lvt=dict.fromkeys(LVTS, MASKED), pins=self.state.pins)
        self.changed()

    # --- messages ---------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Software has not switched the chip off. Also when it has, NMI, INIT and start-up messages get through."""
        return bool(self.state.svr & SVR_ENABLE)

    @property
    def signalled(self) -> bool:
        """There is something for the CPU that is no interrupt."""
        s = self.state
        return s.nmi or s.init or s.startup is not None

    def receive(self, mode: int, vector: int, level: bool = False) -> None:
        """A message arrives."""
        s = self.state
        if mode in VECTORED:
            self.raise_vector(vector, level)
            return
        if mode == NMI:
            s.nmi = True
        elif mode == INIT:
            s.init, s.startup = True, None
        elif mode == STARTUP:
            s.startup = vector
        self.changed()

    def error(self, bit: int) -> None:
        """Note an error, and interrupt the CPU if it wants to know."""
        s = self.state
        s.errors |= bit
        lvt = s.lvt[LVT_ERROR]
        if not lvt & MASKED and lvt & 0xFF >= 16:
            self.raise_vector(lvt & 0xFF)

    # --- interrupts -------------------------------------------------------------------------------------------

    def raise_vector(self, vector: int, level: bool = False) -> None:
        """An interrupt arrives. Vectors below 16 are illegal (APM vol. 2, 16.4.6)."""
        s = self.state
        if vector < 16:
            self.error(ILLEGAL_VECTOR_RECEIVED)
        elif s.svr & SVR_ENABLE:
            s.irr |= 1 << vector
            s.tmr = s.tmr & ~(1 << vector) | level << vector
            self.changed()

    def ppr(self) -> int:
        """Processor priority (APM vol. 2, 16.6.4)."""
        s = self.state
        in_service = s.isr.bit_length() - 1 if s.isr else 0
        return s.tpr if s.tpr >> 4 >= in_service >> 4 else in_service & 0xF0

    def set_priority_class(self, value: int) -> None:
        """CR8 is the upper half of the task priority register (APM vol. 2, 16.6.4)."""
        if self.state.tpr >> 4 != value:
            self.state.tpr = value << 4

    def pending(self) -> int | None:
        """The vector that the CPU should take next, or None when nothing exceeds its priority."""
        s = self.state
        if not s.irr:
            return None
        vector = s.irr.bit_length() - 1
        return vector if vector >> 4 > self.ppr() >> 4 else None

    def acknowledge(self) -> int:
        """The CPU takes the pending interrupt: it moves from requested to in service."""
        vector = self.pending()
        assert vector is not None
        self.state.irr &= ~(1 << vector)
        self.state.isr |= 1 << vector
        return vector

    @property
    def interrupts(self) -> bool:
        """Is there an interrupt that the CPU takes as soon as it takes any?"""
        return self.state.extint or self.pending() is not None

    def accept(self) -> int:
        """The CPU takes an interrupt: its vector. One that is passed through comes first, whatever its priority."""
        return self.inta() if self.state.extint else self.acknowledge()

    def pin(self, number: int, level: bool) -> None:
        """Drive LINT0 or LINT1."""
        s, lvt = self.state, self.state.lvt[PINS[number]]
        rises = level and not s.pins >> number & 1
        s.pins = s.pins & ~(1 << number) | level << number
        if rises and not lvt & MASKED and lvt >> 8 & 7 in (FIXED, NMI):
            self.receive(lvt >> 8 & 7, lvt & 0xFF)
        self._pass_through()

    def _pass_through(self) -> None:
        """Is a pin that is high in mode ExtINT?"""
        s = self.state
        extint = any(
            s.pins >> number & 1 and s.lvt[lvt] & (MASKED | 0x700) == EXTINT << 8 for number, lvt in enumerate(PINS)
        )
        if extint != s.extint:
            s.extint = extint
            self.changed()

    def addressed(self, destination: int, logical: bool) -> bool:
        """Is a message for this APIC? Physical, flat and cluster form (APM vol. 2, 16.6.1 and 16.6.2)."""
        s = self.state
        if destination == BROADCAST:
            return True
        if not logical:
            return destination == s.id
        mine = s.ldr >> 24
        if s.dfr >> 28 == 0xF:
            return bool(mine & destination)
        return (destination >> 4 in (mine >> 4, 0xF)) and bool(mine & destination & 0xF)

    def _eoi(self) -> None:
        s = self.state
        if s.isr:
            vector = s.isr.bit_length() - 1
            s.isr &= ~(1 << vector)
            if s.tmr >> vector & 1:
                self.broadcast(vector)
            if s.irr:
                self.changed()

    # --- timer ------------------------------------------------------------------------------------------------

    def _period(self) -> int:
        """Time of one count: the divider's code is scattered over bits 3, 1 and 0 (APM vol. 2, 16.4.1)."""
        code = self.state.divide & 3 | (self.state.divide >> 1 & 4)
        return self.tick * (1 if code == 7 else 2 << code)

    def _start(self, count: int) -> None:
        s = self.state
        s.initial = count
        s.expiry = self.clock() + count * self._period() if count else None
        self.changed()

    def _current(self) -> int:
        s = self.state
        if s.expiry is None:
            return 0
        return -(-max(0, s.expiry - self.clock()) // self._period())

    def advance(self, now: int) -> int:
        """Let the timer expire as often as it is due. Returns how many times."""
        s = self.state
        fired = 0
        while s.expiry is not None and s.expiry <= now:
            fired += 1
            lvt = s.lvt[LVT_TIMER]
            s.expiry = s.expiry + s.initial * self._period() if lvt & PERIODIC and s.initial else None
            if not lvt & MASKED:
                self.raise_vector(lvt & 0xFF)
        return fired

    # --- registers --------------------------------------------------------------------------------------------

    def read(self, offset: int) -> int:
        """A 32-bit register; offsets are multiples of 16, others read as zero."""
        s = self.state
        if offset in s.lvt:
            return s.lvt[offset]
        for base, bits in ((ISR, s.isr), (TMR, s.tmr), (IRR, s.irr)):
            if base <= offset < base + 0x80 and offset % 16 == 0:
                return bits >> (offset - base) * 2 & 0xFFFF_FFFF
        values = {
            ID: s.id << 24, VERSION: VERSION_VALUE, TPR: s.tpr, PPR: self.ppr(), LDR: s.ldr, DFR: s.dfr, SVR: s.svr,
            ESR: s.esr, ICR_LOW: s.icr & 0xFFFF_FFFF, ICR_HIGH: s.icr >> 32, TIMER_INITIAL: s.initial,
            TIMER_CURRENT: self._current(), TIMER_DIVIDE: s.divide,
        }  # fmt: skip
        return values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        s = self.state
        value &= 0xFFFF_FFFF
        if offset == EOI:
            self._eoi()
        elif offset == TPR:
            s.tpr = value & 0xFF
            self.changed()
        elif offset == TIMER_INITIAL:
            self._start(value)
        elif offset == TIMER_DIVIDE:
            left = self._current()
            s.divide = value & 0xB
            if s.expiry is not None:
                s.expiry = self.clock() + left * self._period()
                self.changed()
        elif offset == ICR_LOW:
            s.icr = s.icr & ~0xFFFF_FFFF | value & ~(1 << 12)
            self.send(s.icr)
        elif offset == ICR_HIGH:
            s.icr = s.icr & 0xFFFF_FFFF | value << 32
        elif offset == SVR:
            s.svr = value & 0x3FF
            if not value & SVR_ENABLE:
                s.lvt = {lvt: entry | MASKED for lvt, entry in s.lvt.items()}
                self._pass_through()
        elif offset in s.lvt:
            s.lvt[offset] = value & LVT_WRITABLE[offset] | (0 if s.svr & SVR_ENABLE else MASKED)
            self._pass_through()
        elif offset == LDR:
            s.ldr = value & 0xFF00_0000
        elif offset == DFR:
            s.dfr = value | 0x0FFF_FFFF
        elif offset == ID:
            s.id = value >> 24
        elif offset == ESR:
            s.esr, s.errors = s.errors, 0
