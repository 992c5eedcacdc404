"""The two interrupt controllers of a PC, register level (Intel 8259A data sheet; ELCR: 82371SB data sheet).

The master's input 2 is the slave's output. Ports: 0x20 and 0x21, 0xA0 and 0xA1; ELCR 0x4D0 and 0x4D1. A request that is
gone when the CPU acknowledges is the spurious interrupt 7 (of the master) or 15 (of the slave).
Simplified: no MCS-80 mode, no buffered mode; the cascade is wired as a PC's, whatever ICW3 says.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

MASTER, SLAVE, MASTER_ELCR = 0x20, 0xA0, 0x4D0
CASCADE = 2  # the master's input that the slave's output leads to
SPURIOUS = 7
ICW1, ICW1_NEEDS_4, ICW1_SINGLE = 0x10, 1, 2
ICW4_AUTO_EOI, ICW4_FULLY_NESTED = 2, 0x10
OCW3, OCW3_POLL, OCW3_READ, OCW3_READ_ISR, OCW3_SET_MASK, OCW3_MASK = 8, 4, 2, 1, 0x40, 0x20
LEVEL_CAPABLE = (0xF8, 0xDE)  # inputs that ELCR can make level-triggered: not the timer, keyboard, cascade, RTC, FPU


class ChipState(msgspec.Struct):
    """Everything that one of the two remembers. Sets of inputs are bit masks."""

    levels: int = 0  # the inputs as they are
    irr: int = 0
    isr: int = 0
    imr: int = 0xFF  # the data sheet leaves it open; a chip that nobody has set up is quiet here
    elcr: int = 0
    base: int = 0  # vector of input 0
    first: int = 0  # input of the highest priority
    expects: list[int] = []  # initialization words that must come next
    read_isr: bool = False
    poll: bool = False
    special_mask: bool = False
    fully_nested: bool = False  # "special fully nested mode"
    auto_eoi: bool = False
    rotate: bool = False  # in automatic EOI


class _Chip:
    """One 8259A."""

    def __init__(self, state: ChipState, *, master: bool) -> None:
        self.s, self.master = state, master

    def line(self, number: int, level: bool) -> None:
        s, bit = self.s, 1 << number
        rises = level and not s.levels & bit
        s.levels = s.levels | bit if level else s.levels & ~bit
        if rises:
            s.irr |= bit
        elif not level:
            s.irr &= ~bit  # it must stay high until the acknowledgement

    def _rank(self, inputs: int) -> int:
        """How far the first of these inputs is from the highest priority; 8 when there is none."""
        return next((rank for rank in range(8) if inputs >> (self.s.first + rank & 7) & 1), 8)

    def request(self) -> int | None:
        """The input that interrupts now."""
        s = self.s
        serving = s.isr & ~s.imr if s.special_mask else s.isr
        if s.fully_nested and self.master:
            serving &= ~(1 << CASCADE)
        rank = self._rank(s.irr & ~s.imr)
        return (s.first + rank) & 7 if rank < self._rank(serving) else None

    def acknowledge(self, number: int) -> None:
        """The CPU takes this input's interrupt."""
        s, bit = self.s, 1 << number
        if not s.elcr & bit:
            s.irr &= ~bit
        if not s.auto_eoi:
            s.isr |= bit
        elif s.rotate:
            s.first = number + 1 & 7

    def _command(self, value: int) -> None:
        s = self.s
        if value & ICW1:
            s.irr, s.isr, s.imr, s.first = s.levels & s.elcr, 0, 0, 0
            s.read_isr = s.poll = s.special_mask = s.fully_nested = s.auto_eoi = s.rotate = False
            s.expects = [2] + [3] * (not value & ICW1_SINGLE) + [4] * bool(value & ICW1_NEEDS_4)
        elif value & OCW3:
            if value & OCW3_POLL:
                s.poll = True
            if value & OCW3_READ:
                s.read_isr = bool(value & OCW3_READ_ISR)
            if value & OCW3_SET_MASK:
                s.special_mask = bool(value & OCW3_MASK)
        else:
            self._end(value >> 5, value & 7)

    def _end(self, command: int, number: int) -> None:
        """OCW2: bits 7 to 5 are rotate, specific, end of interrupt."""
        s = self.s
        rotate, specific, end = command & 4, command & 2, command & 1
        if not end and not specific:
            s.rotate = bool(rotate)
            return
        if not specific:
            rank = self._rank(s.isr & ~s.imr if s.special_mask else s.isr)
            if rank == 8:
                return
            number = s.first + rank & 7
        if end:
            s.isr &= ~(1 << number)
        if rotate:
            s.first = number + 1 & 7

    def write(self, offset: int, value: int) -> None:
        s = self.s
        if offset == 0:
            self._command(value)
        elif not s.expects:
            s.imr = value
        else:
            word, *s.expects = s.expects
            if word == 2:
                s.base = value & 0xF8
            elif word == 4:
                s.auto_eoi, s.fully_nested = bool(value & ICW4_AUTO_EOI), bool(value & ICW4_FULLY_NESTED)

    def read(self, offset: int) -> int:
        s = self.s
        if s.poll:
            s.poll = False
            number = self.request()
            if number is None:
                return 0
            self.acknowledge(number)
            return 0x80 | number
        if offset:
            return s.imr
        return s.isr if s.read_isr else s.irr


class PicPair:
    """Both. `output(level)` is the CPU's INTR, directly or through a local APIC; acknowledge() is the CPU's INTA."""

    def __init__(self, output: Callable[[bool], None]) -> None:
        self.output = output
        self.chips = [_Chip(ChipState(), master=True), _Chip(ChipState(), master=False)]
        self._was = False

    @property
    def state(self) -> list[ChipState]:
        return [chip.s for chip in self.chips]

    @state.setter
    def state(self, state: list[ChipState]) -> None:
        for chip, saved in zip(self.chips, state, strict=True):
            chip.s = saved
        self._was = self.chips[0].request() is not None

    def line(self, irq: int, level: bool) -> None:
        """Drive IRQ 0 to 15; 2 is not a device's."""
        if irq != CASCADE:
            self.chips[irq >> 3].line(irq & 7, level)
            self._settle()

    def acknowledge(self) -> int:
        """INTA: the vector of the interrupt that the CPU takes now."""
        master, slave = self.chips
        number = master.request()
        vector = master.s.base + SPURIOUS
        if number is not None:
            master.acknowledge(number)
            vector = master.s.base + number
            if number == CASCADE:
                behind = slave.request()
                if behind is not None:
                    slave.acknowledge(behind)
                vector = slave.s.base + (SPURIOUS if behind is None else behind)
        self._settle()
        return vector

    def _settle(self) -> None:
        master, slave = self.chips
        master.line(CASCADE, slave.request() is not None)
        now = master.request() is not None
        if now != self._was:
            self._was = now
            self.output(now)

    def read(self, chip: int, offset: int) -> int:
        value = self.chips[chip].read(offset)
        self._settle()
        return value

    def write(self, chip: int, offset: int, value: int) -> None:
        self.chips[chip].write(offset, value & 0xFF)
        self._settle()

    def read_elcr(self, chip: int) -> int:
        return self.chips[chip].s.elcr

    def write_elcr(self, chip: int, value: int) -> None:
        """Edge or level, input by input. A level-triggered input is requested while it is high."""
        s = self.chips[chip].s
        s.elcr = value & LEVEL_CAPABLE[chip]
        s.irr |= s.levels & s.elcr
        self._settle()


class PicPort:
    """Two ports of one of the chips."""

    def __init__(self, pair: PicPair, chip: int) -> None:
        self.pair, self.chip = pair, chip

    def port_read(self, offset: int, size: int) -> int:
        return self.pair.read(self.chip, offset) | (1 << 8 * size) - 1 & ~0xFF

    def port_write(self, offset: int, size: int, value: int) -> None:
        self.pair.write(self.chip, offset, value)


class ElcrPort:
    """The two edge and level control registers."""

    def __init__(self, pair: PicPair) -> None:
        self.pair = pair

    def port_read(self, offset: int, size: int) -> int:
        both = self.pair.read_elcr(0) | self.pair.read_elcr(1) << 8
        return (both >> 8 * offset | ~(0xFFFF >> 8 * offset)) & (1 << 8 * size) - 1

    def port_write(self, offset: int, size: int, value: int) -> None:
        for chip in range(offset, min(offset + size, 2)):
            self.pair.write_elcr(chip, value >> 8 * (chip - offset) & 0xFF)
