"""The 82540EM, driven step by step as Linux's e1000 drives it: what it reads, waits for, checks.

The steps are those of e1000_main.c, e1000_hw.c and e1000_ethtool.c; the numbers are written out here once more.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from tests.nic_bench import MAC, RING, RX_BUFFERS, RX_RING, TX_BUFFERS, TX_RING, NicBench, frame_to

CTRL, STATUS, EECD, EERD, MDIC, ICR, ITR, ICS, IMS, IMC = 0x0, 0x8, 0x10, 0x14, 0x20, 0xC0, 0xC4, 0xC8, 0xD0, 0xD8
RCTL, TCTL, TXDCTL, RDTR, RADV, TIDV, TADV, MANC = 0x100, 0x400, 0x3828, 0x2820, 0x282C, 0x3820, 0x382C, 0x5820
RDBAL, TDBAL, RAL, MTA, VFTA = 0x2800, 0x3800, 0x5400, 0x5200, 0x5600
SK, CS, DI, DO = 1, 2, 4, 8
MS = 1_000_000


class E1000Driver:
    """The driver's small steps. Each fails as the driver's does: by an assertion."""

    def __init__(self) -> None:
        self.bench = bench = NicBench()
        self.get, self.set, self.sleep = bench.__getitem__, bench.__setitem__, bench.pass_time

    # --- EEPROM and PHY ---------------------------------------------------------------------------------------

    def wires(self, value: int) -> int:
        self.set(EECD, self.get(EECD) & ~(SK | CS | DI) | value)
        return self.get(EECD)

    def word(self, at: int) -> int:
        """Over three wires: start bit, the command for reading, six bits of address; 16 bits come back."""
        self.set(EECD, self.get(EECD) | 1 << 6)
        assert self.get(EECD) & 1 << 7
        self.wires(CS)
        for shift in range(8, -1, -1):
            bit = DI * ((6 << 6 | at) >> shift & 1)
            for clock in (0, SK, 0):
                self.wires(CS | bit | clock)
        value = 0
        for _ in range(16):
            value = value << 1 | bool(self.wires(CS | SK) & DO)
            self.wires(CS)
        self.wires(0)
        self.set(EECD, self.get(EECD) & ~(1 << 6))
        return value

    def phy(self, register: int, value: int | None = None) -> int:
        """Reads or writes a register of the PHY."""
        operation = 2 << 26 if value is None else 1 << 26 | value
        self.set(MDIC, operation | 1 << 21 | register << 16)
        answer = self.get(MDIC)
        assert answer & 1 << 28
        assert not answer & 1 << 30
        return answer & 0xFFFF

    # --- reset and link ---------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.set(IMC, 0xFFFF_FFFF)
        self.set(RCTL, 0)
        self.set(TCTL, 1 << 3)
        self.get(STATUS)
        self.sleep(10 * MS)
        self.set(CTRL, self.get(CTRL) | 1 << 26)
        self.sleep(5 * MS)
        assert not self.get(CTRL) >> 26 & 1
        self.set(MANC, self.get(MANC) & ~(1 << 13))
        self.set(IMC, 0xFFFF_FFFF)
        self.get(ICR)

    def set_link_up(self) -> None:
        """Negotiates everything, and forces nothing."""
        self.set(CTRL, self.get(CTRL) & ~(1 << 11 | 1 << 12) | 1 << 6)
        assert self.phy(2) << 16 | self.phy(3) & 0xFFF0 == 0x0141_0C20
        self.phy(16, self.phy(16) | 0x60)
        self.phy(4, 0x0DE1)
        self.phy(9, 0x0200)
        self.phy(0, self.phy(0) | 1 << 12 | 1 << 9)
        for _ in range(45):
            self.phy(1)
            if self.phy(1) & 1 << 5:
                break
            self.sleep(100 * MS)
        else:
            raise AssertionError("negotiation does not end")
        assert self.phy(5) & 0x0400  # the partner takes PAUSE frames
        assert self.get(STATUS) & 0b1000_0010 == 0b1000_0010  # up, 1000 Mb/s

    def open(self) -> None:
        """As e1000_up: rings, interrupt mask, the causes once."""
        bench = self.bench
        for i in range(RING):
            bench.slot.fill(RX_RING + 16 * i, struct.pack("<QQ", RX_BUFFERS + 0x1000 * i, 0))
        for base, ring in ((TDBAL, TX_RING), (RDBAL, RX_RING)):
            for register, value in ((8, 16 * RING), (4, 0), (0, ring), (0x18, 0), (0x10, 0)):
                self.set(base + register, value)
        self.set(0x410, 10 | 8 << 10 | 6 << 20)
        self.set(TIDV, 8)
        self.set(TADV, 32)
        self.set(TCTL, 1 << 1 | 1 << 3 | 15 << 4 | 64 << 12 | 1 << 24)
        self.set(RDTR, 0)
        self.set(RADV, 8)
        self.set(ITR, 1_000_000_000 // (8000 * 256))
        self.set(0x5000, 1 << 9 | 1 << 8)
        self.set(RCTL, 1 << 1 | 1 << 15 | 1 << 26)
        self.set(RDBAL + 0x18, RING - 1)
        self.set(IMS, 1 << 7 | 1 << 4 | 1 << 3 | 1 << 2 | 1 << 0)
        self.set(ICS, 1 << 2)


@pytest.fixture
def e1000() -> E1000Driver:
    return E1000Driver()


@pytest.fixture
def opened(e1000: E1000Driver) -> E1000Driver:
    e1000.reset()
    e1000.set_link_up()
    e1000.get(ICR)
    e1000.open()
    return e1000


def test_the_eeprom_adds_up_and_holds_the_address(e1000: E1000Driver) -> None:
    words = [e1000.word(at) for at in range(64)]
    assert sum(words) & 0xFFFF == 0xBABA
    assert b"".join(word.to_bytes(2, "little") for word in words[:3]) == MAC
    for at in range(64):
        e1000.set(EERD, at << 8 | 1)
        assert e1000.get(EERD) >> 16 == words[at]
        assert e1000.get(EERD) & 1 << 4


def test_the_link_comes_up_at_a_gigabit_both_ways(e1000: E1000Driver) -> None:
    e1000.reset()
    e1000.set_link_up()
    assert e1000.get(STATUS) & 1
    assert e1000.phy(17) >> 10 == 0b101011  # 1000 Mb/s, full duplex, a page received, resolved, up
    assert e1000.phy(10) & 0x3000 == 0x3000  # both receivers are well


def test_a_frame_each_way_and_the_causes_of_both(opened: E1000Driver) -> None:
    bench = opened.bench
    assert bench.line()  # ICS: the driver's watchdog begins with a change of the link
    assert opened.get(ICR) & 1 << 2
    assert not bench.line()
    opened.sleep(1 * MS)
    frame = frame_to(bytes(6), source=MAC)
    bench.slot.fill(TX_BUFFERS, frame)
    bench.put(0, TX_BUFFERS, len(frame) | 0x8B << 24)  # EOP, IFCS, RS, with delay
    opened.set(TDBAL + 0x18, 1)
    opened.sleep(1 * MS)
    assert bench.frames == [frame]
    assert bench.tx_status(0) & 1
    assert opened.get(ICR) & 0b1000_0001 == 1
    opened.sleep(1 * MS)
    bench.receive(frame_to(MAC))
    opened.set(IMC, 0xFFFF_FFFF)
    assert opened.get(ICR) & 1 << 7
    assert bench.received(0)[0] == frame_to(MAC)


def test_interrupts_keep_the_distance_that_itr_wants(opened: E1000Driver) -> None:
    """8,000 a second."""
    bench = opened.bench
    opened.get(ICR)
    times = []
    for moment in range(0, MS, 5_000):
        if moment % 20_000 == 0:
            bench.receive(frame_to(MAC))
        opened.sleep(5_000)
        if bench.line():
            times.append(moment)
            opened.get(ICR)
            opened.set(RDBAL + 0x18, opened.get(RDBAL + 0x10) - 1 & RING - 1)
    assert times
    assert all(120_000 <= later - earlier <= 130_000 for earlier, later in pairwise(times))


def test_statistics_are_read_once(opened: E1000Driver) -> None:
    opened.bench.receive(frame_to(MAC))
    opened.bench.receive(frame_to(b"\xff" * 6))
    for offset, value in ((0x4074, 2), (0x4078, 1), (0x405C, 2), (0x40D0, 2)):
        assert opened.get(offset) == value
        assert opened.get(offset) == 0
    assert (opened.get(0x4088), opened.get(0x408C)) == (128, 0)  # octets, in two halves:
    assert opened.get(0x4088) == 0  # the upper one clears both


PATTERNS = (0x5A5A_5A5A, 0xA5A5_A5A5, 0, 0xFFFF_FFFF)
ALL = 0xFFFF_FFFF
# Registers, bits that are written, bits that then are there (e1000_ethtool.c, e1000_reg_test).
SELF_TEST = (
    ([0x28], ALL, ALL), ([0x2C], ALL, 0xFFFF), ([0x30], ALL, 0xFFFF), ([0x38], ALL, 0xFFFF), ([RDTR], ALL, 0xFFFF),
    ([0x2804], ALL, ALL), ([0x2808], 0xF_FFFF, 0xF_FF80), ([0x2810], 0xFFFF, 0xFFFF), ([0x2818], 0xFFFF, 0xFFFF),
    ([0x2168], 0xFFF8, 0xFFF8), ([0x170], 0xFFFF, 0xFFFF), ([0x410], 0x3FFF_FFFF, 0x3FFF_FFFF), ([0x3804], ALL, ALL),
    ([0x3808], 0xF_FFFF, 0xF_FF80), ([0x2800], ALL, 0xFFFF_FFF0), ([0x178], 0xFFFF, 0xC000_FFFF),
    ([0x3800], ALL, 0xFFFF_FFF0), ([TIDV], 0xFFFF, 0xFFFF), (range(RAL + 4, RAL + 128, 8), ALL, 0x8003_FFFF),
    (range(MTA, MTA + 512, 4), ALL, ALL),
)  # fmt: skip


def test_its_registers_pass_the_drivers_self_test(e1000: E1000Driver) -> None:
    status = e1000.get(STATUS)
    e1000.set(STATUS, 0xFFFF_F833)
    assert e1000.get(STATUS) == status
    for registers, written, kept in SELF_TEST:
        for offset in registers:
            for pattern in PATTERNS:
                e1000.set(offset, pattern & written)
                assert e1000.get(offset) == pattern & written & kept, hex(offset)
    for control, written in ((0x06DF_B3FE, 0x003F_FFFB), (0x06DF_B3FE, ALL), (ALL, 0)):
        e1000.set(RCTL, written & control)
        assert e1000.get(RCTL) & control == written & control
    e1000.set(TCTL, 0)
    assert e1000.get(TCTL) == 0


def test_each_cause_interrupts_alone(e1000: E1000Driver) -> None:
    """The driver's self test takes the first ten bits, whether they have a name or not."""
    bench = e1000.bench
    e1000.set(IMC, ALL)
    for number in range(10):
        cause = 1 << number
        e1000.set(IMC, cause)
        e1000.set(ICS, cause)
        assert not bench.line()
        e1000.set(IMS, cause)
        e1000.set(ICS, cause)
        assert bench.line()
        assert e1000.get(ICR) & cause
        assert not bench.line()
        e1000.set(IMC, ~cause & 0x7FFF)
        e1000.set(ICS, ~cause & 0x7FFF)
        assert not bench.line()
        e1000.get(ICR)


def test_frames_come_back_in_the_self_tests_loopback(opened: E1000Driver) -> None:
    """In the PHY, with negotiation off and the MAC forced to its speed."""
    bench = opened.bench
    opened.phy(16, 0x0808)
    for value in (0x9140, 0x8140, 0x4140):
        opened.phy(0, value)
    opened.set(CTRL, opened.get(CTRL) & ~(3 << 8) | 1 << 11 | 1 << 12 | 2 << 8 | 1 | 1 << 7)
    for register, value in ((29, 0x001F), (30, 0x8FFC), (29, 0x001A), (30, 0x8FF0)):
        opened.phy(register, value)
    opened.sleep(MS // 2)
    frame = b"\xff" * 512 + b"\xaa" * 512
    for index in range(RING - 1):
        bench.slot.fill(TX_BUFFERS + 0x400 * index, frame)
        bench.put(index, TX_BUFFERS + 0x400 * index, len(frame) | 0x1B << 24)
    opened.set(TDBAL + 0x18, RING - 1)
    opened.sleep(200 * MS)
    assert [bench.received(index)[0] for index in range(RING - 1)] == [frame] * (RING - 1)
    assert not bench.sent
    opened.phy(0, opened.phy(0) & ~(1 << 14))
    opened.phy(0, opened.phy(0) | 1 << 15)
    opened.sleep(2 * MS)
    assert opened.phy(0) == 0x1140


def test_the_phy_sleeps_and_wakes(opened: E1000Driver) -> None:
    opened.phy(0, opened.phy(0) | 1 << 11)
    assert not opened.get(STATUS) & 2
    opened.phy(0, opened.phy(0) & ~(1 << 11))
    opened.phy(0, opened.phy(0) | 1 << 15)
    opened.sleep(2 * MS)
    opened.set_link_up()
