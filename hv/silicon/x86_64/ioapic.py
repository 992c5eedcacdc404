"""The I/O APIC (Intel 82093AA data sheet): 24 pins, a redirection entry each, reached through an index and a window.

It does not know its address. A pin's level says whether its wire asserts an interrupt, so polarity is only kept.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hv.silicon.x86_64.lapic import Message

PINS = 24
INDEX, WINDOW = 0x00, 0x10
REG_ID, REG_VERSION, REG_ARBITRATION, REG_TABLE = 0x00, 0x01, 0x02, 0x10
MASKED, LEVEL, REMOTE_IRR, LOGICAL, READ_ONLY = 1 << 16, 1 << 15, 1 << 14, 1 << 11, 1 << 14 | 1 << 12


class IoapicState(msgspec.Struct):
    """Everything that the chip remembers: 64-bit redirection entries and the level of each pin."""

    index: int = 0
    id: int = 0
    entries: list[int] = []
    levels: int = 0


class Ioapic:
    """`deliver(message)` carries an interrupt message to the local APICs."""

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        self.deliver = deliver
        self.state = IoapicState(entries=[MASKED] * PINS)

    def pin(self, number: int, level: bool) -> None:
        """Drive an input pin."""
        s = self.state
        was = s.levels >> number & 1
        s.levels = s.levels & ~(1 << number) | level << number
        if level and (not was or s.entries[number] & LEVEL):
            self._fire(number)

    def _fire(self, number: int) -> None:
        entry = self.state.entries[number]
        if entry & MASKED or (entry & LEVEL and entry & REMOTE_IRR):
            return
        if entry & LEVEL:
            self.state.entries[number] |= REMOTE_IRR
        self.deliver(
            Message(entry & 0xFF, entry >> 8 & 7, entry >> 56, bool(entry & LOGICAL), level=bool(entry & LEVEL))
        )

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC has finished with a level-triggered vector; a pin that is still high fires again."""
        s = self.state
        for number, entry in enumerate(s.entries):
            if entry & REMOTE_IRR and entry & 0xFF == vector:
                s.entries[number] &= ~REMOTE_IRR
                if s.levels >> number & 1:
                    self._fire(number)

    def read(self, offset: int) -> int:
        s = self.state
        if offset == INDEX:
            return s.index
        if offset != WINDOW:
            return 0
        if s.index in (REG_ID, REG_ARBITRATION):
            return s.id << 24
        if s.index == REG_VERSION:
            return (PINS - 1) << 16 | 0x11
        number = (s.index - REG_TABLE) // 2
        if 0 <= number < PINS:
            return s.entries[number] >> 32 * (s.index & 1) & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, value: int) -> None:
        s = self.state
        if offset == INDEX:
            s.index = value & 0xFF
            return
        if offset != WINDOW:
            return
        if s.index == REG_ID:
            s.id = value >> 24 & 0xF
        number = (s.index - REG_TABLE) // 2
        if not 0 <= number < PINS:
            return
        shift = 32 * (s.index & 1)
        kept = READ_ONLY if not shift else 0
        old = s.entries[number]
        new = old & ~((0xFFFF_FFFF & ~kept) << shift) | (value & 0xFFFF_FFFF & ~kept) << shift
        if not new & LEVEL:
            new &= ~REMOTE_IRR  # an edge-triggered pin has none; old drivers end an interrupt in this way
        s.entries[number] = new
        if s.levels >> number & 1 and new & LEVEL:
            self._fire(number)
