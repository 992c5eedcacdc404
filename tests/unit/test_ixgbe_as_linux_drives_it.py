"""The physical function of the 82599 as Linux's ixgbe finds it (tests/linux_ixgbe.py)."""

from __future__ import annotations

from itertools import count

import pytest

from tests.ixgbe_host import ENABLE, MAC, OUTSIDE, SHARE, Driver, Host, frame_to
from tests.linux_ixgbe import (
    AUTOC,
    EEC,
    EICR,
    EICS,
    EICS_EX,
    EIMC,
    EIMS,
    EIMS_EX,
    FCTRL,
    HLREG0,
    I2CCTL,
    IVAR,
    LINK_UP,
    SCL,
    SCL_IN,
    SDA,
    STATUS,
    SW_FW_SYNC,
    TEN_GIGABIT,
    Ixgbe,
)


@pytest.fixture
def ixgbe() -> Ixgbe:
    return Ixgbe(Host())


def test_the_eeprom_says_how_long_it_is_and_adds_up(ixgbe: Ixgbe) -> None:
    assert ixgbe.get(EEC) & 0x100  # there is one
    total = sum(ixgbe.word(at) for at in range(0x40))
    for pointer in map(ixgbe.word, range(3, 0xF)):
        if pointer not in (0, 0xFFFF):
            total += sum(ixgbe.word(pointer + 1 + i) for i in range(ixgbe.word(pointer)))
    assert total & 0xFFFF == 0xBABA
    assert ixgbe.word((1 << (ixgbe.get(EEC) >> 11 & 15) + 6) - 1) == 0xFFFF  # its last word, erased


def test_firmware_is_new_enough_for_a_card_with_a_cage(ixgbe: Ixgbe) -> None:
    patches = ixgbe.word(ixgbe.word(0xF) + 4)
    assert patches not in (0, 0xFFFF)
    assert ixgbe.word(patches + 7) > 5


def test_the_module_in_the_cage_is_one_that_the_driver_takes(ixgbe: Ixgbe) -> None:
    base = ixgbe.module(0, 128)
    assert base is not None
    assert base[0] == 3  # SFP
    assert (base[3], base[6], base[8]) == (0x10, 0, 0)  # 10GBASE-SR, nothing at 1 Gb/s, no cable
    assert base[37:40] == b"\x00\x1b\x21"
    assert base[63] == sum(base[:63]) & 0xFF
    assert base[95] == sum(base[64:95]) & 0xFF
    assert ixgbe.module(20, 10) == b"Intel Corp"
    assert ixgbe.module(255, 2) == bytes((0, 3))  # it goes on at the beginning
    assert base[92] == 0  # no diagnostics,
    assert ixgbe.module(0, device=0xA2) is None  # so nobody is there


def test_the_module_ignores_what_is_written_to_it(ixgbe: Ixgbe) -> None:
    ixgbe.start()
    assert ixgbe.tell(0xA0)
    assert ixgbe.tell(3)
    assert not ixgbe.tell(0xFF)
    ixgbe.stop()
    assert ixgbe.module(3) == b"\x10"


def test_a_reset_lets_go_of_the_modules_wires(ixgbe: Ixgbe) -> None:
    ixgbe.start()
    ixgbe.tell(0xA0)
    ixgbe.reset()
    assert ixgbe.get(I2CCTL) & (SCL_IN | SCL | SDA) == SCL_IN | SCL | SDA
    assert ixgbe.module(3) == b"\x10"


def test_the_eeprom_knows_how_to_set_the_module_up(ixgbe: Ixgbe) -> None:
    at = ixgbe.word(0x2B) + 1
    modules = {}
    while (kind := ixgbe.word(at)) != 0xFFFF:
        modules[kind] = ixgbe.word(at + 1)
        at += 2
    ixgbe.take(8)
    for at in count(modules[5] + 1):  # 5: SR or LR, port 0
        value = ixgbe.word(at)
        if value == 0xFFFF:
            break
        ixgbe.set(0x14F00, value)
    ixgbe.give_back(8)
    ixgbe.restart_link()
    assert ixgbe.get(AUTOC) >> 13 & 7 == 3  # a serial line at 10 Gb/s, as before


def test_there_is_no_phy_at_any_address(ixgbe: Ixgbe) -> None:
    """Its identification reads as ones; an address cycle comes first."""
    for address in range(32):
        for command in (0, 3 << 26):
            ixgbe.set(0x425C, 2 | 1 << 16 | address << 21 | command | 1 << 30)
            ixgbe.wait(0x425C, 1 << 30, 0)
        assert ixgbe.get(0x4260) >> 16 == 0xFFFF


def test_resources_are_taken_and_given_back(ixgbe: Ixgbe) -> None:
    ixgbe.take(1)
    assert ixgbe.get(SW_FW_SYNC) == 1
    ixgbe.take(2)
    ixgbe.give_back(1)
    assert ixgbe.get(SW_FW_SYNC) == 2
    with pytest.raises(AssertionError):
        ixgbe.take(2)


def test_a_reset_takes_its_steps_and_the_link_is_there(ixgbe: Ixgbe) -> None:
    ixgbe.reset()
    assert ixgbe.link() & (LINK_UP | TEN_GIGABIT) == LINK_UP | TEN_GIGABIT
    low, high = ixgbe.get(0xA200), ixgbe.get(0xA204)
    assert (low.to_bytes(4, "little") + high.to_bytes(4, "little"))[:6] == MAC
    assert high >> 31


def test_leds_may_be_switched_while_the_link_is_forced_up(ixgbe: Ixgbe) -> None:
    ixgbe.set(AUTOC, ixgbe.get(AUTOC) | 1 << 12 | 1)  # FLU
    ixgbe.set(0x200, 0x8F)
    assert ixgbe.get(0x200) == 0x8F
    ixgbe.set(AUTOC, ixgbe.get(AUTOC) & ~1)
    ixgbe.restart_link()


PATTERNS = (0x5A5A_5A5A, 0xA5A5_A5A5, 0, 0xFFFF_FFFF)
# Registers, bits that are written, bits that then are there (ixgbe_ethtool.c, reg_test_82599).
SELF_TEST = (
    ([0x3220], 0x8007_FFF0, 0x8007_FFF0), ([0x3260], 0x8007_FFF0, 0x8007_FFF0), ([0x3008], 0xFFFF_FFFF, 0xFFFF_FFFF),
    ([0x5088], 0, 0), (range(0x1000, 0x1100, 0x40), 0xFFFF_FF80, 0xFFFF_FF80),
    (range(0x1004, 0x1100, 0x40), 0xFFFF_FFFF, 0xFFFF_FFFF), (range(0x1008, 0x1100, 0x40), 0xF_FFFF, 0xF_FF80),
    (range(0x1018, 0x1100, 0x40), 0xFFFF, 0xFFFF), ([0x3228], 0x8007_FFF0, 0x8007_FFF0),
    ([0x3200], 0xFFFF_FFFF, 0xFFFF_FFFF), (range(0x6000, 0x6100, 0x40), 0xFFFF_FFFF, 0xFFFF_FF80),
    (range(0x6004, 0x6100, 0x40), 0xFFFF_FFFF, 0xFFFF_FFFF), (range(0x6008, 0x6100, 0x40), 0xF_FF80, 0xF_FF80),
    (range(0x5400, 0x5480, 8), 0xFFFF_FFFF, 0xFFFF_FFFF), (range(0x5404, 0x5480, 8), 0x800C_FFFF, 0x8001_FFFF),
    (range(0x5200, 0x5400, 4), 0xFFFF_FFFF, 0xFFFF_FFFF),
)  # fmt: skip


def test_its_registers_pass_the_drivers_self_test(ixgbe: Ixgbe) -> None:
    status = ixgbe.get(STATUS)
    ixgbe.set(STATUS, 0x7FFF_F30F)
    assert ixgbe.get(STATUS) == status
    for registers, written, kept in SELF_TEST:
        for offset in registers:
            before = ixgbe.get(offset)
            for pattern in PATTERNS:
                ixgbe.set(offset, pattern & written)
                assert ixgbe.get(offset) == pattern & written & kept, hex(offset)
                ixgbe.set(offset, before)


def test_each_cause_interrupts_alone_by_the_pin(ixgbe: Ixgbe) -> None:
    host = ixgbe.host
    ixgbe.set(EIMC, 0xFFFF_FFFF)
    for number in range(10):
        cause = 1 << number
        others = ~cause & 0x7FFF
        ixgbe.set(EIMC, others)
        ixgbe.set(EICS, others)
        assert not host.pin()
        ixgbe.get(EICR)
        ixgbe.set(EIMS, cause)
        ixgbe.set(EICS, cause)
        assert host.pin()
        assert ixgbe.get(EICR) & cause
        assert not host.pin()
    ixgbe.set(EIMC, 0xFFFF_FFFF)


def test_frames_come_back_in_the_self_tests_loopback(ixgbe: Ixgbe) -> None:
    driver = ixgbe.open()
    ixgbe.set(HLREG0, ixgbe.get(HLREG0) | 1 << 15)
    ixgbe.set(FCTRL, ixgbe.get(FCTRL) | 1 << 10 | 1 << 8 | 1 << 1)
    ixgbe.set(AUTOC, ixgbe.get(AUTOC) | 1)
    frames = [b"\xff" * 512 + bytes([number]) * 512 for number in range(8)]
    for frame in frames:
        driver.send(frame)
    ixgbe.host.pass_time()
    assert driver.taken() == frames
    assert not ixgbe.host.sent


def test_traffic_interrupts_until_it_is_polled_and_then_again(ixgbe: Ixgbe) -> None:
    """The message masks its vector (EIAM) and clears the cause (EIAC); the end of polling unmasks it (EIMS_EX)."""
    ixgbe.reset()
    driver = ixgbe.open()
    driver.send(frame_to(OUTSIDE, MAC))
    assert ixgbe.messages() == [0]
    ixgbe.host.receive(frame_to(MAC))
    assert ixgbe.messages() == []  # it is being polled
    assert driver.taken() == [frame_to(MAC)]
    ixgbe.set(EIMS_EX, 1)
    assert ixgbe.messages() == [0]  # what came meanwhile
    ixgbe.set(EIMS_EX, 1)
    assert ixgbe.messages() == []
    ixgbe.set(EICS_EX, 1)  # the watchdog asks
    assert ixgbe.messages() == [0]


def test_a_queue_with_a_vector_above_15_does_not_interrupt_for_ever(ixgbe: Ixgbe) -> None:
    """EICR has no bit for it, so its cause goes with the message."""
    driver = ixgbe.open(vectors=18)
    ixgbe.set(IVAR, 0x9090)
    ixgbe.host.receive(frame_to(MAC))
    assert ixgbe.messages() == [16]
    assert driver.taken()
    ixgbe.set(EIMS_EX, 1 << 16)
    assert ixgbe.messages() == []
    ixgbe.host.receive(frame_to(MAC))
    assert ixgbe.messages() == [16]


def test_a_change_of_the_link_has_the_vector_of_everything_else(ixgbe: Ixgbe) -> None:
    """Its causes are read where reading clears nothing (EICS), and cleared by writing them."""
    ixgbe.open()
    ixgbe.restart_link()
    assert set(ixgbe.messages()) == {1}
    causes = ixgbe.get(EICS) & 0xFFFF_0000
    assert causes == 1 << 20
    ixgbe.set(EICR, causes)
    ixgbe.set(EIMS, 1 << 20 | 1 << 19)
    assert ixgbe.messages() == []
    assert not ixgbe.get(EICS) >> 16


def test_counters_are_read_once(ixgbe: Ixgbe) -> None:
    driver = ixgbe.open()
    ixgbe.host.receive(frame_to(MAC))
    driver.send(frame_to(OUTSIDE, MAC))
    ixgbe.host.pass_time()
    for offset, value in ((0x4074, 1), (0x4088, 64), (0x4080, 1), (0x4090, 64), (0x1030, 1), (0x8680, 1), (0x405C, 1)):
        assert ixgbe.get(offset) == value, hex(offset)
        ixgbe.get(offset + 4)
        assert ixgbe.get(offset) == 0, hex(offset)


def test_a_flush_of_a_queue_ends_by_itself(ixgbe: Ixgbe) -> None:
    for control in (0x1028, 0x6028):
        ixgbe.set(control, ENABLE | 1 << 26)
        assert ixgbe.get(control) == ENABLE


def test_closed_it_is_silent_and_opened_again_it_works(ixgbe: Ixgbe) -> None:
    driver = ixgbe.open()
    ixgbe.stop_adapter()
    assert not ixgbe.get(0x1028) & ENABLE
    ixgbe.host.receive(frame_to(MAC))
    assert ixgbe.messages() == []
    assert driver.taken() == []
    ixgbe.reset()
    ixgbe.host.ram[:SHARE] = bytes(SHARE)
    driver = ixgbe.open()
    ixgbe.host.receive(frame_to(MAC))
    assert ixgbe.messages() == [0]
    assert driver.taken() == [frame_to(MAC)]


def test_the_owner_reads_what_a_virtual_function_counts(ixgbe: Ixgbe) -> None:
    host = ixgbe.host
    host.virtualize(2)
    one, other = Driver(host, 0), Driver(host, 1)
    for driver in (one, other):
        driver.start()
    one.send(frame_to(bytes((2, 0, 0, 0, 0, 0x11)), bytes((2, 0, 0, 0, 0, 0x10))))
    host.pass_time()
    assert [other.get(at) for at in (0x101C, 0x1020, 0x1024, 0x1034)] == [1, 64, 0, 0]
    assert [host.get(at + 0x40) for at in (0x101C, 0x1020, 0xD020, 0xD01C)] == [1, 64, 0, 0]
    assert [one.get(at) for at in (0x201C, 0x2020, 0x2024)] == [1, 64, 0]
    assert [host.get(at) for at in (0x8300, 0x8400, 0x8404)] == [1, 64, 0]
    assert [host.get(at) for at in (0x8304, 0x8408, 0x840C)] == [0, 0, 0]
