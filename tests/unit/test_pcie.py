"""PCI Express, register by register: extended configuration space, MSI-X, function level reset, SR-IOV."""

from __future__ import annotations

import pytest

from hv.silicon.bus import MmioBus, PortBus
from hv.silicon.memory import BusError
from hv.silicon.pci import BAR0, Bar, Header, PciBus
from hv.silicon.pcie import DEVICE_CONTROL, EXPRESS, MSIX, Ecam, ExpressFunction, Msix, MsixState, msix_state
from hv.silicon.sriov import (
    CONTROL,
    FIRST_OFFSET,
    INITIAL_VFS,
    NUM_VFS,
    SRIOV,
    STRIDE,
    TOTAL_VFS,
    VF_BAR0,
    VF_DEVICE,
    VF_ENABLE,
    VF_MEMORY,
    PhysicalFunction,
    Virtual,
    VirtualFunction,
)

ECAM = 0xE000_0000
HEADER = Header(0x1D0F, 0x8061, 0x01_0802, bars={0: Bar(0x4000)})
VECTORS, TABLE, PBA = 3, 0x2000, 0x3000
ENABLE, MASK_ALL = 0x8000, 0x4000


class State:
    def __init__(self) -> None:
        self.msix: MsixState = msix_state(VECTORS)


class Outside:
    now = 0

    def __init__(self) -> None:
        self.messages: list[tuple[int, int]] = []

    def read(self, address: int, size: int) -> bytes:
        return bytes(size)

    def write(self, address: int, data: bytes) -> None:
        if address == 0xBAD0_0000:
            raise BusError
        self.messages.append((address, int.from_bytes(data, "little")))

    def interrupt(self, level: bool) -> None:
        raise AssertionError

    def reschedule(self) -> None:
        pass


class Registers:
    """Window 0 of both kinds of function: MSI-X, and a register that says who it is."""

    def connect(self, function: ExpressFunction, name: int) -> None:
        function.state = State()
        function.msix = self.msix = Msix(function, VECTORS, 0, TABLE, PBA)
        self.name = name

    def read(self, bar: int, offset: int, size: int) -> int:
        return self.msix.read(offset, size) if self.msix.claims(offset) else self.name << 16 | offset

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.msix.write(offset, size, value)


class Vf(Registers, VirtualFunction):  # type: ignore[misc]
    resets = 0

    def __init__(self, physical: PhysicalFunction, index: int) -> None:
        VirtualFunction.__init__(self, physical, index)
        self.connect(self, index + 1)

    def reset(self) -> None:
        self.resets += 1


class Pf(Registers, PhysicalFunction):  # type: ignore[misc]
    def __init__(self) -> None:
        PhysicalFunction.__init__(self, HEADER, Virtual(4, 0x8061, {0: Bar(0x4000)}, first=2, stride=2))
        self.connect(self, 0)
        self.virtual_functions = [Vf(self, index) for index in range(4)]


class Machine:
    def __init__(self) -> None:
        self.mmio, self.outside = MmioBus(), Outside()
        self.bus = PciBus(PortBus(), self.mmio, lambda wire, level: None)
        self.mmio.add(ECAM, 1 << 20, Ecam(self.bus))
        self.pf = Pf()
        self.bus.plug(self.pf, 0x20, self.outside)
        for distance, vf in self.pf.followers:
            self.bus.plug(vf, 0x20 + distance, self.outside)

    def read(self, offset: int, size: int = 4, function: int = 0x20) -> int:
        return self.mmio.read(ECAM + (function << 12) + offset, size)

    def write(self, offset: int, value: int, size: int = 4, function: int = 0x20) -> None:
        self.mmio.write(ECAM + (function << 12) + offset, size, value)

    def enable_vfs(self, count: int = 2, place: int = 0xF000_0000) -> None:
        self.write(NUM_VFS, count, 2)
        self.write(VF_BAR0, place)
        self.write(CONTROL, VF_ENABLE | VF_MEMORY, 2)

    def vector(self, number: int, address: int, data: int, control: int = 0) -> None:
        for word, value in enumerate((address & 0xFFFF_FFFF, address >> 32, data, control)):
            self.mmio.write(0xFEB0_0000 + TABLE + 16 * number + 4 * word, 4, value)


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.write(BAR0, 0xFEB0_0000)
    machine.write(4, 6, 2)
    return machine


def test_configuration_space_in_memory_is_the_same_as_behind_the_ports(machine: Machine) -> None:
    assert machine.read(0) == 0x8061_1D0F
    machine.bus.ports.write(0xCF8, 4, 0x8000_2000 | BAR0)
    assert machine.bus.ports.read(0xCFC, 4) == machine.read(BAR0) == 0xFEB0_0000
    assert machine.read(0, function=0x30) == 0xFFFF_FFFF
    assert machine.read(0xFFE, 4) == 0xFFFF_FFFF


def test_the_capability_lists_name_msix_express_and_sriov(machine: Machine) -> None:
    found, at = [], machine.read(0x34, 1)
    while at:
        found.append(machine.read(at, 1))
        at = machine.read(at + 1, 1)
    assert found == [0x11, 0x10]
    assert machine.read(EXPRESS + 2, 2) == 0x92
    assert machine.read(EXPRESS + 4) >> 28 & 1
    assert machine.read(0x100) == SRIOV << 20
    assert machine.read(SRIOV) == 0x0001_0010


def test_msix_says_how_many_vectors_there_are_and_where(machine: Machine) -> None:
    assert machine.read(MSIX + 2, 2) == VECTORS - 1
    assert machine.read(MSIX + 4) == TABLE
    assert machine.read(MSIX + 8) == PBA


def test_a_vector_sends_its_message_once_it_is_enabled_and_not_masked(machine: Machine) -> None:
    msix, messages = machine.pf.msix, machine.outside.messages
    assert machine.mmio.read(0xFEB0_0000 + TABLE + 12, 4) == 1  # masked after a reset
    msix.fire(1)
    machine.write(MSIX + 2, ENABLE, 2)
    assert messages == []  # MSI-X was off: lost
    msix.fire(1)
    assert messages == []
    assert machine.mmio.read(0xFEB0_0000 + PBA, 8) == 2
    machine.vector(1, 0xFEE0_1000, 0x41)
    assert messages == [(0xFEE0_1000, 0x41)]
    assert machine.mmio.read(0xFEB0_0000 + PBA, 8) == 0
    machine.write(MSIX + 2, ENABLE | MASK_ALL, 2)
    msix.fire(1)
    msix.fire(7)
    assert len(messages) == 1
    machine.write(MSIX + 2, ENABLE, 2)
    assert len(messages) == 2


def test_a_message_that_is_refused_is_lost_and_one_without_bus_mastering_too(machine: Machine) -> None:
    machine.write(MSIX + 2, ENABLE, 2)
    machine.vector(0, 0xBAD0_0000, 1)
    machine.pf.msix.fire(0)
    machine.vector(0, 0xFEE0_0000, 1)
    machine.write(4, 2, 2)
    machine.pf.msix.fire(0)
    assert machine.outside.messages == []


def test_only_whole_words_reach_the_table(machine: Machine) -> None:
    machine.vector(2, 0x1_FEE0_0000, 0x55, control=0xFFFF_FFFF)
    for offset, size in ((0, 1), (2, 2), (2, 4), (4, 8)):
        machine.mmio.write(0xFEB0_0000 + TABLE + 32 + offset, size, 0)
    assert machine.mmio.read(0xFEB0_0000 + TABLE + 32, 8) == 0x1_FEE0_0000
    assert machine.mmio.read(0xFEB0_0000 + TABLE + 44, 4) == 1  # the rest of the control word is reserved
    machine.mmio.write(0xFEB0_0000 + PBA, 8, 0xFF)
    assert machine.mmio.read(0xFEB0_0000 + PBA, 8) == 0


def test_a_function_level_reset_puts_configuration_back(machine: Machine) -> None:
    machine.enable_vfs()
    machine.write(DEVICE_CONTROL, 0x8000, 2)
    assert machine.read(BAR0) == 0
    assert machine.read(4, 2) == 0
    assert machine.read(DEVICE_CONTROL, 2) == 0
    assert machine.read(NUM_VFS, 2) == 0
    assert machine.read(0) == 0x8061_1D0F
    assert machine.read(MSIX, 1) == 0x11
    assert [vf.resets for vf in machine.pf.virtual_functions] == [1, 1, 0, 0]  # type: ignore[attr-defined]


def test_virtual_functions_come_and_go(machine: Machine) -> None:
    assert machine.read(INITIAL_VFS, 2) == machine.read(TOTAL_VFS, 2) == 4
    assert machine.read(FIRST_OFFSET, 2) == machine.read(STRIDE, 2) == 2
    assert machine.read(VF_DEVICE, 2) == 0x8061
    assert machine.read(0, function=0x22) == 0xFFFF_FFFF
    machine.enable_vfs(2)
    assert machine.read(8, function=0x22) >> 8 == 0x01_0802
    assert machine.read(0, function=0x22) == 0xFFFF_FFFF  # a VF has no name of its own
    assert machine.read(0x34, 1, function=0x24) == EXPRESS or machine.read(0x34, 1, function=0x24) == MSIX
    assert machine.read(0x34, 1, function=0x26) == 0xFF
    machine.write(CONTROL, 0, 2)
    assert machine.read(0x34, 1, function=0x22) == 0xFF


def test_the_windows_of_virtual_functions_lie_one_behind_the_other(machine: Machine) -> None:
    machine.write(VF_BAR0, 0xFFFF_FFFF)
    assert machine.read(VF_BAR0) == 0xFFFF_C000
    machine.enable_vfs(2)
    assert machine.mmio.read(0xF000_0010, 4) == 1 << 16 | 0x10
    assert machine.mmio.read(0xF000_4010, 4) == 2 << 16 | 0x10
    assert machine.mmio.read(0xF000_8010, 4) == 0xFFFF_FFFF
    assert machine.read(BAR0, function=0x22) == 0
    machine.write(BAR0, 0xF100_0000, function=0x22)
    assert machine.read(BAR0, function=0x22) == 0
    machine.write(CONTROL, VF_ENABLE, 2)
    assert machine.mmio.read(0xF000_0010, 4) == 0xFFFF_FFFF


def test_the_number_of_virtual_functions_stays_while_they_are_there(machine: Machine) -> None:
    machine.write(NUM_VFS, 5, 2)
    assert machine.read(NUM_VFS, 2) == 0
    machine.enable_vfs(2)
    machine.write(NUM_VFS, 4, 2)
    assert machine.read(NUM_VFS, 2) == 2


def test_a_virtual_function_is_bus_master_by_its_own_command_register(machine: Machine) -> None:
    machine.enable_vfs(1)
    vf = machine.pf.virtual_functions[0]
    with pytest.raises(BusError):
        vf.slot.read(0, 4)
    machine.write(4, 0xFFFF, 2, function=0x22)
    assert machine.read(4, 2, function=0x22) == 4
    assert vf.slot.read(0, 4) == bytes(4)


def test_a_snapshot_brings_the_virtual_functions_back(machine: Machine) -> None:
    machine.enable_vfs(2)
    other = Machine()
    other.bus.state = machine.bus.state
    assert other.mmio.read(0xF000_4010, 4) == 2 << 16 | 0x10
