"""Interrupts of the 82540EM: causes, mask, throttling, delays of receive and transmit interrupts (13.4.16 to 20)."""

from __future__ import annotations

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.chip import Chip

THROTTLE_NS = 256  # unit of ITR
DELAY_NS = 1024  # unit of RDTR, RADV, TIDV, TADV


class Interrupts:
    """The pin is high while a cause that is not masked stands in ICR; with ITR, not before its interval is over."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def raise_cause(self, causes: int) -> None:
        self.chip[reg.ICR] |= causes & reg.CAUSES
        self.update()

    def read_cause(self) -> int:
        """ICR: reading it clears it."""
        value = self.chip[reg.ICR]
        self.chip[reg.ICR] = 0
        self.update()
        return value

    def clear_cause(self, causes: int) -> None:
        """ICR: writing ones clears them."""
        self.chip[reg.ICR] &= ~causes
        self.update()

    def mask(self, *, on: int = 0, off: int = 0) -> None:
        self.chip[reg.IMS] = (self.chip[reg.IMS] | on & reg.CAUSES) & ~off
        self.update()

    def update(self) -> None:
        """Drive the pin as causes, mask and throttling have it."""
        chip, s = self.chip, self.chip.state
        wanted = bool(chip[reg.ICR] & chip[reg.IMS])
        if wanted and not s.line and chip.now < s.quiet_until:
            chip.start("throttle", s.quiet_until)
            return
        if wanted and not s.line:
            s.quiet_until = chip.now + chip.span(THROTTLE_NS * chip[reg.ITR])
        if wanted != s.line:
            s.line = wanted
            chip.slot.interrupt(wanted)

    # --- delays: a packet timer that each packet starts anew, and an absolute one that only the first starts ----

    def received(self) -> None:
        """A packet is in memory: RXT0, now or later."""
        self._delay(reg.RXT0, reg.RDTR, reg.RADV, "receive")

    def transmitted(self, delay: bool) -> None:
        """A descriptor that wanted it (RS) is done: TXDW, now or, if it also said so (IDE), later."""
        if delay:
            self._delay(reg.TXDW, reg.TIDV, reg.TADV, "transmit")
        else:
            self.raise_cause(reg.TXDW)

    def _delay(self, cause: int, packet: int, absolute: int, name: str) -> None:
        chip = self.chip
        if not chip[packet]:
            self.raise_cause(cause)
            return
        chip.start(f"{name} packet", chip.now + chip.span(DELAY_NS * chip[packet]))
        if chip[absolute] and f"{name} absolute" not in chip.state.timers:
            chip.start(f"{name} absolute", chip.now + chip.span(DELAY_NS * chip[absolute]))

    def delay_over(self, name: str) -> None:
        """A delay has run out, or software wants its interrupt at once."""
        chip = self.chip
        for timer in (f"{name} packet", f"{name} absolute"):
            chip.stop(timer)
        self.raise_cause(reg.RXT0 if name == "receive" else reg.TXDW)
