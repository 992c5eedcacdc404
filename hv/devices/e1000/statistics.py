"""Statistics of the 82540EM (13.7): counters that a read clears; a full one stays full."""

from __future__ import annotations

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.chip import Chip
from hv.silicon.ethernet.frames import BROADCAST, FCS
from hv.silicon.ethernet.register import ALL

WIDE = (reg.GORCL, reg.GOTCL, reg.TORL, reg.TOTL)  # 64 bits: reading the upper half clears both
SIZES = (64, 127, 255, 511, 1023)  # upper ends of the classes by length, with the FCS; the last class has the others


class Statistics:
    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def __getitem__(self, number: int) -> int:
        return self.chip[reg.STATISTICS + 4 * number]

    def count(self, number: int, amount: int = 1) -> None:
        at = reg.STATISTICS + 4 * number
        if number not in WIDE:
            self.chip[at] = min(self.chip[at] + amount, ALL)
            return
        total = min((self.chip[at] | self.chip[at + 4] << 32) + amount, ALL << 32 | ALL)
        self.chip[at], self.chip[at + 4] = total & ALL, total >> 32

    def read(self, offset: int) -> int:
        number = (offset - reg.STATISTICS) // 4
        value = self.chip[offset]
        if number not in WIDE:
            self.chip[offset] = 0
        if number - 1 in WIDE:
            self.chip[offset - 4] = 0
        return value

    def sent(self, frame: bytes) -> None:
        """A frame, without its FCS, has left."""
        self._frame(frame, reg.GPTC, reg.PTC64, reg.BPTC, reg.MPTC, reg.GOTCL)
        self.count(reg.TPT)
        self.count(reg.TOTL, len(frame) + FCS)

    def received(self, frame: bytes) -> None:
        """A good frame that passed the filters."""
        self._frame(frame, reg.GPRC, reg.PRC64, reg.BPRC, reg.MPRC, reg.GORCL)

    def seen(self, frame: bytes) -> None:
        """A frame of any kind came in."""
        self.count(reg.TPR)
        self.count(reg.TORL, len(frame) + FCS)

    def _frame(self, frame: bytes, all: int, first_size: int, broadcast: int, multicast: int, octets: int) -> None:
        length = len(frame) + FCS
        self.count(all)
        self.count(octets, length)
        self.count(first_size + sum(length > size for size in SIZES))
        if frame[:6] == BROADCAST:
            self.count(broadcast)
        elif frame[0] & 1:
            self.count(multicast)
