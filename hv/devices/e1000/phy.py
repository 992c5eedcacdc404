"""The PHY of the 82540EM, an 88E1011 (8254x manual, 8 and 13.4.8; IEEE 802.3 clause 22 for registers 0 to 15).

Its partner is a gigabit switch that can do everything. Simplified: negotiation takes NEGOTIATION_NS of virtual time
instead of seconds, so that nobody has to wait for it; no cable tests, no counters.
"""

from __future__ import annotations

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.chip import Chip
from hv.devices.e1000.interrupts import Interrupts

NEGOTIATION_NS = 1_000_000
ADDRESS = 1
MDIC_WRITE, MDIC_READ, MDIC_READY, MDIC_INTERRUPT, MDIC_ERROR = 1, 2, 1 << 28, 1 << 29, 1 << 30

CONTROL, STATUS, ID1, ID2, ADVERTISE, PARTNER, EXPANSION = 0, 1, 2, 3, 4, 5, 6
GIGABIT_CONTROL, GIGABIT_STATUS, EXTENDED_STATUS = 9, 10, 15
SPECIFIC_STATUS, INTERRUPT_ENABLE, INTERRUPT_STATUS = 17, 18, 19
RESET, LOOPBACK, NEGOTIATE, POWER_DOWN, RESTART = 1 << 15, 1 << 14, 1 << 12, 1 << 11, 1 << 9
STATUS_LINK, STATUS_NEGOTIATED = 1 << 2, 1 << 5
LINK_CHANGED, NEGOTIATION_DONE = 1 << 10, 1 << 11

# register: (value after a reset, bits that software may change)
REGISTERS: dict[int, tuple[int, int]] = {
    CONTROL: (0x1140, 0xFDC0),
    STATUS: (0x7949, 0),
    ID1: (0x0141, 0),
    ID2: (0x0C20, 0),
    ADVERTISE: (0x0DE1, 0xFFFF),
    PARTNER: (0x45E1, 0),
    EXPANSION: (0x0000, 0),
    7: (0x2001, 0xFFFF),  # next page to send
    8: (0x0000, 0),  # next page received
    GIGABIT_CONTROL: (0x0F00, 0xFFFF),
    GIGABIT_STATUS: (0x3C00, 0),
    EXTENDED_STATUS: (0x3000, 0),  # 1000BASE-T, full and half duplex
    16: (0x0078, 0xFFFF),  # PHY specific control
    SPECIFIC_STATUS: (0x0000, 0),
    INTERRUPT_ENABLE: (0x0000, 0xFFFF),
    INTERRUPT_STATUS: (0x0000, 0),
    20: (0x0CE4, 0xFFFF),  # extended PHY specific control
    21: (0x0000, 0),  # receive errors
    24: (0x4100, 0xFFFF),  # LED control
    29: (0x0000, 0x001F),  # page of register 30
    30: (0x0000, 0xFFFF),
}


class Phy:
    """Registers behind MDIC; `speed` and `link` for the MAC."""

    def __init__(self, chip: Chip, interrupts: Interrupts) -> None:
        self.chip, self.interrupts = chip, interrupts

    def __getitem__(self, register: int) -> int:
        return self.chip.state.phy.get(register, REGISTERS[register][0])

    @property
    def link(self) -> bool:
        """The link as the MAC sees it: CTRL.SLU lets it through."""
        return self.chip.state.phy_link and bool(self.chip[reg.CTRL] & reg.CTRL_SLU)

    @property
    def speed(self) -> int:
        """0: 10, 1: 100, 2: 1000 Mb/s; what was negotiated, or what the MAC is forced to."""
        if self.chip[reg.CTRL] & reg.CTRL_FRCSPD:
            return min(self.chip[reg.CTRL] >> reg.CTRL_SPEED_SHIFT & 3, 2)
        if not self[CONTROL] & NEGOTIATE:
            return min(self[CONTROL] >> 5 & 2 | self[CONTROL] >> 13 & 1, 2)
        if self[GIGABIT_CONTROL] & 0x0300:
            return 2
        return int(bool(self[ADVERTISE] & 0x0180))

    @property
    def looped(self) -> bool:
        return bool(self[CONTROL] & LOOPBACK)

    def write_mdic(self, value: int) -> None:
        """A management frame. The answer is there at once."""
        operation, address, register = value >> 26 & 3, value >> 21 & 31, value >> 16 & 31
        error = address != ADDRESS or operation not in (MDIC_READ, MDIC_WRITE)
        value &= ~(MDIC_READY | MDIC_ERROR)
        if error:
            value |= MDIC_ERROR
        elif operation == MDIC_READ:
            value = value & ~0xFFFF | self._read(register)
        else:
            self._write(register, value & 0xFFFF)
        self.chip[reg.MDIC] = value | MDIC_READY
        if value & MDIC_INTERRUPT:
            self.interrupts.raise_cause(reg.MDAC)

    def _read(self, register: int) -> int:
        if register not in REGISTERS:
            return 0
        value = self[register]
        phy = self.chip.state.phy
        up = self.chip.state.phy_link
        if register == STATUS:
            value |= (STATUS_NEGOTIATED if up and self[CONTROL] & NEGOTIATE else 0) | (STATUS_LINK if up else 0)
            if self.chip.state.link_was_lost:
                value &= ~STATUS_LINK  # a loss is shown once, even if the link is back
            self.chip.state.link_was_lost = False
        elif register == SPECIFIC_STATUS:
            value = (self.speed << 14 | 0x2000 | 0x0800 | 0x0400) if up else 0  # full duplex, resolved, link
        elif register == INTERRUPT_STATUS:
            phy[register] = 0
        elif register == EXPANSION:
            value = 0x0001 if up else 0  # the partner can negotiate
        return value

    def _write(self, register: int, value: int) -> None:
        if register not in REGISTERS:
            return
        writable = REGISTERS[register][1]
        phy = self.chip.state.phy
        if register == CONTROL and value & RESET:
            self.reset()
            return
        before = self[register]
        phy[register] = before & ~writable | value & writable
        if register == CONTROL:
            phy[register] &= ~RESTART
            if value & POWER_DOWN:
                self.chip.stop("link")
                self.change_link(False)
            elif value & RESTART or (before ^ value) & (POWER_DOWN | NEGOTIATE | 0x2140):
                self._negotiate()

    def reset(self) -> None:
        """Back to the start, and a new negotiation."""
        self.chip.state.phy.clear()
        self._negotiate()

    def _negotiate(self) -> None:
        self.change_link(False)
        self.chip.start("link", self.chip.now + self.chip.span(NEGOTIATION_NS))

    def change_link(self, up: bool) -> None:
        """The cable says something else than before."""
        s = self.chip.state
        if s.phy_link == up:
            return
        s.phy_link = up
        if not up:
            s.link_was_lost = True
        s.phy[INTERRUPT_STATUS] = self[INTERRUPT_STATUS] | LINK_CHANGED | (NEGOTIATION_DONE if up else 0)
        told = self[INTERRUPT_STATUS] & self[INTERRUPT_ENABLE]
        self.interrupts.raise_cause(
            (reg.PHYINT if told else 0) | (reg.LSC if self.chip[reg.CTRL] & reg.CTRL_SLU else 0)
        )
