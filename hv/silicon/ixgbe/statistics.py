"""Statistics of the card (8.2.3.23): counters that a read clears; a full one stays full."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import msgspec

from hv.silicon.ethernet.frames import BROADCAST, FCS
from hv.silicon.ethernet.register import ALL
from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe.chip import Chip, PoolCounters

SIZES = (64, 127, 255, 511, 1023)  # upper ends of the classes by length, with the FCS; the last class has the others
MPC, PRC64, GPRC, BPRC, MPRC, GPTC = 0x03FA0, 0x0405C, 0x04074, 0x04078, 0x0407C, 0x04080
GORC, GOTC, RUC, ROC, TOR, TPR, TPT = 0x04088, 0x04090, 0x040A4, 0x040AC, 0x040C0, 0x040D0, 0x040D4
PTC64, MPTC, BPTC, SSVPC = 0x040D8, 0x040F0, 0x040F4, 0x08780
QPRC, QBRC, QPRDC, QPTC, QBTC = 0x01030, 0x01034, 0x01430, 0x08680, 0x08700  # by counter: 16 of each
STRIDE = 0x40
WIDE = {GORC, GOTC, TOR} | {QBRC + STRIDE * i for i in range(16)} | {QBTC + 8 * i for i in range(16)}  # 36 bits
HIGHEST = 0xF  # what the upper half of one holds
COUNTERS = frozenset(
    {0x04000, 0x04004, 0x04008, 0x04010, 0x04034, 0x04038, 0x04040, 0x03F60, 0x03F68, 0x041A4, 0x041A8, 0x04120}
    | {*range(MPC, MPC + 32, 4), *range(PRC64, GPTC + 4, 4), RUC, 0x040A8, ROC, 0x040B0, 0x040B4, 0x040B8, 0x0CF90}
    | {TPR, TPT, *range(PTC64, BPTC + 4, 4), SSVPC, *range(QPTC, QPTC + 64, 4)}
    | {QPRC + STRIDE * i for i in range(16)} | {QPRDC + STRIDE * i for i in range(16)}
    | WIDE | {at + 4 for at in WIDE}
)  # fmt: skip
QPTC_ALIAS = {0x06030 + STRIDE * i: QPTC + 4 * i for i in range(16)}


class PoolCounter(msgspec.Struct, frozen=True):
    """A register of a virtual function's, and where the physical one has it: that of pool 0, and so many bytes on."""

    virtual: int
    physical: int
    step: int
    value: Callable[[PoolCounters], int]


# The 36 bits of the bytes are in two registers.
POOL_COUNTERS = (
    PoolCounter(0x101C, 0x0101C, 0x40, lambda pool: pool.received),
    PoolCounter(0x1020, 0x01020, 0x40, lambda pool: pool.received_bytes),
    PoolCounter(0x1024, 0x0D020, 0x40, lambda pool: pool.received_bytes >> 32 & 0xF),
    PoolCounter(0x1034, 0x0D01C, 0x40, lambda pool: pool.received_multicast),
    PoolCounter(0x201C, 0x08300, 4, lambda pool: pool.sent),
    PoolCounter(0x2020, 0x08400, 8, lambda pool: pool.sent_bytes),
    PoolCounter(0x2024, 0x08404, 8, lambda pool: pool.sent_bytes >> 32 & 0xF),
)


class Statistics:
    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def count(self, offset: int, amount: int = 1) -> None:
        counters = self.chip.state.counters
        total = counters.get(offset, 0) + amount
        if total <= ALL:
            counters[offset] = total
        elif offset in WIDE and counters.get(offset + 4, 0) < HIGHEST:
            counters[offset], counters[offset + 4] = total & ALL, counters.get(offset + 4, 0) + 1
        else:
            counters[offset] = ALL

    def read(self, offset: int) -> int:
        """Of the wide ones reading the upper half clears both."""
        counters = self.chip.state.counters
        value = counters.get(offset, 0)
        if offset not in WIDE:
            counters.pop(offset, None)
        if offset - 4 in WIDE:
            counters.pop(offset - 4, None)
        return value

    # --- the line ---------------------------------------------------------------------------------------------

    def sent(self, frame: bytes) -> None:
        """A frame, without its FCS, has left."""
        self._frame(frame, GPTC, PTC64, BPTC, MPTC, GOTC)
        self.count(TPT)

    def received(self, frame: bytes) -> None:
        """A good frame that passed the filters."""
        self._frame(frame, GPRC, PRC64, BPRC, MPRC, GORC)

    def seen(self, frame: bytes) -> None:
        """A frame of any kind came in."""
        self.count(TPR)
        self.count(TOR, len(frame) + FCS)

    def _frame(self, frame: bytes, all: int, first_size: int, broadcast: int, multicast: int, octets: int) -> None:
        length = len(frame) + FCS
        self.count(all)
        self.count(octets, length)
        self.count(first_size + 4 * bisect_left(SIZES, length))
        if frame[:6] == BROADCAST:
            self.count(broadcast)
        elif frame[0] & 1:
            self.count(multicast)

    # --- queues and pools -------------------------------------------------------------------------------------

    def _counter(self, mapping: int, queue: int) -> int:
        """Which of the 16 counters a queue has (RQSMR, TQSM)."""
        return self.chip[mapping + 4 * (queue >> 2)] >> 8 * (queue & 3) & 0xF

    def pool(self, number: int) -> PoolCounters:
        return self.chip.state.pools.setdefault(number, PoolCounters())

    def read_pool(self, number: int, counter: PoolCounter) -> int:
        return counter.value(self.pool(number)) & ALL

    def queue_received(self, queue: int, pool: int, frame: bytes) -> None:
        number, length, mine = self._counter(reg.RQSMR, queue), len(frame) + FCS, self.pool(pool)
        self.count(QPRC + STRIDE * number)
        self.count(QBRC + STRIDE * number, length)
        mine.received += 1
        mine.received_bytes += length
        mine.received_multicast += frame[0] & 1

    def queue_dropped(self, queue: int) -> None:
        self.count(QPRDC + STRIDE * self._counter(reg.RQSMR, queue))

    def queue_sent(self, queue: int, pool: int, frame: bytes) -> None:
        number, length, mine = self._counter(reg.TQSM, queue), len(frame) + FCS, self.pool(pool)
        self.count(QPTC + 4 * number)
        self.count(QBTC + 8 * number, length)
        mine.sent += 1
        mine.sent_bytes += length
