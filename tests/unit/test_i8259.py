"""The 8259 pair, register by register (Intel 8259A data sheet), wired as in a PC."""

from __future__ import annotations

import pytest

from hv.silicon.i8259 import ElcrPort, PicPair, PicPort

MASTER, SLAVE = 0, 1
NON_SPECIFIC, SPECIFIC, ROTATE, ROTATE_SPECIFIC, SET_PRIORITY = 0x20, 0x60, 0xA0, 0xE0, 0xC0


class Bench:
    """Both chips, set up as a PC's, at vectors 0x20 and 0x28, nothing masked."""

    def __init__(self, *, icw4: int = 1) -> None:
        self.output = False
        self.changes: list[bool] = []
        self.pair = PicPair(self.changed)
        self.ports = [PicPort(self.pair, MASTER), PicPort(self.pair, SLAVE)]
        self.elcr = ElcrPort(self.pair)
        for chip, base, cascade in ((MASTER, 0x20, 4), (SLAVE, 0x28, 2)):
            for offset, value in ((0, 0x11), (1, base), (1, cascade), (1, icw4)):
                self.write(chip, offset, value)

    def changed(self, level: bool) -> None:
        self.output = level
        self.changes.append(level)

    def write(self, chip: int, offset: int, value: int) -> None:
        self.ports[chip].port_write(offset, 1, value)

    def read(self, chip: int, offset: int = 0) -> int:
        return self.ports[chip].port_read(offset, 1)

    def irr(self, chip: int) -> int:
        self.write(chip, 0, 0x0A)
        return self.read(chip)

    def isr(self, chip: int) -> int:
        self.write(chip, 0, 0x0B)
        return self.read(chip)

    def pulse(self, irq: int) -> None:
        self.pair.line(irq, False)
        self.pair.line(irq, True)

    def take(self) -> int:
        assert self.output
        return self.pair.acknowledge()


def test_before_it_is_set_up_it_is_quiet() -> None:
    seen: list[bool] = []
    pair = PicPair(seen.append)
    for irq in range(16):
        pair.line(irq, True)
    assert seen == []


def test_an_edge_is_one_interrupt_with_the_vector_of_its_input() -> None:
    bench = Bench()
    bench.pair.line(4, True)
    assert bench.irr(MASTER) == 0x10
    assert bench.take() == 0x24
    assert not bench.output
    assert (bench.irr(MASTER), bench.isr(MASTER)) == (0, 0x10)
    bench.write(MASTER, 0, NON_SPECIFIC)
    assert bench.isr(MASTER) == 0
    assert not bench.output  # still high, but no new edge


def test_the_slave_is_heard_through_the_master_s_input_2() -> None:
    bench = Bench()
    bench.pair.line(11, True)
    assert bench.irr(MASTER) == 4
    assert bench.take() == 0x2B
    assert (bench.isr(MASTER), bench.isr(SLAVE)) == (4, 8)


def test_input_0_comes_first_and_interrupts_the_others() -> None:
    bench = Bench()
    bench.pulse(5)
    bench.pulse(3)
    assert bench.take() == 0x23
    assert not bench.output  # 5 waits for the end of 3
    bench.pulse(1)
    assert bench.take() == 0x21
    bench.write(MASTER, 0, NON_SPECIFIC)
    assert not bench.output
    bench.write(MASTER, 0, NON_SPECIFIC)
    assert bench.take() == 0x25


def test_a_masked_input_waits() -> None:
    bench = Bench()
    bench.write(MASTER, 1, 0x08)
    assert bench.read(MASTER, 1) == 0x08
    bench.pulse(3)
    assert not bench.output
    bench.write(MASTER, 1, 0)
    assert bench.take() == 0x23


@pytest.mark.parametrize(("irq", "vector"), [(3, 0x27), (11, 0x2F)])
def test_a_request_that_is_gone_is_the_spurious_interrupt(irq: int, vector: int) -> None:
    bench = Bench()
    bench.pair.line(irq, True)
    assert bench.output
    bench.pair.line(irq, False)
    if irq > 7:
        # The slave's fall reaches the master at once too: make the CPU ask in the very moment.
        bench.pair.line(irq, True)
        bench.pair.chips[SLAVE].line(irq & 7, False)
    assert bench.pair.acknowledge() == vector
    assert bench.isr(SLAVE) == 0
    assert bench.isr(MASTER) == (4 if irq > 7 else 0)  # the master knows nothing of it, and needs its end


def test_a_level_triggered_input_is_requested_as_long_as_it_is_high() -> None:
    bench = Bench()
    bench.elcr.port_write(1, 1, 0x0C)
    bench.pair.line(10, True)
    assert bench.take() == 0x2A
    for chip in (SLAVE, MASTER):
        bench.write(chip, 0, NON_SPECIFIC)
    assert bench.take() == 0x2A
    bench.pair.line(10, False)
    for chip in (SLAVE, MASTER):
        bench.write(chip, 0, NON_SPECIFIC)
    assert not bench.output


def test_timer_keyboard_cascade_clock_and_fpu_cannot_be_level_triggered() -> None:
    bench = Bench()
    bench.elcr.port_write(0, 2, 0xFFFF)
    assert (bench.elcr.port_read(0, 1), bench.elcr.port_read(1, 1)) == (0xF8, 0xDE)
    assert bench.elcr.port_read(0, 2) == 0xDEF8


def test_a_specific_end_of_interrupt_ends_that_one() -> None:
    bench = Bench()
    bench.pulse(5)
    bench.take()
    bench.pulse(1)
    bench.take()
    bench.write(MASTER, 0, SPECIFIC | 5)
    assert bench.isr(MASTER) == 0x02


def test_rotation_gives_the_one_that_was_served_the_lowest_priority() -> None:
    bench = Bench()
    bench.pulse(2 + 1)
    bench.take()
    bench.write(MASTER, 0, ROTATE)
    for irq in (3, 4):
        bench.pulse(irq)
    assert bench.take() == 0x24  # 3 is last now
    bench.write(MASTER, 0, ROTATE_SPECIFIC | 4)
    bench.write(MASTER, 0, SET_PRIORITY | 7)
    bench.pulse(0)
    assert bench.take() == 0x20


def test_automatic_end_of_interrupt_leaves_nothing_in_service() -> None:
    bench = Bench(icw4=3)
    for irq in (6, 5):
        bench.pulse(irq)
    assert bench.take() == 0x25
    assert bench.isr(MASTER) == 0
    assert bench.take() == 0x26


def test_automatic_rotation() -> None:
    bench = Bench(icw4=3)
    bench.write(MASTER, 0, 0x80)
    for irq in (0, 1):
        bench.pulse(irq)
    assert bench.take() == 0x20
    bench.pulse(0)
    assert bench.take() == 0x21
    bench.write(MASTER, 0, 0x00)
    assert bench.take() == 0x20


def test_special_mask_mode_lets_lower_ones_in_while_a_masked_one_is_in_service() -> None:
    bench = Bench()
    bench.pulse(1)
    bench.take()
    bench.pulse(6)
    bench.write(MASTER, 1, 0x02)
    assert not bench.output
    bench.write(MASTER, 0, 0x68)
    assert bench.take() == 0x26
    bench.write(MASTER, 0, NON_SPECIFIC)
    assert bench.isr(MASTER) == 0x02  # a masked one is not ended by it
    bench.write(MASTER, 0, 0x48)
    bench.pulse(6)
    assert not bench.output


def test_special_fully_nested_mode_lets_a_better_one_of_the_slave_in() -> None:
    plain, nested = Bench(), Bench(icw4=0x11)
    for bench, expected in ((plain, False), (nested, True)):
        bench.pulse(12)
        bench.take()
        bench.pulse(9)
        assert bench.output == expected


def test_poll_acknowledges_and_says_who() -> None:
    bench = Bench()
    bench.write(MASTER, 0, 0x0C)
    assert bench.read(MASTER) == 0
    bench.pulse(6)
    bench.write(MASTER, 0, 0x0C)
    assert bench.read(MASTER) == 0x86
    assert bench.isr(MASTER) == 0x40
    assert not bench.output


def test_initialization_forgets_requests_masks_and_what_is_in_service() -> None:
    bench = Bench()
    bench.pulse(1)
    bench.take()
    bench.pulse(5)
    bench.write(MASTER, 1, 0x80)
    bench.write(MASTER, 0, 0x13)  # single, with ICW4
    bench.write(MASTER, 1, 0x40)
    bench.write(MASTER, 1, 0x01)
    assert (bench.irr(MASTER), bench.isr(MASTER), bench.read(MASTER, 1)) == (0, 0, 0)
    bench.pair.line(5, True)
    assert not bench.output  # it was high before: an edge is needed
    bench.pulse(5)
    assert bench.take() == 0x45


def test_without_icw4_there_is_no_automatic_end() -> None:
    bench = Bench(icw4=3)
    bench.write(MASTER, 0, 0x10)
    bench.write(MASTER, 1, 0x20)
    bench.write(MASTER, 1, 4)
    bench.pulse(3)
    bench.take()
    assert bench.isr(MASTER) == 8
    assert bench.read(MASTER, 1) == 0


def test_wider_accesses_read_ones_above_the_register() -> None:
    bench = Bench()
    assert bench.ports[MASTER].port_read(1, 2) == 0xFF00


def test_a_snapshot_goes_on() -> None:
    bench, other = Bench(), Bench()
    bench.pulse(3)
    other.pair.state = bench.pair.state
    assert other.pair.acknowledge() == 0x23
