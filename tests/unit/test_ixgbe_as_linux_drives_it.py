"""The physical function of the 82599, driven step by step as Linux's ixgbe drives it: what it reads, waits for, checks.

The steps are those of ixgbe_main.c, ixgbe_82599.c, ixgbe_common.c, ixgbe_phy.c and ixgbe_ethtool.c, which are much the
same in Intel's drivers for other systems; the numbers are written out here once more.
"""

from __future__ import annotations

from itertools import count

import pytest

from tests.ixgbe_host import ENABLE, MAC, OUTSIDE, PF, RX, SHARE, TX, US, Driver, Host, frame_to

CTRL, STATUS, CTRL_EXT, ESDP, I2CCTL = 0x0, 0x8, 0x18, 0x20, 0x28
EICR, EICS, EIAC, EIMS, EIMC, GPIE, IVAR, IVAR_MISC = 0x800, 0x808, 0x810, 0x880, 0x888, 0x898, 0x900, 0xA00
EICS_EX, EIMS_EX, EIMC_EX, EIAM_EX = 0xA90, 0xAA0, 0xAB0, 0xAD0
AUTOC, LINKS, ANLP1, HLREG0, FCTRL, RXCTRL, RDRXCTL = 0x42A0, 0x42A4, 0x42B0, 0x4240, 0x5080, 0x3000, 0x2F00
EEC, EERD, SWSM, SW_FW_SYNC, SECRXCTRL, SECRXSTAT = 0x10010, 0x10014, 0x10140, 0x10160, 0x8D00, 0x8D04
SDA_IN, SDA, SCL, SCL_IN = 4, 8, 2, 1
RESETS = 1 << 26 | 1 << 3
LINK_UP, TEN_GIGABIT = 1 << 30, 3 << 28


class Ixgbe:
    """The driver's small steps. Each fails as the driver's does: by an assertion."""

    def __init__(self, host: Host) -> None:
        self.host, self.get, self.set = host, host.get, host.set

    def wait(self, offset: int, mask: int, wanted: int, looks: int = 10) -> None:
        """Until the bits of `mask` are `wanted`, a millisecond between two looks."""
        for _ in range(looks):
            if self.get(offset) & mask == wanted:
                return
            self.host.pass_time(self.host.now + 1000 * US)
        raise AssertionError(f"{offset:#x} is {self.get(offset):#x}")

    # --- EEPROM and semaphores --------------------------------------------------------------------------------

    def word(self, at: int) -> int:
        assert at < 1 << (self.get(EEC) >> 11 & 15) + 6
        self.set(EERD, at << 2 | 1)
        self.wait(EERD, 2, 2)
        return self.get(EERD) >> 16

    def take(self, resource: int) -> None:
        """A resource that drivers and firmware share."""
        assert not self.get(SWSM) & 1
        self.set(SWSM, self.get(SWSM) | 2)
        assert self.get(SWSM) & 2
        held = self.get(SW_FW_SYNC)
        assert not held & (resource | resource << 5)
        self.set(SW_FW_SYNC, held | resource)
        self.set(SWSM, self.get(SWSM) & ~3)

    def give_back(self, resource: int) -> None:
        assert not self.get(SWSM) & 1
        self.set(SW_FW_SYNC, self.get(SW_FW_SYNC) & ~resource)
        self.set(SWSM, self.get(SWSM) & ~3)

    # --- the module, over two wires ---------------------------------------------------------------------------

    def wire(self, *, clock: bool, data: bool) -> None:
        self.set(I2CCTL, SCL * clock | SDA * data)
        if clock:
            assert self.get(I2CCTL) & SCL_IN  # nobody stretches it

    def start(self) -> None:
        for clock, data in ((False, True), (True, True), (True, False), (False, False)):
            self.wire(clock=clock, data=data)

    def stop(self) -> None:
        for clock, data in ((False, False), (True, False), (True, True)):
            self.wire(clock=clock, data=data)

    def clock(self, bit: int = 1) -> int:
        """One bit in either direction; who does not drive the wire leaves it high."""
        self.wire(clock=False, data=bool(bit))
        self.wire(clock=True, data=bool(bit))
        seen = bool(self.get(I2CCTL) & SDA_IN)
        self.wire(clock=False, data=bool(bit))
        return int(seen)

    def tell(self, byte: int) -> bool:
        """True: it is acknowledged."""
        for shift in range(7, -1, -1):
            assert self.clock(byte >> shift & 1) == byte >> shift & 1
        return not self.clock()

    def hear(self, *, more: bool = False) -> int:
        byte = 0
        for _ in range(8):
            byte = byte << 1 | self.clock()
        self.clock(0 if more else 1)
        return byte

    def module(self, at: int, length: int = 1, device: int = 0xA0) -> bytes | None:
        """Bytes of the module's memory. None: nobody answers."""
        self.start()
        if not self.tell(device):
            self.stop()
            return None
        assert self.tell(at)
        self.start()
        assert self.tell(device | 1)
        data = bytes(self.hear(more=i < length - 1) for i in range(length))
        self.stop()
        return data

    # --- reset and link ---------------------------------------------------------------------------------------

    def stop_adapter(self) -> None:
        """No receiving, no interrupts, no queues, no access to memory."""
        self.set(RXCTRL, self.get(RXCTRL) & ~1)
        self.mask_interrupts()
        for queue in range(128):
            self.set(0x6028 + 0x40 * queue, 1 << 26)
            at = 0x1028 + 0x40 * queue if queue < 64 else 0xD028 + 0x40 * (queue - 64)
            self.set(at, self.get(at) & ~ENABLE | 1 << 26)
        self.set(CTRL, self.get(CTRL) | 1 << 2)
        self.wait(STATUS, 1 << 19, 0)

    def mask_interrupts(self) -> None:
        self.set(EIMC, 0xFFFF_0000)
        for i in range(2):
            self.set(EIMC_EX + 4 * i, 0xFFFF_FFFF)
        self.get(EICR)

    def reset(self) -> None:
        self.stop_adapter()
        self.set(CTRL, self.get(CTRL) | 1 << 26)
        self.wait(CTRL, RESETS, 0)
        self.wait(EEC, 1 << 9, 1 << 9)
        self.wait(RDRXCTL, 1 << 3, 1 << 3)

    def link(self) -> int:
        """What LINKS says; a module must be in the cage."""
        assert self.get(ESDP) & 4
        self.get(LINKS)  # the old state
        return self.get(LINKS)

    def restart_link(self) -> None:
        """With the upper bit of LMS the other way round, until negotiation moves; then as it was."""
        autoc = self.get(AUTOC) | 1 << 12
        self.set(AUTOC, autoc ^ 1 << 15)
        for _ in range(10):
            if self.get(ANLP1) & 0xF_0000:
                break
            self.host.pass_time(self.host.now + 4000 * US)
        else:
            raise AssertionError("negotiation stays where it is")
        self.set(AUTOC, autoc)

    # --- up ---------------------------------------------------------------------------------------------------

    def halt_security(self) -> None:
        self.set(SECRXCTRL, self.get(SECRXCTRL) | 2)
        self.wait(SECRXSTAT, 1, 1)
        self.set(RXCTRL, self.get(RXCTRL) | 1)
        self.set(SECRXCTRL, self.get(SECRXCTRL) & ~2)

    def set_up_queue(self, queue: int, base: int) -> None:
        """A pair of queues with buffers of 2 KiB, behind `base` in memory."""
        rx, tx = 0x1000 + 0x40 * queue, 0x6000 + 0x40 * queue
        self.set(tx + 0x28, 1 << 26)
        for register, value in ((0, base + TX), (4, 0), (8, 256), (0x3C, 0), (0x38, 0), (0x10, 0), (0x18, 0)):
            self.set(tx + register, value)
        self.set(tx + 0x28, ENABLE | 8 << 16 | 1 << 8 | 32)
        self.wait(tx + 0x28, ENABLE, ENABLE)
        control = self.get(rx + 0x28) & ~ENABLE
        self.set(rx + 0x28, control)
        for register, value in ((0, base + RX), (4, 0), (8, 256), (0x10, 0), (0x18, 0), (0x14, 1 << 25 | 4 << 8 | 2)):
            self.set(rx + register, value)
        self.set(rx + 0x28, control | ENABLE)
        self.wait(rx + 0x28, ENABLE, ENABLE)

    def open(self, vectors: int = 2) -> Driver:
        """As ixgbe_open: one pair of queues with vector 0, everything else with the last vector."""
        driver = Driver(self.host)
        self.set(0x4A80, self.get(0x4A80) | 1)  # DMATXCTL
        self.set(0xEA00, 2 << 29 | 0x1330)  # PSRTYPE
        self.set(RDRXCTL, self.get(RDRXCTL) & ~(0x1F << 17) | 1 << 25 | 1 << 26 | 1 << 1)
        self.set(0x4268, 1518 << 16)  # MHADD, with jumbo frames on: the longest frame
        self.set(HLREG0, self.get(HLREG0) | 4)
        self.set_up_queue(0, 0)
        for index in range(16):
            driver.give(index)
        self.set(driver.rx + 0x18, 15)
        self.halt_security()
        self.set(FCTRL, self.get(FCTRL) | 1 << 10)
        self.set(CTRL_EXT, self.get(CTRL_EXT) | 1 << 28)
        self.use_msix(vectors)
        self.get(EICR)
        self.set(EIMS, 1 << 20 | 1 << 19)
        for i in range(2):
            self.set(EIMS_EX + 4 * i, 0xFFFF_FFFF)
        return driver

    def use_msix(self, vectors: int) -> None:
        assert self.host.bus.functions[PF].config_read(0x72, 2) & 0x7FF == 63
        for vector in range(vectors):
            for word, entry in enumerate((0xFEE0_0000, 0, 0x40 + vector, 0)):
                self.host.card.write(4, 16 * vector + 4 * word, 4, entry)
        self.host.configure(PF, 0x72, 0x8000, 2)
        self.set(GPIE, 1 << 4 | 1 << 31 | 1 << 5 | 1 << 30)
        for i in range(2):
            self.set(EIAM_EX + 4 * i, 0xFFFF_FFFF)
        self.set(IVAR, 0x8080)
        self.set(IVAR_MISC, (0x80 | vectors - 1) << 8)
        self.set(EIAC, 0xFFFF)

    def messages(self) -> list[int]:
        """The vectors that have interrupted since this was last asked."""
        self.host.pass_time()
        told = [message - 0x40 for _, message, _ in self.host.interrupts]
        self.host.interrupts.clear()
        return told


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
