"""Direct assignment under attack: a guest that turns the drive it was given against everybody else.

The guest's CPU spins and counts; the test plays its driver, through the same registers that the guest finds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hv.host.store import MemoryStore
from hv.loader import Guest, Segment
from hv.silicon.iommu import Fault
from hv.silicon.memory import BusError
from hv.silicon.pci import BAR0
from hv.silicon.x86_64.engine import BUS_BASE, PRIVATE_BASE
from hv.silicon.x86_64.machine import Ended, Idle
from hv.vm import Vm
from hv.x86_64.board import Board
from hv.x86_64.pool import CARDS_POOL_BASE, POOL_BASE
from modes.hw_assist.mode import HwAssist
from modes.hw_assist.shadow import HwShadow
from modes.sriov.mode import Sriov
from tests.nvme_host import Driver
from tests.spinning_guest import CODE, COUNT, RAM_BASE, SHOWN, SpinningGuest
from tests.support import assemble, costs

LOCAL, REMOTE = 4 << 3, 5 << 3  # places on the guest's board
LOCAL_VF = LOCAL + 1  # and in the root complex
WINDOW = {LOCAL: 0xFE00_0000, REMOTE: 0xFE01_0000}
BY_NESTED_OR_SHADOW_TABLES = pytest.mark.parametrize("mode", [HwAssist, HwShadow])
TRANSFER_ERROR = 4
TARGETS = {
    "the hypervisor's memory": POOL_BASE, "its IOMMU tables": CARDS_POOL_BASE, "the microcode": PRIVATE_BASE,
    "host-physical addresses": RAM_BASE, "the local APIC": 0xFEE0_0000, "the I/O APIC": 0xFEC0_0000,
    "its own window": WINDOW[LOCAL], "the physical window": BUS_BASE + 0x3040_4000, "behind its memory": 16 << 20,
    "nowhere": 1 << 52, "the end of everything": (1 << 64) - 0x1000,
}  # fmt: skip


class DriveGuest(SpinningGuest):
    """It has two drives, and stands in for a Host."""

    columns = ("local", "remote")
    windows = {place: {BAR0: window} for place, window in WINDOW.items()}

    @property
    def store(self) -> MemoryStore:
        assert isinstance(self.outside.local, MemoryStore)
        return self.outside.local

    def driver(self, place: int = LOCAL, base: int = 0x2_0000) -> Driver:
        driver = Driver(self, place, base)  # type: ignore[arg-type]
        driver.start()
        driver.create_queues()
        return driver


@pytest.fixture
def guest() -> Iterator[DriveGuest]:
    guest = DriveGuest()
    yield guest
    guest.vm.close()


def test_the_drive_works(guest: DriveGuest) -> None:
    drive = guest.driver()
    guest.ram[drive.page : drive.page + 512] = b"x" * 512
    assert drive.io(1, 7, 1, drive.page) == 0
    assert guest.store.read(7, 1) == b"x" * 512
    assert guest.faults == []


@pytest.mark.parametrize("target", TARGETS)
def test_data_pages_that_are_not_the_guests_are_stopped(guest: DriveGuest, target: str) -> None:
    address = TARGETS[target]
    drive = guest.driver()
    before = guest.elsewhere()
    guest.faults.clear()
    for opcode, write in ((2, True), (1, False)):
        assert drive.io(opcode, 0, 1, address) == TRANSFER_ERROR
        assert guest.faults.pop() == Fault(LOCAL_VF, address, write, "dma")
    assert guest.elsewhere() == before
    assert guest.store.pages == {}
    assert drive.io(2, 0, 1, drive.page) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_a_list_of_pages_that_is_not_the_guests_is_not_read(guest: DriveGuest, target: str) -> None:
    drive = guest.driver()
    guest.faults.clear()
    assert drive.io(2, 0, 64, drive.page, TARGETS[target]) == TRANSFER_ERROR
    assert guest.faults == [Fault(LOCAL_VF, TARGETS[target], False, "dma")]


@pytest.mark.parametrize("target", TARGETS)
def test_rings_that_are_not_the_guests_stop_the_drive_and_nothing_else(guest: DriveGuest, target: str) -> None:
    address = TARGETS[target]
    drive, other = guest.driver(), guest.driver(REMOTE, 0x4_0000)
    before = guest.elsewhere()
    for kind in ("submission", "completion"):
        drive = guest.driver()
        guest.faults.clear()
        cq = address if kind == "completion" else drive.base + 0x5000
        sq = address if kind == "submission" else drive.base + 0x4000
        assert drive.run(0, 5, 0, cq, 0, 2 | 7 << 16, 1).status == 0
        assert drive.run(0, 1, 0, sq, 0, 2 | 7 << 16, 1 | 2 << 16).status == 0
        drive.set(0x1010, 1)
        guest.pass_time()
        assert drive.get(0x1C) & 2
        assert guest.faults == [Fault(LOCAL_VF, address, kind == "completion", "dma")]
    assert guest.elsewhere() == before
    assert other.io(2, 0, 1, other.page) == 0
    assert guest.driver().io(2, 0, 1, drive.page) == 0


def test_interrupts_reach_the_guest_that_has_the_function_and_its_memory_at_most(guest: DriveGuest) -> None:
    """The guest's own table may say anything: the message is sent in the guest's world."""
    drive = guest.driver()
    before = guest.elsewhere()
    lapic = guest.vm.board.lapics[0]
    lapic.write(0xF0, 0x1FF)
    guest.faults.clear()
    assert drive.io(0, 0, 1, 0) == 0
    assert lapic.state.irr >> 0x41 & 1
    for address in (0x9_0000, POOL_BASE, RAM_BASE, 0xFEC0_0000, (1 << 64) - 4):
        drive.set(0x2010, address, 8)
        assert drive.io(0, 0, 1, 0) == 0
    assert guest.ram[0x9_0000:0x9_0004] == struct.pack("<I", 0x41)
    assert guest.elsewhere() == before
    assert guest.faults == []
    assert guest.vm.ledger.totals()["external_interrupt"] >= 6


def test_a_message_that_was_not_set_for_the_function_is_blocked(guest: DriveGuest) -> None:
    """As if the card itself were turned: a message beyond those that the hypervisor has set."""
    vf = guest.function(LOCAL).physical
    guest.faults.clear()
    with pytest.raises(BusError):
        vf.slot.write(0xFEE0_0000, struct.pack("<I", 0x31))  # what would be vector 0x31 without remapping
    assert guest.faults == [Fault(LOCAL_VF, 0xFEE0_0000, True, "interrupt")]


def test_dma_into_code_that_runs(guest: DriveGuest) -> None:
    drive = guest.driver()
    page = bytearray(guest.ram[CODE : CODE + 512])
    assert guest.ram[SHOWN : SHOWN + 4] == struct.pack("<I", 1)
    at = bytes(page).index(struct.pack("<II", SHOWN, 1)) + 4
    page[at] = 2
    guest.store.write(3, bytes(page))
    assert drive.io(2, 3, 1, CODE) == 0
    guest.pass_time()
    assert guest.ram[SHOWN : SHOWN + 4] == struct.pack("<I", 2)


@pytest.mark.parametrize("way", ["disabled", "reset"])
def test_a_function_that_is_reset_with_commands_in_flight_writes_nothing_more(guest: DriveGuest, way: str) -> None:
    drive = guest.driver()
    guest.store.write(0, b"y" * 4096)
    for _ in range(5):
        drive.put(1, 2, 1, drive.page, 0, 0, 0, 7)
    drive.ring(1)
    guest.vm.run(guest.vm.now + 2_000_000)  # fetched, not done
    vf = guest.function(LOCAL).physical
    assert vf.state.controller.flight
    if way == "disabled":
        drive.set(0x14, 0)
    else:
        guest.configure(LOCAL, 0xA8, 0x8000, 2)
        guest.configure(LOCAL, BAR0, WINDOW[LOCAL])
        guest.configure(LOCAL, 4, 6, 2)
    guest.pass_time()
    assert guest.ram[drive.page : drive.page + 4096] == bytes(4096)
    assert drive.get(0x1C) == 0
    assert guest.driver().io(2, 0, 8, drive.page) == 0
    assert guest.ram[drive.page : drive.page + 4096] == b"y" * 4096


def test_a_function_that_is_taken_away_is_gone_at_once(guest: DriveGuest) -> None:
    drive, other = guest.driver(), guest.driver(REMOTE, 0x4_0000)
    guest.store.write(0, b"y" * 4096)
    drive.put(1, 2, 1, drive.page, 0, 0, 0, 7)
    drive.ring(1)
    guest.vm.run(guest.vm.now + 2_000_000)
    sriov = next(mode for mode in guest.vm._objects.values() if isinstance(mode, Sriov))
    sriov.take_away("local")
    guest.pass_time()
    assert guest.ram[drive.page : drive.page + 4096] == bytes(4096)
    assert guest.vm.board.pci.find(LOCAL) is None
    assert guest.vm.board.mmio_read(0, WINDOW[LOCAL] + 0x1C, 4) == 0xFFFF_FFFF
    assert other.io(2, 0, 1, other.page) == 0


def test_a_function_without_bus_mastering_reaches_nothing(guest: DriveGuest) -> None:
    drive = guest.driver()
    guest.configure(LOCAL, 4, 2, 2)
    drive.put(1, 2, 1, drive.page)
    drive.ring(1)
    guest.pass_time()
    assert drive.get(0x1C) & 2


def test_the_window_follows_its_base_address_and_never_covers_an_apic(guest: DriveGuest) -> None:
    board = guest.vm.board
    assert isinstance(board, Board)
    physical = board.assigned_page(WINDOW[LOCAL])
    assert physical is not None
    assert BUS_BASE <= physical < BUS_BASE + (1 << 30)
    for page in (2, 3):
        assert board.assigned_page(WINDOW[LOCAL] + 0x1000 * page) is None
    guest.configure(LOCAL, BAR0, 0xFE80_0000)
    assert board.assigned_page(WINDOW[LOCAL]) is None
    assert board.assigned_page(0xFE80_0000) == physical
    guest.configure(LOCAL, BAR0, 0xFEE0_0000)
    assert board.assigned_page(0xFEE0_0000) is None


@BY_NESTED_OR_SHADOW_TABLES
def test_code_in_a_cards_registers_ends_the_guest_in_order(mode: type[HwAssist]) -> None:
    """Mapped or not: the first touch is a read, the second a jump."""
    for touch in ("", f"movl {WINDOW[LOCAL] + 0x1C:#x}, %eax"):
        code = assemble(f".code32\n{touch}\n mov ${WINDOW[LOCAL]:#x}, %eax\n jmp *%eax", CODE).data
        guest = Guest(Path("jumping"), "", CODE, [Segment(CODE, len(code), code)], {}, b"")
        vm = Vm({"cpu": mode, "local": Sriov}, guest, costs(), mib=16)
        card = vm.board.pci.functions[LOCAL]
        vm.board.pci.config_write(card, BAR0, 4, WINDOW[LOCAL])
        vm.board.pci.config_write(card, 4, 2, 6)
        outcome = vm.run(vm.now + 10_000_000_000)
        assert isinstance(outcome, Ended)
        assert outcome.cause == "crash"
        assert "\n" not in outcome.report
        vm.close()


@BY_NESTED_OR_SHADOW_TABLES
def test_a_window_that_moves_is_not_where_it_was(mode: type[HwAssist]) -> None:
    """Its registers are mapped when the guest writes the base address register, by the configuration ports."""
    old, new = WINDOW[LOCAL], 0xFE80_0000
    code = assemble(
        f".code32\n movl {old + 8:#x}, %eax\n mov %eax, {COUNT}\n mov ${1 << 31 | LOCAL << 8 | BAR0:#x}, %eax\n"
        f"mov $0xCF8, %edx\n out %eax, %dx\n mov ${new:#x}, %eax\n mov $0xCFC, %edx\n out %eax, %dx\n"
        f"movl {old + 8:#x}, %eax\n mov %eax, {COUNT + 4}\n movl {new + 8:#x}, %eax\n mov %eax, {COUNT + 8}\n"
        "cli\n hlt",
        CODE,
    ).data
    vm = Vm(
        {"cpu": mode, "local": Sriov},
        Guest(Path("moving"), "", CODE, [Segment(CODE, len(code), code)], {}, b""),
        costs(),
        mib=16,
    )
    card = vm.board.pci.functions[LOCAL]
    vm.board.pci.config_write(card, BAR0, 4, old)
    vm.board.pci.config_write(card, 4, 2, 6)
    assert isinstance(vm.run(), Idle)
    read = vm.machine.memory.read(vm.machine.ram_base + COUNT, 12)
    assert struct.unpack("<3I", read) == (0x0001_0400, 0xFFFF_FFFF, 0x0001_0400)
    vm.close()


def test_registers_are_reached_without_exits_after_the_first_touch() -> None:
    window = WINDOW[LOCAL]
    code = assemble(
        f".code32\n mov $100, %ecx\n1: movl {window + 8:#x}, %eax\n loop 1b\n mov %eax, {COUNT}\n cli\n hlt", CODE
    ).data
    guest = Guest(Path("reading"), "", CODE, [Segment(CODE, len(code), code)], {}, b"")
    for mode, exits in ((HwAssist, {"npf": 3, "hlt": 1}), (HwShadow, {"shadow_page_fault": 3, "hlt": 1})):
        vm = Vm({"cpu": mode, "local": Sriov}, guest, costs(), mib=16)
        card = vm.board.pci.functions[LOCAL]
        vm.board.pci.config_write(card, BAR0, 4, window)
        vm.board.pci.config_write(card, 4, 2, 6)
        assert isinstance(vm.run(), Idle)
        assert vm.machine.memory.read(vm.machine.ram_base + COUNT, 4) == struct.pack("<I", 0x0001_0400)
        assert vm.ledger.totals() == exits
        vm.close()
