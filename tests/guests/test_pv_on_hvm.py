"""Xen beside a PC: how a guest finds it, calls it, places its pages, and gets rid of emulated devices."""

from __future__ import annotations

import struct

import pytest

from hv.mode import Mode
from modes.full_emulation.translator.mode import FullEmulation
from modes.hw_assist.mode import HwAssist
from modes.paravirt.hvm.card import PlatformCard
from modes.paravirt.mode import Paravirt
from tests.hvm_rig import (
    ARGUMENTS,
    BOTH,
    BY_VECTOR,
    CALLS,
    EFAULT,
    EINVAL,
    ENOSYS,
    EPERM,
    HELP,
    SELF,
    SHARED,
    result,
    run,
    signed,
)
from tests.support import DATA, RawGuest, Where

# --- finding and calling it ---------------------------------------------------------------------------------------


@BOTH
def test_cpuid_says_who_is_there_and_where_the_hypercalls_are(where: Where) -> None:
    code = "mov $DATA, %ebp; mov $0x40000000, %r8d; 1: mov %r8d, %eax; xor %ecx, %ecx; cpuid; mov %eax, (%rbp);"
    code += "mov %ebx, 4(%rbp); mov %ecx, 8(%rbp); mov %edx, 12(%rbp); add $16, %ebp; inc %r8d;"
    code += "cmp $0x40000006, %r8d; jne 1b; finish"
    guest = run(code, where)
    leaves = [struct.unpack("<4I", guest.read(DATA + 16 * leaf, 16)) for leaf in range(6)]
    assert leaves[0][0] == 0x4000_0004
    assert struct.pack("<3I", *leaves[0][1:]) == b"XenVMMXenVMM"
    assert leaves[1][0] >> 16 >= 3
    assert leaves[2][:2] == (1, 0x4000_0000)
    assert leaves[3][2] == 2_500_000  # kHz
    assert leaves[4][0] >> 6 & 1 == (where == BY_VECTOR)
    assert leaves[4][1:3] == (0, 1)  # this vCPU, this domain
    assert leaves[5] == (0, 0, 0, 0)


def test_the_page_of_hypercalls_has_a_stub_for_each() -> None:
    page = run("find_xen; finish").read(CALLS, 0x1000)
    assert page[32 * 17 :][:9] == bytes.fromhex("b811000000 0f01d9 c3")
    assert page[32 * 23 :][:2] == b"\x0f\x0b"  # iret: there is none


@pytest.mark.parametrize("value", [0x4_6001, 0x4000_0000, 1 << 51, (1 << 64) - 0x1000])
def test_the_page_must_be_the_guest_s_own(value: int) -> None:
    code = f"lea 1f, %r15; mov $0x40000000, %ecx; mov ${value & 0xFFFF_FFFF}, %eax; mov ${value >> 32}, %edx; wrmsr;"
    assert [record.vector for record in run(code + "1: finish").log] == [13]


def test_the_msr_reads_as_zero_and_its_neighbours_are_not_there() -> None:
    code = "mov $0x40000000, %ecx; rdmsr; mov %eax, DATA; mov %edx, DATA+4; lea 1f, %r15; inc %ecx; rdmsr; 1: finish"
    guest = run("movq $-1, DATA;" + code)
    assert guest.words(1) == [0]
    assert [record.vector for record in guest.log] == [13]


def test_programs_may_not_call() -> None:
    guest = run("find_xen; to_user user; user: mov $17, %eax; xor %edi, %edi; vmmcall; mov %rax, DATA; int $0x80")
    assert signed(guest.words(1)[0]) == -EPERM


@pytest.mark.parametrize(("number", "errno"), [(1, ENOSYS), (26, ENOSYS), (63, ENOSYS), (0xFFFF_FFFF, ENOSYS)])
def test_calls_of_pv_domains_are_not_there(number: int, errno: int) -> None:
    assert result(f"mov ${number}, %eax; vmmcall;") == -errno


def test_each_call_is_an_exit_with_its_own_reason() -> None:
    guest = run("find_xen; hypercall xen_version, 0, $0; hypercall sched_op, 0, $0; mov $99, %eax; vmmcall; finish")
    names = ("hypercall.xen_version", "hypercall.sched_op", "hypercall.unknown", "msr", "vmmcall")
    assert [guest.exits.get(name, 0) for name in names] == [1, 1, 1, 1, 0]


@BOTH
def test_features_say_whether_upcalls_come_by_vector(where: Where) -> None:
    code = "find_xen; movq $0, ARGUMENTS; hypercall xen_version, 6, $ARGUMENTS; mov ARGUMENTS+4, %eax; mov %rax, DATA;"
    features = run(code + "finish", where).words(1)[0]
    assert features & 5 == 5  # page tables are its own, and so are its frame numbers
    assert features >> 8 & 1 == (where == BY_VECTOR)


def test_a_list_of_calls_in_one_exit() -> None:
    entries = struct.pack("<8Q", 17, 77, 0, 0, 0, 0, 0, 0) + struct.pack("<8Q", 1, 77, 0, 0, 0, 0, 0, 0)
    code = "find_xen; mov $ARGUMENTS, %edi; mov $2, %esi; mov $13, %eax; vmmcall; mov %rax, DATA; finish"
    guest = run(code, memory={ARGUMENTS: entries})
    assert guest.words(1) == [0]
    first, second = guest.words(1, ARGUMENTS + 8)[0], guest.words(1, ARGUMENTS + 72)[0]
    assert (first >> 16, signed(second)) == (4, -ENOSYS)


# --- pointers and pages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pointer", ["$0x400000", "$0xC0000000", "$0x800000000000", "$-8", "$0x3FFFFC"])
def test_a_bad_pointer_is_refused(pointer: str) -> None:
    """Not mapped, where a chip is not, not canonical, at the very end, half of it mapped."""
    assert result(f"mov {pointer}, %rsi; mov $6, %edi; mov $17, %eax; vmmcall;") == -EFAULT


def test_a_read_only_page_is_not_written_for_the_guest() -> None:
    """The entry of page 0x44 loses its writable bit; CR0.WP is set."""
    assert result("andq $~2, 0x4000 + 8 * 0x44; invlpg ARGUMENTS; hypercall xen_version, 6, $ARGUMENTS;") == -EFAULT


def test_shared_info_comes_where_the_guest_wants_it() -> None:
    code = "movq $0x1111, SHARED; find_xen; place; mov %rax, DATA; mov SHARED+0xC00, %rax; mov %rax, DATA+8;"
    code += "mov SHARED+32, %eax; mov %rax, DATA+16; finish"
    outcome, wallclock, version = run(code).words(3)
    assert (outcome, version) == (0, 2)
    assert wallclock >> 32 == 1_511_913_600  # seconds


def test_a_page_is_at_one_place_only_and_leaves_a_hole() -> None:
    code = "find_xen; place; movq $5, SHARED; movq $SHARED/4096+1, ARGUMENTS+16; hypercall memory_op, 7, $ARGUMENTS;"
    code += "mov SHARED, %rax; mov %rax, DATA; mov SHARED+0x1000, %rax; mov %rax, DATA+8; finish"
    assert run(code).words(2) == [(1 << 64) - 1, 5]


def test_frames_are_given_back_and_come_back_empty() -> None:
    frames = struct.pack("<2QIIH6x", DATA + 64, 1, 0, 0, SELF) + struct.pack("<HHIQ", SELF, 0, 0, 0)
    code = f"find_xen; movq $SHARED/4096, DATA+64; movq $9, SHARED; hypercall memory_op, 1, ${ARGUMENTS};"
    code += f"mov %rax, DATA; mov SHARED, %rax; mov %rax, DATA+8; hypercall memory_op, 3, ${ARGUMENTS + 32};"
    code += f"mov %rax, DATA+16; hypercall memory_op, 6, ${ARGUMENTS}; mov %rax, DATA+24; mov SHARED, %rax;"
    code += f"mov %rax, DATA+32; hypercall memory_op, 6, ${ARGUMENTS}; mov %rax, DATA+40; finish"
    assert run(code, memory={ARGUMENTS: frames}).words(6) == [1, (1 << 64) - 1, 4095, 1, 0, 0]


@pytest.mark.parametrize(
    ("domain", "space", "index", "frame", "errno"),
    [
        (0, 0, 0, 0x47, EPERM), (5, 0, 0, 0x47, 3), (SELF, 0, 1, 0x47, EINVAL), (SELF, 1, 64, 0x47, EINVAL),
        (SELF, 2, 0, 0x47, ENOSYS), (SELF, 0, 0, 1 << 28, EINVAL), (SELF, 0, 0, (1 << 64) - 1, EINVAL),
    ],
)  # fmt: skip
def test_placing_nonsense_is_refused(domain: int, space: int, index: int, frame: int, errno: int) -> None:
    memory = {ARGUMENTS: struct.pack("<HHIQQ", domain, 0, space, index, frame)}
    assert result("hypercall memory_op, 7, $ARGUMENTS;", memory=memory) == -errno


def test_pages_of_the_grant_table_are_placed_and_kept() -> None:
    memory = {ARGUMENTS: struct.pack("<HHIQQ", SELF, 0, 1, 3, 0x47)}
    code = "find_xen; hypercall memory_op, 7, $ARGUMENTS; mov %rax, DATA; movq $7, SHARED; mov SHARED, %rax;"
    guest = run(code + "mov %rax, DATA+8; finish", memory=memory)
    assert guest.words(2) == [0, 7]
    assert guest.word(SHARED) == 0  # in the guest's own RAM nothing was written


def test_the_grant_table_s_frames_are_named_as_the_guest_has_placed_them() -> None:
    setup = struct.pack("<HHIh6xQ", SELF, 0, 2, 0, DATA + 8)
    memory = {ARGUMENTS: struct.pack("<HHIQQ", SELF, 0, 1, 1, 0x47), ARGUMENTS + 32: setup}
    code = "find_xen; hypercall memory_op, 7, $ARGUMENTS; mov $ARGUMENTS + 32, %esi; mov $2, %edi; mov $1, %edx;"
    code += "mov $20, %eax; vmmcall; mov %rax, DATA; finish"
    assert run(code, memory=memory).words(3) == [0, (1 << 64) - 1, 0x47]


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "index", "domain", "expected"),
    [
        (1, 1, SELF, 0), (1, 2, SELF, 0), (1, 0, SELF, 0), (1, 17, SELF, 0), (1, 5, SELF, -EPERM),
        (1, 1, 0, -EPERM), (1, 1, 77, -3), (1, 39, SELF, -EINVAL), (1, 0xFFFF_FFFF, SELF, -EINVAL),
        (0, 0, SELF, 0), (0, 15, SELF, 0), (0, 1, SELF, -EPERM), (0, 10, SELF, -EPERM), (0, 0, 0, -EPERM),
        (99, 0, SELF, -ENOSYS),
    ],
)  # fmt: skip
def test_parameters(call: int, index: int, domain: int, expected: int) -> None:
    memory = {ARGUMENTS: struct.pack("<HHIQ", domain, 0, index, 0)}
    assert result(f"hypercall hvm_op, {call}, $ARGUMENTS;", memory=memory) == expected


def test_the_store_s_ring_is_where_the_parameter_says() -> None:
    """Its page is at the end of the 4 GiB, which a raw guest has not mapped: page 0x47 becomes that address."""
    memory = {ARGUMENTS: struct.pack("<HHIQ", SELF, 0, 1, 0)}
    code = "find_xen; hypercall hvm_op, 1, $ARGUMENTS; mov ARGUMENTS+8, %rax; mov %rax, DATA; shl $12, %rax;"
    code += "or $3, %rax; mov %rax, 0x4000 + 8 * 0x47; invlpg SHARED; mov SHARED+2068, %eax; mov %rax, DATA+8; finish"
    guest = run(code, memory=memory)
    assert guest.words(2) == [0xFEFFC, 0]  # the connection is there


# --- unplugging ---------------------------------------------------------------------------------------------------


def test_the_ports_of_the_unplug_protocol() -> None:
    code = "mov $0x10, %edx; in %dx, %ax; mov %ax, DATA; mov $0x12, %edx; in %dx, %al; mov %al, DATA+2;"
    code += "mov $3, %ax; out %ax, %dx; mov $0x10, %edx; mov $7, %eax; out %eax, %dx; in %dx, %ax; mov %ax, DATA+4;"
    assert run(code + "finish").read(DATA, 6) == struct.pack("<HBxH", 0x49D2, 1, 0x49D2)


class Both(Where):
    """An emulated network card and emulated disks beside Xen's platform device."""

    @property
    def modes(self) -> dict[str, type[Mode]]:
        return {"cpu": HwAssist, "net": FullEmulation, "local": FullEmulation, "interrupts": Paravirt}


IDE, NIC = 0x8000_0900, 0x8000_1800  # configuration addresses
LOOK = """
.macro look place, to           /* vendor and device */
    mov $0xCF8, %edx
    mov $\\place, %eax
    out %eax, %dx
    mov $0xCFC, %edx
    in %dx, %eax
    mov %eax, \\to
.endm
"""


@pytest.mark.parametrize(
    ("bits", "ide", "nic"), [(0, True, True), (1, False, True), (2, True, False), (0xFFFF, False, False)]
)
def test_what_is_unplugged_is_gone_also_after_a_snapshot(bits: int, ide: bool, nic: bool) -> None:
    code = LOOK + f"mov $0x10, %edx; mov ${bits}, %ax; out %ax, %dx; sti; hlt; look {IDE}, DATA; look {NIC}, DATA+4;"
    code += "mov $0x1F7, %edx; in %dx, %al; mov %al, DATA+8; finish"
    guest = RawGuest(HELP + code, Both(HwAssist))
    guest.run(100_000)
    guest.vm.restore(guest.vm.snapshot())
    guest.cpu.halted = False
    guest.finish()
    gone = 0xFFFF_FFFF
    assert struct.unpack("<II", guest.read(DATA, 8)) == (0x7010_8086 if ide else gone, 0x100E_8086 if nic else gone)


def test_an_unwanted_driver_is_told_so_and_unplugs_nothing() -> None:
    asked: list[int] = []
    card = PlatformCard(asked.append, unwanted=frozenset([(3, 77)]))
    card.port_write(2, 2, 3)
    card.port_write(0, 4, 77)
    assert card.port_read(0, 2) == 0xD249
    card.port_write(0, 2, 3)
    card.port_write(0, 4, 78)
    assert card.port_read(0, 2) == 0x49D2
    card.port_write(0, 2, 1)
    assert asked == [1]
