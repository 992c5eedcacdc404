"""How Linux makes itself at home beside Xen on a PC (arch/x86/xen/enlighten_hvm.c, platform-pci-unplug.c, drivers/xen).

Its steps in its order, each checked as Linux checks it: who is there, unplugging, shared_info, upcalls by a vector of a
vCPU's own, timer, grant table, the store, a card's messages as events. The hypercalls are VMMCALLs of a real vCPU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from hv.mode import Mode
from hv.x86_64.board import Board
from modes.full_emulation.translator.mode import FullEmulation
from modes.hw_assist.mode import HwAssist
from modes.paravirt.hvm.platform import XenPlatform
from modes.paravirt.mode import Paravirt
from tests.support import DATA, RawGuest, Where

MEMORY_OP, XEN_VERSION, GRANT_OP, VCPU_OP, EVENT_OP, PHYSDEV_OP, HVM_OP = 12, 17, 20, 24, 32, 33, 34
SET_PARAM, GET_PARAM, SET_UPCALL_VECTOR = 0, 1, 23
CALLBACK_IRQ, STORE_PFN, STORE_PORT, CONSOLE_PORT = 0, 1, 2, 18
BIND_VIRQ, BIND_PIRQ, SEND, UNMASK, INIT_CONTROL = 1, 2, 4, 9, 11
SELF, ENOSYS = 0x7FF0, 38
PAGE = 0x1000
ARGUMENTS, CALLS, SHARED, INFO = 0x4_4000, 0x4_6000, 0x4_7000, 0x4_8040
GRANT_TABLE = 0xF000_0000  # where nothing is: in Linux, in the platform device's second window
PENDING = 0x800
VECTOR = 0xF3
CODE = f"""
    lapic 0xF0, 0x1FF
    sti
1:  hlt
    jmp 1b
take:                           /* an upcall: counted, taken, ended at the local APIC */
    incq DATA
    movb $0, {INFO}
    lapic 0xB0, 0
    iretq
"""


class BothKinds(Where):
    """A PC with emulated devices, which can be unplugged, and one of Xen's."""

    @property
    def modes(self) -> dict[str, type[Mode]]:
        return {
            "cpu": HwAssist,
            "net": FullEmulation,
            "local": FullEmulation,
            "remote": Paravirt,
            "interrupts": Paravirt,
        }


class Kernel:
    """A vCPU that sleeps with interrupts on, and what is called in its name."""

    def __init__(self) -> None:
        self.guest = RawGuest(CODE, BothKinds(HwAssist), gates={VECTOR: ("take", {})})
        self.guest.run(50_000)
        self.vm, self.cpu = self.guest.vm, self.guest.cpu
        mode, board = self.vm.mode, self.vm.board
        assert isinstance(mode, HwAssist)
        assert isinstance(board, Board)
        assert isinstance(board.platform, XenPlatform)
        self.mode, self.board, self.xen = mode, board, board.platform

    def write(self, gpa: int, data: bytes) -> None:
        self.board.ram.dma_write(gpa, data)

    def read(self, gpa: int, size: int) -> bytes:
        return self.board.ram.dma_read(gpa, size)

    def word(self, gpa: int, size: int = 4) -> int:
        return int.from_bytes(self.read(gpa, size), "little")

    def call(self, number: int, command: int, *arguments: int) -> int:
        """A hypercall, as the CPU's exit brings it."""
        regs = self.cpu.regs
        saved = list(regs)
        regs[0] = number
        for register, value in zip((7, 6, 2, 10, 8), (command, *arguments), strict=False):
            regs[register] = value
        self.vm.ledger.open = True
        self.xen.hypercall(self.cpu)
        self.mode.deliver(self.cpu)
        self.vm.ledger.open = False
        result = regs[0] - (1 << 64) if regs[0] >> 63 else regs[0]
        regs[:] = saved
        return result

    def argument(self, layout: str, *values: int) -> int:
        """A structure in memory, and where it is."""
        self.write(ARGUMENTS, struct.pack(layout, *values))
        return ARGUMENTS

    def ask(self, number: int, command: int, layout: str, *values: int) -> int:
        return self.call(number, command, self.argument(layout, *values))

    def param(self, index: int) -> int:
        assert self.ask(HVM_OP, GET_PARAM, "<HHIQ", SELF, 0, index, 0) == 0
        return self.word(ARGUMENTS + 8, 8)

    def place(self, space: int, index: int, gpa: int) -> None:
        assert self.ask(MEMORY_OP, 7, "<HHIQQ", SELF, 0, space, index, gpa // PAGE) == 0

    def pending(self, port: int) -> bool:
        return bool(self.word(SHARED + PENDING + port // 64 * 8, 8) >> port % 64 & 1)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.guest.vm.close()


@pytest.fixture
def at_home(kernel: Kernel) -> Kernel:
    """With shared_info, and vCPU 0's own part of it elsewhere."""
    kernel.place(0, 0, SHARED)
    assert kernel.call(VCPU_OP, 10, 0, kernel.argument("<QII", INFO // PAGE, INFO % PAGE, 0)) == 0
    return kernel


def test_xen_is_found_and_called(kernel: Kernel) -> None:
    def leaf(number: int) -> tuple[int, int, int, int]:
        found = kernel.xen.cpuid(kernel.cpu, number, 0)
        assert found is not None
        return found

    base = 0x4000_0000
    highest, *name = leaf(base)
    assert struct.pack("<3I", *name) == b"XenVMMXenVMM"
    assert highest - base >= 2
    assert leaf(base + 1)[0] >> 16 >= 4
    pages, msr, *_ = leaf(base + 2)
    assert pages == 1
    assert kernel.xen.write_msr(msr, CALLS)
    assert kernel.read(CALLS + 32 * XEN_VERSION, 9) == b"\xb8" + struct.pack("<I", XEN_VERSION) + b"\x0f\x01\xd9\xc3"
    flags, vcpu, domain, _ = leaf(base + 4)
    assert (flags & 1 << 3, vcpu, flags & 1 << 4, domain) == (1 << 3, 0, 1 << 4, 1)
    assert kernel.ask(XEN_VERSION, 6, "<II", 0, 0) == 0
    features = kernel.word(ARGUMENTS + 4)
    assert [bit for bit in range(32) if features >> bit & 1] == [0, 2, 8, 9, 10, 16]
    assert kernel.ask(XEN_VERSION, 6, "<II", 1, 0) < 0


def test_emulated_devices_make_room(kernel: Kernel) -> None:
    ports = kernel.board.ports
    assert ports.read(0x10, 2) == 0x49D2
    assert ports.read(0x12, 1) == 1
    ports.write(0x12, 2, 3)  # Linux, as pvdrivers.h numbers it
    ports.write(0x10, 4, 0x0006_0000)  # its version
    assert ports.read(0x10, 2) == 0x49D2
    there = [f for f in kernel.board.pci.functions.values() if f.present]
    ports.write(0x10, 2, 1 | 2)
    gone = {f.header.class_code >> 8 for f in there if not f.present}
    assert gone == {0x0101, 0x0200}


def test_the_platform_device_is_one_that_its_driver_takes(kernel: Kernel) -> None:
    (card,) = [f for f in kernel.board.pci.functions.values() if f.header.vendor == 0x5853]
    assert card.header.device == 1
    sizes = []
    for place in (0x10, 0x14):
        kernel.board.pci.config_write(card, place, 4, 0xFFFF_FFFF)
        sizes.append(card.config_read(place, 4))
    assert sizes[0] & 1  # ports
    assert not sizes[1] & 1
    assert -(sizes[1] & ~0xF) & 0xFFFF_FFFF >= 64 * PAGE  # memory, enough for the grant table
    assert card.config_read(0x3D, 1) == 1  # INTA


def test_upcalls_come_by_a_vector_of_the_vcpu_s_own(at_home: Kernel) -> None:
    k = at_home
    assert k.ask(HVM_OP, SET_UPCALL_VECTOR, "<IB3x", 0, VECTOR) == 0
    assert k.ask(HVM_OP, SET_PARAM, "<HHIQ", SELF, 0, CALLBACK_IRQ, 1) == 0  # for toolstacks that look at it
    assert k.param(CALLBACK_IRQ) == 1
    assert k.ask(EVENT_OP, INIT_CONTROL, "<QIIBxxxxxxx", SHARED // PAGE, 0, 0, 0) == -ENOSYS  # no FIFO: two levels
    assert k.ask(EVENT_OP, BIND_VIRQ, "<III", 0, 0, 0) == 0
    port = k.word(ARGUMENTS + 8)
    assert k.call(VCPU_OP, 7, 0, 0) == 0  # no periodic timer
    k.write(SHARED + 0xA00, bytes(512))  # nothing is masked
    soon = k.xen.domain.nanoseconds() + 1000
    assert k.call(VCPU_OP, 8, 0, k.argument("<QII", soon, 1, 0)) == 0
    k.guest.run(100_000)
    assert k.pending(port)
    assert k.word(DATA, 8) == 1


def test_the_grant_table_lies_where_nothing_was(at_home: Kernel) -> None:
    k = at_home
    assert k.call(GRANT_OP, 6, k.argument("<HHIIi", SELF, 0, 0, 0, 99), 1) == 0
    _, frames, most, status = struct.unpack("<IIIh", k.read(ARGUMENTS, 14))
    assert (status, most >= frames) == (0, True)
    assert k.call(GRANT_OP, 8, k.argument("<I", 2), 1) == -ENOSYS  # so it uses version 1
    assert k.call(GRANT_OP, 8, k.argument("<I", 1), 1) == 0
    for index in range(4):
        k.place(1, index, GRANT_TABLE + index * PAGE)
    k.write(GRANT_TABLE + 8 * 600, struct.pack("<HHI", 1, 0, 0x50))  # in the second page
    k.write(0x5_0000, b"granted")
    view = k.xen.domain.grants.map(600, write=False)
    assert view.read(0, 7) == b"granted"
    assert k.word(GRANT_TABLE + 8 * 600, 2) == 1 | 8
    k.xen.domain.grants.unmap(view.handle)


def test_the_store_is_where_the_parameters_say(at_home: Kernel) -> None:
    k = at_home
    port, page = k.param(STORE_PORT), k.param(STORE_PFN) * PAGE
    assert port
    assert page
    assert k.param(CONSOLE_PORT) == 0  # there is none: the serial line is the console
    indices = [k.word(page + at) for at in (2048, 2052, 2056, 2060)]
    assert indices == [0, 0, 0, 0]
    assert k.word(page + 2068) == 0  # connected
    request = struct.pack("<4I", 1, 5, 0, 7) + b"device\0"
    k.write(page, request)
    k.write(page + 2052, struct.pack("<I", len(request)))
    assert k.ask(EVENT_OP, SEND, "<I", port) == 0
    assert k.pending(port)
    kind, number, _, length = struct.unpack("<4I", k.read(page + 1024, 16))
    assert (kind, number, k.read(page + 1040, length)) == (1, 5, b"vbd\0")


def test_a_card_s_message_becomes_an_event(at_home: Kernel) -> None:
    k = at_home
    assert k.ask(PHYSDEV_OP, 23, "<iI", 1, 0) == 0  # a free number, for a message
    pirq = k.word(ARGUMENTS + 4)
    assert 0 < pirq < 256
    assert k.ask(EVENT_OP, BIND_PIRQ, "<III", pirq, 0, 0) == 0
    port = k.word(ARGUMENTS + 8)
    assert k.ask(PHYSDEV_OP, 5, "<II", pirq, 99) == 0
    assert k.word(ARGUMENTS + 4) == 0  # it needs no end
    assert not k.pending(port)
    k.board.message(0xFEE0_0000 | pirq << 12, 0x4300)
    assert k.pending(port)
    assert k.ask(EVENT_OP, UNMASK, "<I", port) == 0
