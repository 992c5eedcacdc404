"""The IOMMU after AMD's specification: device table, page tables, interrupt remapping, faults."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.silicon.iommu import MOST_FAULTS, Fault, Iommu, IommuPort
from hv.silicon.memory import BusError, Memory, Region, anonymous
from hv.silicon.posted import Descriptor

RAM = 1 << 20
DEVICES, ROOT, MIDDLE, LEAVES, INTERRUPTS = 0x1000, 0x3000, 0x4000, 0x5000, 0x6000
READ, WRITE, BOTH = 1 << 61, 1 << 62, 3 << 61
VALID, THREE_LEVELS = 3, 3 << 9
FUNCTION, OTHER = 0x21, 0x22
MESSAGE = 0xFEE0_0000


def level(address: int, above: int, rights: int = BOTH) -> int:
    """A page table entry that leads to the table at `address`, seen from level `above`; 1: to a page."""
    return 1 | (above - 1) << 9 | address | rights


class Hardware:
    def __init__(self) -> None:
        self.memory = Memory()
        self.memory.add(Region("RAM", 0, RAM, anonymous(RAM), 0))
        self.interrupts: list[tuple[int, int]] = []
        self.notifications: list[tuple[int, int]] = []
        self.iommu = Iommu(self.memory, lambda *interrupt: self.interrupts.append(interrupt), self.post)
        self.port = IommuPort(self.iommu, FUNCTION)

    def post(self, descriptor: Descriptor, vector: int, urgent: bool) -> None:
        if descriptor.post(vector, urgent=urgent):
            self.notifications.append(descriptor.notification)

    def device(self, first: int, third: int = 0, function: int = FUNCTION) -> None:
        self.memory.write(DEVICES + 32 * function, struct.pack("<4Q", first, 0, third, 0))
        self.iommu.invalidate()

    def page(self, address: int, frame: int, rights: int = BOTH) -> None:
        """Three levels: address bits 38:30, 29:21, 20:12."""
        self.memory.write_u64(ROOT + 8 * (address >> 30), level(MIDDLE, 3))
        self.memory.write_u64(MIDDLE + 8 * (address >> 21 & 511), level(LEAVES, 2))
        self.memory.write_u64(LEAVES + 8 * (address >> 12 & 511), level(frame, 1, rights))
        self.iommu.invalidate()

    @property
    def faults(self) -> list[Fault]:
        return self.iommu.state.faults


@pytest.fixture
def hardware() -> Hardware:
    hardware = Hardware()
    hardware.iommu.enable(DEVICES, 256)
    hardware.device(VALID | THREE_LEVELS | ROOT | BOTH)
    return hardware


def test_switched_off_it_lets_everything_pass() -> None:
    hardware = Hardware()
    hardware.port.write(0x8000, b"data")
    assert hardware.port.read(0x8000, 4) == b"data"
    hardware.port.write(MESSAGE | 3 << 12, (0x45).to_bytes(4, "little"))
    assert hardware.interrupts == [(3, 0x45)]


def test_a_mapped_page_is_reached_and_another_one_faults(hardware: Hardware) -> None:
    hardware.page(0x4000_2000, 0x9000)
    hardware.port.write(0x4000_2010, b"data")
    assert hardware.memory.read(0x9010, 4) == b"data"
    assert hardware.port.read(0x4000_2010, 4) == b"data"
    with pytest.raises(BusError):
        hardware.port.read(0x4000_3010, 4)
    assert hardware.faults == [Fault(FUNCTION, 0x4000_3010, False, "dma")]


def test_rights_are_those_of_all_levels_together(hardware: Hardware) -> None:
    hardware.page(0x2000, 0x9000, READ)
    assert hardware.port.read(0x2000, 4) == bytes(4)
    with pytest.raises(BusError):
        hardware.port.write(0x2000, b"x")
    assert hardware.faults == [Fault(FUNCTION, 0x2000, True, "dma")]
    hardware.page(0x2000, 0x9000, BOTH)
    hardware.device(VALID | THREE_LEVELS | ROOT | WRITE)
    hardware.port.write(0x2000, b"x")
    with pytest.raises(BusError):
        hardware.port.read(0x2000, 1)


def test_a_write_over_two_pages_writes_nothing_when_one_is_missing(hardware: Hardware) -> None:
    hardware.page(0x2000, 0x9000)
    with pytest.raises(BusError):
        hardware.port.write(0x2FFE, b"abcd")
    assert hardware.memory.read(0x9FFE, 2) == bytes(2)
    hardware.page(0x3000, 0x7000)
    hardware.port.write(0x2FFE, b"abcd")
    assert hardware.memory.read(0x9FFE, 2) + hardware.memory.read(0x7000, 2) == b"abcd"


def test_an_entry_for_a_page_at_a_higher_level_is_a_big_page(hardware: Hardware) -> None:
    hardware.memory.write_u64(ROOT, level(MIDDLE, 3))
    hardware.memory.write_u64(MIDDLE + 8, 1 | BOTH)  # 2 MiB at 0x20_0000, which is the RAM at 0
    hardware.iommu.invalidate()
    hardware.port.write(0x20_A123, b"big")
    assert hardware.memory.read(0xA123, 3) == b"big"


def test_a_revoked_page_is_gone_after_an_invalidation(hardware: Hardware) -> None:
    hardware.page(0x2000, 0x9000)
    hardware.port.write(0x2000, b"x")
    hardware.memory.write_u64(LEAVES + 16, 0)
    hardware.iommu.invalidate()
    with pytest.raises(BusError):
        hardware.port.write(0x2000, b"x")


def test_each_function_has_its_own_entry_and_those_without_are_stopped(hardware: Hardware) -> None:
    hardware.page(0x2000, 0x9000)
    hardware.device(VALID, function=OTHER)  # translation on, no rights
    for function, kind in ((OTHER, "dma"), (0x1234, "device")):
        with pytest.raises(BusError):
            IommuPort(hardware.iommu, function).write(0x2000, b"x")
        assert hardware.faults.pop() == Fault(function, 0x2000, True, kind)
    hardware.device(0, function=OTHER)  # an entry that is not valid lets pass: whoever fills the table takes care
    IommuPort(hardware.iommu, OTHER).write(0x9000, b"y")
    assert hardware.memory.read(0x9000, 1) == b"y"


def test_an_interrupt_goes_where_the_hypervisor_says(hardware: Hardware) -> None:
    third = 1 | 2 << 1 | INTERRUPTS | 2 << 60  # four entries, remapped
    hardware.device(VALID | THREE_LEVELS | ROOT | BOTH, third)
    entries = (1 | 0 << 40 | 0x31 << 16, 1 | 1 << 40 | 0x32 << 16, 0, 1 | 4 << 5)  # VT-d specification 9.10
    hardware.memory.write(INTERRUPTS, b"".join(struct.pack("<2Q", entry, 0) for entry in entries))
    for index in (0, 1):
        hardware.port.write(MESSAGE | 5 << 12, index.to_bytes(4, "little"))
    assert hardware.interrupts == [(0, 0x31), (1, 0x32)]
    for index in (2, 3, 4, 0x7FF):  # not enabled, an NMI, behind the table
        with pytest.raises(BusError):
            hardware.port.write(MESSAGE, index.to_bytes(4, "little"))
    assert len(hardware.interrupts) == 2
    assert hardware.faults[-1] == Fault(FUNCTION, MESSAGE, True, "interrupt")


def posted_entry(vector: int, descriptor: int, urgent: int = 0) -> bytes:
    """VT-d specification 9.11."""
    return struct.pack("<2Q", 1 | urgent << 14 | 1 << 15 | vector << 16 | (descriptor >> 6 & 0x3FF_FFFF) << 38, 0)


def test_a_posted_interrupt_is_a_bit_and_the_first_of_several_a_notification(hardware: Hardware) -> None:
    hardware.device(VALID | THREE_LEVELS | ROOT | BOTH, 1 | 2 << 1 | INTERRUPTS | 2 << 60)
    where = 0x8040
    entries = posted_entry(0x41, where), posted_entry(0xE2, where), posted_entry(0x43, where, 1), posted_entry(9, RAM)
    hardware.memory.write(INTERRUPTS, b"".join(entries))
    descriptor = Descriptor(hardware.memory, where)
    descriptor.direct(0xF2, 1)
    for index in (0, 1):
        hardware.port.write(MESSAGE, index.to_bytes(4, "little"))
    assert descriptor.requests == 1 << 0x41 | 1 << 0xE2
    assert hardware.notifications == [(1, 0xF2)]
    assert descriptor.take() == 1 << 0x41 | 1 << 0xE2
    descriptor.suppress(True)
    hardware.port.write(MESSAGE, (0).to_bytes(4, "little"))
    assert len(hardware.notifications) == 1
    hardware.port.write(MESSAGE, (2).to_bytes(4, "little"))  # urgent
    assert len(hardware.notifications) == 2
    assert hardware.interrupts == []
    assert hardware.faults == []
    with pytest.raises(BusError):  # no descriptor is there
        hardware.port.write(MESSAGE, (3).to_bytes(4, "little"))
    assert hardware.faults == [Fault(FUNCTION, MESSAGE, True, "interrupt")]


def test_interrupts_are_aborted_where_the_entry_says_so(hardware: Hardware) -> None:
    hardware.device(VALID, 1 | 2 << 1 | INTERRUPTS)
    with pytest.raises(BusError):
        hardware.port.write(MESSAGE, bytes(4))
    with pytest.raises(BusError):
        hardware.port.write(MESSAGE, bytes(16))  # no message has this length
    assert hardware.interrupts == []


def test_the_log_is_finite(hardware: Hardware) -> None:
    for _ in range(MOST_FAULTS + 5):
        with pytest.raises(BusError):
            hardware.port.read(0, 1)
    assert len(hardware.faults) == MOST_FAULTS
    assert hardware.iommu.state.lost == 5


@given(st.lists(st.tuples(st.integers(0, RAM // 8 - 1), st.integers(0, 1 << 64)), max_size=40), st.integers(0, 1 << 64))
def test_whatever_is_in_the_tables_a_request_is_answered_or_blocked(
    words: list[tuple[int, int]], address: int
) -> None:  # fmt: skip
    hardware = Hardware()
    hardware.iommu.enable(DEVICES, 256)
    hardware.device(VALID | THREE_LEVELS | ROOT | BOTH, 1 | 2 << 1 | INTERRUPTS | 2 << 60)
    for place, value in words:
        hardware.memory.write_u64(8 * place, value & (1 << 64) - 1)
    for attempt in (lambda: hardware.port.read(address, 8), lambda: hardware.port.write(address, bytes(4))):
        with contextlib.suppress(BusError):
            attempt()
