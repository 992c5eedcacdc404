"""Flow control of the 82540EM (8254x manual, 8.6; IEEE 802.3 annex 31B): PAUSE frames, taken and given."""

from __future__ import annotations

from collections.abc import Callable

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.chip import Chip
from hv.devices.e1000.phy import Phy
from hv.devices.e1000.statistics import Statistics
from hv.silicon.ethernet.frames import NS_PER_BYTE

PAUSE = b"\x00\x01"  # the opcode
QUANTUM_BYTES = 64  # the unit of a pause's length: 512 bit times


class Flow:
    """`send(frame)` sends a frame of the chip's own."""

    def __init__(self, chip: Chip, statistics: Statistics, phy: Phy, send: Callable[[bytes], None]) -> None:
        self.chip, self.statistics, self.phy, self.send = chip, statistics, phy, send

    def _address(self, low: int, high: int) -> bytes:
        return self.chip[low].to_bytes(4, "little") + (self.chip[high] & 0xFFFF).to_bytes(2, "little")

    def take(self, frame: bytes) -> bool:
        """Obey a PAUSE frame. True when it is not for software."""
        chip = self.chip
        if frame[12:14] != chip[reg.FCT].to_bytes(2, "big") or not chip[reg.FCT]:
            return False
        ours = frame[:6] in (self._address(reg.FCAL, reg.FCAH), self._address(reg.RAL0, reg.RAH0))
        if not ours or frame[14:16] != PAUSE:
            if ours:
                self.statistics.count(reg.FCRUC)
            return False
        quanta = int.from_bytes(frame[16:18], "big")
        self.statistics.count(reg.XOFFRXC if quanta else reg.XONRXC)
        if chip[reg.CTRL] & reg.CTRL_RFCE:
            if quanta:
                time = chip.span(quanta * QUANTUM_BYTES * NS_PER_BYTE[self.phy.speed])
                chip.start("pause", chip.now + time)
            else:
                chip.stop("pause")
                chip.start("fetch", chip.now)  # in loopback the transmitter may be at work this very moment
        return not chip[reg.RCTL] & reg.RCTL_PMCF or bool(chip[reg.RCTL] & reg.RCTL_DPF)

    def watch(self, held: int) -> None:
        """The receive FIFO holds so many bytes: ask the partner to pause, or to go on."""
        chip, s = self.chip, self.chip.state
        if not chip[reg.CTRL] & reg.CTRL_TFCE:
            return
        if not s.asked_to_pause and chip[reg.FCRTH] and held >= chip[reg.FCRTH]:
            s.asked_to_pause = True
            self.ask(True)
        elif s.asked_to_pause and held < (chip[reg.FCRTL] & 0xFFF8):
            s.asked_to_pause = False
            if chip[reg.FCRTL] & reg.FCRTL_XONE:
                self.ask(False)

    def ask(self, off: bool) -> None:
        """Send XOFF or XON."""
        chip = self.chip
        self.statistics.count(reg.XOFFTXC if off else reg.XONTXC)
        quanta = chip[reg.FCTTV] if off else 0
        kind = chip[reg.FCT].to_bytes(2, "big") + PAUSE + quanta.to_bytes(2, "big")
        self.send(self._address(reg.FCAL, reg.FCAH) + self._address(reg.RAL0, reg.RAH0) + kind)
