"""The registers of a virtual function (8.3): its own few, its queues, and the card's as far as they concern it.

Simplified: no registers for receive-side scaling (the 82599 has none for a virtual function either).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe.mailbox import WORDS
from hv.silicon.ixgbe.rings import STRIDE, Ring, read_ring
from hv.silicon.ixgbe.statistics import POOL_COUNTERS

if TYPE_CHECKING:
    from hv.silicon.ixgbe.card import IxgbeVirtual

CTRL, STATUS, LINKS, FRTIMER = 0x0000, 0x0008, 0x0010, 0x0048
EICR, EICS, EIMS, EIMC, EIAC, EIAM = 0x0100, 0x0104, 0x0108, 0x010C, 0x0110, 0x0114
IVAR, IVAR_MISC, RSCINT, MAILBOX_MEMORY, MAILBOX, PSRTYPE, EITR = 0x120, 0x140, 0x180, 0x200, 0x2FC, 0x300, 0x820
RX_RINGS, TX_RINGS = 0x1000, 0x2000
CAUSES = 0x7  # one bit a vector
STATUS_LINK_UP = reg.STATUS_LINK_UP
# Registers that keep what is written, with the bits that a write changes.
KEPT = {
    **{IVAR + 4 * i: 0x8383_8383 for i in range(4)}, IVAR_MISC: 0x83, PSRTYPE: 0xFFFF_FFFF, EIAC: CAUSES, EIAM: CAUSES,
    **{RSCINT + 4 * i: 0xFFFF_FFFF for i in range(3)},
}  # fmt: skip
COUNTERS = {counter.virtual: counter for counter in POOL_COUNTERS}


class VirtualRegisters:
    """Reads and writes by offset in window 0."""

    def __init__(self, card: IxgbeVirtual) -> None:
        self.card, self.chip = card, card.chip
        interrupts, boxes = card.interrupts, card.mailboxes
        self.on_read: dict[int, Callable[[], int]] = {
            STATUS: lambda: STATUS_LINK_UP,
            LINKS: lambda: reg.LINKS_VALUE,
            FRTIMER: lambda: card.slot.now * 1000 // self.chip.tsc_hz & 0xFFFF_FFFF,
            EICR: interrupts.read_causes,
            EICS: interrupts.cause_register,
            EIMS: interrupts.mask_register,
            EIMC: interrupts.mask_register,
            MAILBOX: lambda: boxes.read_vf(card.index),
        }
        self.on_write: dict[int, Callable[[int], None]] = {
            CTRL: self._write_ctrl,
            EICR: lambda value: interrupts.clear(value & CAUSES),
            EICS: lambda value: interrupts.set(value & CAUSES),
            EIMS: lambda value: interrupts.unmask(value & CAUSES),
            EIMC: lambda value: interrupts.remask(value & CAUSES),
            EIAC: lambda value: self._keep(EIAC, value),
            EIAM: lambda value: self._keep(EIAM, value),
            MAILBOX: lambda value: boxes.write_vf(card.index, value),
        }

    def read(self, offset: int) -> int:
        """Where there is no register: 0."""
        special = self.on_read.get(offset)
        if special is not None:
            return special()
        if offset in COUNTERS:
            return self.card.statistics.read_pool(self.card.index, COUNTERS[offset])
        ring = self._ring(offset)
        if ring is not None:
            return read_ring(ring, offset % STRIDE)
        word = offset - MAILBOX_MEMORY >> 2
        if 0 <= word < WORDS:
            return self.card.mailboxes[self.card.index].words[word]
        vector = offset - EITR >> 2
        if 0 <= vector < self.card.vectors:
            return self.card.interrupts.read_interval(vector)
        return self.card.state.registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        special = self.on_write.get(offset)
        if special is not None:
            special(value)
            return
        if offset >= RX_RINGS:
            ring = self._ring(offset)
            if ring is not None:
                self.card.write_ring(ring, offset % STRIDE, value)
            return
        word, vector = offset - MAILBOX_MEMORY >> 2, offset - EITR >> 2
        if 0 <= word < WORDS:
            self.card.mailboxes[self.card.index].words[word] = value
        elif 0 <= vector < self.card.vectors:
            self.card.interrupts.write_interval(vector, value)
        elif offset in KEPT:
            self._keep(offset, value)

    def _ring(self, offset: int) -> Ring | None:
        """The queue whose register this is, if the function has so many."""
        queues = self.card.queues()
        number = (offset & 0xFFF) // STRIDE
        if number >= len(queues) or not RX_RINGS <= offset < TX_RINGS + 0x1000:
            return None
        return self.chip.tx(queues[number]) if offset >= TX_RINGS else self.chip.rx(queues[number])

    def _keep(self, offset: int, value: int) -> None:
        self.card.state.registers[offset] = value & KEPT[offset]
        s = self.card.state.interrupts
        s.auto_clear = self.card.state.registers.get(EIAC, 0)
        s.auto_mask = self.card.state.registers.get(EIAM, 0)

    def _write_ctrl(self, value: int) -> None:
        if value & reg.CTRL_RESET:
            self.card.software_reset()
