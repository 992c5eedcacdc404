"""Interrupts of one function: causes, masks, vectors, throttling (7.3, 8.2.3.5 and 8.3.5.2).

A cause is a bit: 0 to 63 the vectors to which queues are mapped, from OTHER on the bits of EICR that are no queue's. A
cause that arises, or is unmasked while it stands, makes its vector send a message, not before the interval since the
last one is over. Without MSI-X the pin is high while a cause that is not masked stands in EICR.
Simplified: no low-latency interrupts, no TCP timer; EITRSEL has no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe.registers import bits

if TYPE_CHECKING:
    from hv.silicon.ixgbe.card import IxgbeFunction

OTHER = 64  # EICR's bit n is cause OTHER + n, for n from 16 on
ALL_VECTORS = (1 << OTHER) - 1
QUEUE_BITS, OTHER_BITS = 0xFFFF, 0xFFFF_0000  # of EICR
ALWAYS_CLEARED = ALL_VECTORS & ~QUEUE_BITS  # vectors that no bit of EICR shows: their message clears the cause
UNIT_NS = 2000  # of the interval, in steps of 8: bits 11:3


class InterruptState(msgspec.Struct):
    """Causes are bits of one number. `interval` (EITR) and `quiet` (a time in millicycles) are by vector."""

    causes: int = 0
    armed: int = 0  # not told yet
    mask: int = 0  # EIMS: those that may interrupt
    auto_clear: int = 0
    auto_mask: int = 0
    interval: dict[int, int] = {}
    quiet: dict[int, int] = {}
    pin: bool = False


def cause_bits(value: int) -> int:
    """A number in EICR's form as causes."""
    return value & QUEUE_BITS | (value & OTHER_BITS) << OTHER


class Interrupts:
    """`misc()` is the vector of all causes that are no queue's, if one is set."""

    def __init__(self, function: IxgbeFunction, misc: Callable[[], int | None]) -> None:
        self.function, self.misc = function, misc

    @property
    def state(self) -> InterruptState:
        return self.function.state.interrupts

    # --- causes -----------------------------------------------------------------------------------------------

    def raise_vector(self, vector: int, now: int) -> None:
        self._raise(1 << vector, now)

    def raise_other(self, bits: int) -> None:
        """Bits of EICR above 15."""
        self._raise(bits << OTHER, self.function.slot.now)

    def raise_misc(self) -> None:
        """The mailbox of a virtual function."""
        vector = self.misc()
        if vector is not None:
            self._raise(1 << vector, self.function.slot.now)

    def _raise(self, causes: int, now: int) -> None:
        s = self.state
        s.causes |= causes
        s.armed |= causes
        self.update(now)

    # --- registers --------------------------------------------------------------------------------------------

    def cause_register(self) -> int:
        s = self.state
        return s.causes & QUEUE_BITS | s.causes >> OTHER & OTHER_BITS

    def read_causes(self, cleared: int = 0xFFFF_FFFF) -> int:
        """EICR: reading clears it, or these bits of it; masks what EIAM says."""
        s, value = self.state, self.cause_register()
        self.clear(cleared)
        if not self.function.chip[reg.GPIE] & reg.GPIE_AUTO_MASK:
            s.mask &= ~s.auto_mask
        return value

    def clear(self, value: int) -> None:
        """EICR: writing ones clears them."""
        self.state.causes &= ~cause_bits(value)
        self.update(self.function.slot.now)

    def set(self, causes: int) -> None:
        """EICS."""
        self._raise(causes, self.function.slot.now)

    def unmask(self, causes: int) -> None:
        """EIMS. A cause that stands is told now."""
        s = self.state
        s.armed |= s.causes & causes & ~s.mask
        s.mask |= causes
        self.update(self.function.slot.now)

    def remask(self, causes: int) -> None:
        """EIMC."""
        self.state.mask &= ~causes
        self.update(self.function.slot.now)

    def mask_register(self) -> int:
        s = self.state
        return s.mask & QUEUE_BITS | s.mask >> OTHER & OTHER_BITS

    def read_interval(self, vector: int) -> int:
        """EITR, with what is left of the interval that runs in bits 27:21."""
        s = self.state
        value = s.interval.get(vector, 0)
        left = max(s.quiet.get(vector, 0) - self.function.slot.now, 0) // self._span(1)
        return value & reg.EITR_INTERVAL | min(left >> 2, 0x7F) << 21

    def write_interval(self, vector: int, value: int) -> None:
        s = self.state
        s.interval[vector] = value & reg.EITR_INTERVAL
        if not value & reg.EITR_KEEP_COUNTER:
            s.quiet[vector] = self.function.slot.now + self._span((value >> 21 & 0x7F) << 2)
        self.update(self.function.slot.now)

    def _span(self, units: int) -> int:
        return units * UNIT_NS * self.function.chip.tsc_hz // 10**6

    # --- messages ---------------------------------------------------------------------------------------------

    def _by_vector(self, causes: int) -> dict[int, int]:
        """Who tells of these causes: vector, and which of them are its own."""
        found = {bit: 1 << bit for bit in bits(causes & ALL_VECTORS)}
        misc = self.misc()
        if causes > ALL_VECTORS and misc is not None:
            found[misc] = found.get(misc, 0) | causes & ~ALL_VECTORS
        return found

    def update(self, now: int) -> None:
        """Send what may be sent."""
        if not self.function.msix.enabled:
            self._drive_pin(now)
            return
        s = self.state
        if s.pin:
            s.pin = False
            self.function.slot.interrupt(False)
        ready = s.armed & s.causes & s.mask
        if not ready:
            return
        for vector, told in sorted(self._by_vector(ready).items()):
            if s.quiet.get(vector, 0) <= now:
                self._send(vector, told, now)
            else:
                self.function.slot.reschedule()

    def _send(self, vector: int, told: int, now: int) -> None:
        s = self.state
        s.armed &= ~told
        s.causes &= ~((s.auto_clear | ALWAYS_CLEARED) & told)
        if self.function.chip[reg.GPIE] & reg.GPIE_AUTO_MASK:
            s.mask &= ~(s.auto_mask & told)
        s.quiet[vector] = now + self._span(s.interval.get(vector, 0) >> 3)
        self.function.msix.fire(vector)

    def _drive_pin(self, now: int) -> None:
        s = self.state
        level = bool(self.cause_register() & self.mask_register())
        if level and not s.pin and s.quiet.get(0, 0) > now:
            self.function.slot.reschedule()
            return
        if level and not s.pin:
            s.quiet[0] = now + self._span(s.interval.get(0, 0) >> 3)
        s.pin = level
        self.function.slot.interrupt(level)

    @property
    def deadline(self) -> int | None:
        """When the first interval is over that something waits for."""
        s = self.state
        if not s.causes & s.mask:
            return None
        if not self.function.msix.enabled:
            waits = self.cause_register() & self.mask_register() and not s.pin
            return s.quiet.get(0, 0) if waits else None
        ready = s.armed & s.causes & s.mask
        return min((s.quiet.get(vector, 0) for vector in self._by_vector(ready)), default=None)
