"""The registers of the physical function: what a read or a write does besides keeping a value (8.2.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe.eeprom import ERASED
from hv.silicon.ixgbe.interrupts import QUEUE_BITS, cause_bits
from hv.silicon.ixgbe.mailbox import WORDS
from hv.silicon.ixgbe.rings import DCA, SPLIT, STRIDE, Ring, read_ring
from hv.silicon.ixgbe.statistics import COUNTERS, POOL_COUNTERS, QPTC_ALIAS

if TYPE_CHECKING:
    from hv.silicon.ixgbe.card import IxgbePhysical

MDI_COMMAND = 1 << 30  # MSCA
EEPROM_REQUEST, EEPROM_GRANT = 1 << 6, 1 << 7  # EEC
TABLES = ("RAL", "RAH", "MPSAR", "VMOLR", "VLVF", "VLVFB")  # that say who gets a frame


def queue_at(offset: int) -> tuple[bool, int, int] | None:
    """Which queue's register an offset is: of a receive queue?, its number, the distance from its first register."""
    for base, first, count, receive in (
        (reg.RX_RINGS, 0, 64, True), (reg.RX_RINGS_HIGH, 64, 64, True), (reg.TX_RINGS, 0, reg.QUEUES, False),
    ):  # fmt: skip
        if base <= offset < base + STRIDE * count:
            return receive, first + (offset - base) // STRIDE, offset % STRIDE
    for base, at in ((reg.SRRCTL_LOW, SPLIT), (reg.DCA_RXCTRL_LOW, DCA)):
        if base <= offset < base + 4 * 16:
            return True, (offset - base) // 4, at
    return None


class PhysicalRegisters:
    """Reads and writes by offset in window 0."""

    def __init__(self, card: IxgbePhysical) -> None:
        self.card, self.chip = card, card.chip
        chip, interrupts, boxes = card.chip, card.interrupts, card.mailboxes
        self.on_read: dict[int, Callable[[], int]] = {
            reg.STATUS: self._status,
            reg.FRTIMER: lambda: card.slot.now * 1000 // chip.tsc_hz & 0xFFFF_FFFF,
            reg.I2CCTL: lambda: card.module.read(chip.state.module),
            reg.LINKS: lambda: reg.LINKS_VALUE,
            reg.ANLP1: lambda: reg.ANLP1_DETECTING if chip[reg.AUTOC] & reg.AUTOC_NEGOTIATES else 0,
            reg.SWSM: self._read_semaphore,
            reg.EICR: self._read_eicr,
            reg.EICS: interrupts.cause_register,
            reg.EIMS: interrupts.mask_register,
            reg.EIMC: interrupts.mask_register,
            reg.VFLRE: lambda: chip.state.resets & 0xFFFF_FFFF,
            reg.VFLRE_HIGH: lambda: chip.state.resets >> 32,
            **{reg.EIMS_EX + 4 * i: partial(self._mask_word, i) for i in range(2)},
            **{reg.EIMC_EX + 4 * i: partial(self._mask_word, i) for i in range(2)},
            **{reg.MBVFICR + 4 * i: partial(boxes.read_causes, i) for i in range(4)},
            **{reg.PFMAILBOX + 4 * vf: partial(boxes.read_pf, vf) for vf in range(reg.POOLS)},
            **{self.eitr(vector): partial(interrupts.read_interval, vector) for vector in range(reg.VECTORS)},
            **{at: partial(card.statistics.read, at) for at in COUNTERS},
            **{alias: partial(card.statistics.read, at) for alias, at in QPTC_ALIAS.items()},
            **{
                counter.physical + counter.step * pool: partial(card.statistics.read_pool, pool, counter)
                for counter in POOL_COUNTERS
                for pool in range(reg.POOLS)
            },
        }
        self.on_write: dict[int, Callable[[int], None]] = {
            reg.CTRL: self._write_ctrl,
            reg.CTRL_EXT: self._write_ctrl_ext,
            reg.EEC: self._write_eec,
            reg.EERD: self._write_eerd,
            reg.I2CCTL: lambda value: card.module.write(chip.state.module, value),
            reg.MSCA: self._write_msca,
            reg.AUTOC: self._write_autoc,
            reg.EICR: interrupts.clear,
            reg.EICS: lambda value: interrupts.set(cause_bits(value)),
            reg.EIMS: lambda value: interrupts.unmask(cause_bits(value)),
            reg.EIMC: lambda value: interrupts.remask(cause_bits(value)),
            reg.EIAC: self._write_eiac,
            reg.EIAM: self._write_eiam,
            reg.QDE: self._write_qde,
            **{reg.EICS_EX + 4 * i: partial(self._causes_word, interrupts.set, i) for i in range(2)},
            **{reg.EIMS_EX + 4 * i: partial(self._causes_word, interrupts.unmask, i) for i in range(2)},
            **{reg.EIMC_EX + 4 * i: partial(self._causes_word, interrupts.remask, i) for i in range(2)},
            **{reg.EIAM_EX + 4 * i: partial(self._write_eiam_ex, i) for i in range(2)},
            **{reg.VFLREC + 4 * i: partial(self._write_vflrec, i) for i in range(2)},
            **{reg.MBVFICR + 4 * i: partial(boxes.clear_causes, i) for i in range(4)},
            **{reg.PFMAILBOX + 4 * vf: partial(boxes.write_pf, vf) for vf in range(reg.POOLS)},
            **{self.eitr(vector): partial(interrupts.write_interval, vector) for vector in range(reg.VECTORS)},
            **{at: partial(self._write_table, at) for at, register in reg.AT.items() if register.name in TABLES},
            **{at: partial(self._write_switch, at) for at in (reg.DMATXCTL, reg.VFTE, reg.VFTE + 4, reg.VT_CTL)},
        }

    @staticmethod
    def eitr(vector: int) -> int:
        return reg.EITR + 4 * vector if vector < 24 else reg.EITR_HIGH + 4 * (vector - 24)

    # --- by offset --------------------------------------------------------------------------------------------

    def read(self, offset: int) -> int:
        """Where there is no register: 0."""
        offset = reg.ALIASES.get(offset, offset)
        special = self.on_read.get(offset)
        if special is not None:
            return special()
        found = queue_at(offset)
        if found is not None:
            receive, number, at = found
            return read_ring(self.chip.rx(number) if receive else self.chip.tx(number), at)
        word = offset - reg.PFMBMEM >> 2
        if 0 <= word < WORDS * reg.POOLS:
            return self.card.mailboxes[word // WORDS].words[word % WORDS]
        return self.chip[offset] if offset in reg.AT else 0

    def write(self, offset: int, value: int) -> None:
        offset = reg.ALIASES.get(offset, offset)
        special = self.on_write.get(offset)
        if special is not None:
            special(value)
            return
        found = queue_at(offset)
        if found is not None:
            receive, number, at = found
            ring: Ring = self.chip.rx(number) if receive else self.chip.tx(number)
            self.chip.owner(number).write_ring(ring, at, value)
            return
        word = offset - reg.PFMBMEM >> 2
        if 0 <= word < WORDS * reg.POOLS:
            self.card.mailboxes[word // WORDS].words[word % WORDS] = value
        elif offset in reg.AT:
            self.chip.store(offset, value)

    # --- general ----------------------------------------------------------------------------------------------

    def _status(self) -> int:
        vfs = self.card.enabled_vfs
        value = reg.STATUS_LINK_UP | vfs << reg.STATUS_VFS_SHIFT | (reg.STATUS_IOV if vfs else 0)
        return value | (0 if self.chip[reg.CTRL] & reg.CTRL_MASTER_DISABLE else reg.STATUS_MASTER)

    def _write_ctrl(self, value: int) -> None:
        if value & (reg.CTRL_RESET | reg.CTRL_LINK_RESET):
            self.card.reset_registers()
        else:
            self.chip.store(reg.CTRL, value)

    def _write_ctrl_ext(self, value: int) -> None:
        done = value & ~self.chip[reg.CTRL_EXT] & reg.PF_RESET_DONE
        self.chip.store(reg.CTRL_EXT, value)
        if done:
            self.card.mailboxes.reset_done()

    def _read_semaphore(self) -> int:
        """SWSM.SMBI: who reads 0 has it."""
        value = self.chip[reg.SWSM]
        self.chip[reg.SWSM] = value | reg.SEMAPHORE
        return value

    def _write_eec(self, value: int) -> None:
        self.chip.store(reg.EEC, value)
        granted = EEPROM_GRANT if value & EEPROM_REQUEST else 0
        self.chip[reg.EEC] = self.chip[reg.EEC] & ~EEPROM_GRANT | granted

    def _write_eerd(self, value: int) -> None:
        """Reading a word by its number. The answer is there at once."""
        if value & reg.EERD_START:
            word, words = value >> 2 & 0x3FFF, self.card.eeprom
            data = words[word] if word < len(words) else ERASED
            value = data << 16 | word << 2 | reg.EERD_DONE
        self.chip[reg.EERD] = value

    def _write_msca(self, value: int) -> None:
        """The management wires of a PHY. There is none: what is read is ones."""
        self.chip.store(reg.MSCA, value & ~MDI_COMMAND)
        if value & MDI_COMMAND:
            self.chip[reg.MSRWD] |= 0xFFFF_0000

    def _write_autoc(self, value: int) -> None:
        """The link is up again at once."""
        self.chip.store(reg.AUTOC, value & ~reg.AUTOC_RESTART)
        if value & reg.AUTOC_RESTART:
            self.card.interrupts.raise_other(reg.LINK_CHANGE)

    # --- interrupts -------------------------------------------------------------------------------------------

    def _read_eicr(self) -> int:
        """GPIE.OCD: the queues' causes stay. A virtual function's own register knows nothing of it."""
        queues_stay = self.chip[reg.GPIE] & reg.GPIE_OTHER_CLEAR_DISABLE
        return self.card.interrupts.read_causes(0x3FFF_0000 if queues_stay else 0xFFFF_FFFF)

    def _mask_word(self, word: int) -> int:
        return self.card.state.interrupts.mask >> 32 * word & 0xFFFF_FFFF

    def _causes_word(self, act: Callable[[int], None], word: int, value: int) -> None:
        act(value << 32 * word)

    def _write_eiac(self, value: int) -> None:
        self.chip.store(reg.EIAC, value)
        self.card.state.interrupts.auto_clear = self.chip[reg.EIAC] & QUEUE_BITS

    def _write_eiam(self, value: int) -> None:
        self.chip.store(reg.EIAM, value)
        s = self.card.state.interrupts
        s.auto_mask = s.auto_mask & ~cause_bits(0xFFFF_FFFF) | cause_bits(value)

    def _write_eiam_ex(self, word: int, value: int) -> None:
        self.chip.store(reg.EIAM_EX + 4 * word, value)
        s = self.card.state.interrupts
        s.auto_mask = s.auto_mask & ~(0xFFFF_FFFF << 32 * word) | value << 32 * word

    # --- virtual functions and queues -------------------------------------------------------------------------

    def _write_vflrec(self, word: int, value: int) -> None:
        self.chip.state.resets &= ~(value << 32 * word)

    def _write_qde(self, value: int) -> None:
        """What a queue does with frames for which it has no descriptors."""
        self.chip.store(reg.QDE, value & ~reg.QDE_WRITE)
        if value & reg.QDE_WRITE:
            self.chip.rx(value >> reg.QDE_QUEUE_SHIFT & 0x7F).drop = bool(value & reg.QDE_ENABLE)

    def _write_table(self, offset: int, value: int) -> None:
        """One of TABLES."""
        self.chip.store(offset, value)
        self.chip.tables_changed()

    def _write_switch(self, offset: int, value: int) -> None:
        """What lets queues send."""
        self.chip.store(offset, value)
        for function in self.chip.functions:
            function.transmitter.ring()
