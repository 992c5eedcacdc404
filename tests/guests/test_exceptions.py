"""Exceptions go through the guest's own IDT as the manual says (AMD64 APM vol. 2, chapter 8), in every mode."""

from __future__ import annotations

import struct

import pytest

from hv.silicon.x86_64.svm import Vmcb
from tests.support import (
    CODE,
    DATA,
    EVERYWHERE,
    GDT,
    IDT,
    KERNEL_CS,
    KERNEL_SS,
    NOT_MAPPED,
    PT,
    STACK,
    STACK_OF_IST_1,
    STACK_OF_RING_0,
    TR,
    TSS,
    UNDER_TRAP,
    USER_CS,
    USER_SS,
    USER_STACK,
    RawGuest,
    Where,
)

IF = 1 << 9
DE, BP, UD, DF, NP, GP, PF = 0, 3, 6, 8, 11, 13, 14
pytestmark = pytest.mark.parametrize("where", EVERYWHERE + UNDER_TRAP)

# name: (code with the label `bad` at the instruction and `after` behind it, vector, error code)
FAULTS = {
    "divide by zero": ("xor %ecx, %ecx; bad: div %ecx; after:", DE, 0),
    "quotient too large": ("mov $5, %edx; mov $1, %ecx; bad: div %ecx; after:", DE, 0),
    "ud2": ("bad: ud2; after:", UD, 0),
    "non-canonical read": ("mov $0x800000000000, %rcx; bad: mov (%rcx), %rax; after:", GP, 0),
    "read of a page that is not there": ("bad: mov NOT_MAPPED, %eax; after:", PF, 0),
    "write to a page that is not there": ("bad: mov %eax, NOT_MAPPED; after:", PF, 2),
    "call to a page that is not there": ("mov $NOT_MAPPED, %rcx; call *%rcx; after:", PF, 0x10),
    "load of a selector beyond the GDT": ("mov $0x100, %ecx; bad: mov %ecx, %ds; after:", GP, 0x100),
}
AT_RING_3 = {
    "cli": ("bad: cli; after:", GP, 0),
    "hlt": ("bad: hlt; after:", GP, 0),
    "mov from cr0": ("bad: mov %cr0, %rax; after:", GP, 0),
    "rdmsr": ("mov $0xC0000080, %ecx; bad: rdmsr; after:", GP, 0),
    "wrmsr": ("mov $0xC0000080, %ecx; bad: wrmsr; after:", GP, 0),
    "in without permission": ("bad: in $0x80, %al; after:", GP, 0),
    "out without permission": ("mov $0x3f8, %dx; bad: out %al, (%dx); after:", GP, 0),
    "lgdt": ("bad: lgdt DATA; after:", GP, 0),
    "invlpg": ("bad: invlpg DATA; after:", GP, 0),
    "swapgs": ("bad: swapgs; after:", GP, 0),
    "sysretq": ("bad: sysretq; after:", GP, 0),
    "load of a ring-0 stack segment": ("mov $0x10, %ecx; bad: mov %ecx, %ss; after:", GP, 0x10),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_ring_0_pushes_its_frame_on_the_current_stack(where: Where, name: str) -> None:
    code, vector, error = FAULTS[name]
    guest = RawGuest(f"lea after(%rip), %r15; {code}; finish", where).finish()
    (record,) = guest.log
    jumped = "call" in name
    assert (record.vector, record.error) == (vector, error)
    assert record.rip == (NOT_MAPPED if jumped else guest["bad"])
    assert (record.cs, record.ss) == (KERNEL_CS, KERNEL_SS)
    assert record.rsp == (STACK - 8 if jumped else STACK)
    assert record.frame == STACK - 16 * jumped - 48  # aligned; SS, RSP, RFLAGS, CS, RIP, error code
    if vector == PF:
        assert record.cr2 == NOT_MAPPED


@pytest.mark.parametrize("name", AT_RING_3 | FAULTS)
def test_a_fault_at_ring_3_switches_to_the_stack_in_the_tss(where: Where, name: str) -> None:
    code, vector, error = (AT_RING_3 | FAULTS)[name]
    if vector == PF:
        error |= 4
    guest = RawGuest(f"lea after(%rip), %r15; to_user user; user: {code}; int $0x80", where).finish()
    record, end = guest.log
    jumped = "call" in name
    assert (record.vector, record.error) == (vector, error)
    assert record.rip == (NOT_MAPPED if jumped else guest["bad"])
    assert (record.cs, record.ss) == (USER_CS, USER_SS)
    assert record.rsp == USER_STACK - 8 * jumped
    assert record.frame == STACK_OF_RING_0 - 48
    assert end.vector == 0x80
    assert end.frame == STACK_OF_RING_0 - 48


@pytest.mark.parametrize(
    ("entry", "code", "error"),
    [
        (0, "mov DATA+0x3000, %eax", 4),
        (0, "mov %eax, DATA+0x3000", 6),
        (1, "mov DATA+0x3000, %eax", 5),
        (5, "mov %eax, DATA+0x3000", 7),
        (1 << 63 | 7, "mov $DATA+0x3000, %rcx; jmp *%rcx", 0x15),
    ],
)
def test_a_page_fault_at_ring_3_says_what_was_wrong(where: Where, entry: int, code: str, error: int) -> None:
    """Bit 0 the page was there, 1 a write, 2 from ring 3, 4 a fetch (APM vol. 2, 8.4.2)."""
    page = DATA + 0x3000
    guest = RawGuest(
        f"lea after(%rip), %r15; to_user user; user: {code}; after: int $0x80",
        where,
        memory={PT + 8 * (page >> 12): struct.pack("<Q", page | entry if entry else 0)},
    ).finish()
    record = guest.log[0]
    assert (record.vector, record.error, record.cr2) == (PF, error, page)


def test_a_write_to_a_read_only_page_faults_at_ring_0_too(where: Where) -> None:
    page = DATA + 0x3000
    entry = {PT + 8 * (page >> 12): struct.pack("<Q", page | 1)}
    guest = RawGuest("lea after(%rip), %r15; mov %eax, DATA+0x3018; after: finish", where, memory=entry).finish()
    assert [(r.vector, r.error, r.cr2) for r in guest.log] == [(PF, 3, page + 0x18)]


def test_a_fault_can_be_repaired_and_the_instruction_is_tried_again(where: Where) -> None:
    """The handler maps the page and returns to the instruction: it completes, and is one instruction."""
    code = f"""
        movq $0x1234, DATA
        mov NOT_MAPPED, %rcx
        mov %rcx, DATA+8
        finish
    repair:
        movq $0x83, {0x3000 + 8 * 2}
        add $8, %rsp
        iretq
    """
    guest = RawGuest(code, where, gates={PF: ("repair", {})}, memory={NOT_MAPPED: b"\x77"}).finish()
    assert guest.words(2) == [0x1234, 0]  # 0x83 maps physical 0, which is empty
    assert guest.retired == 5 + 3


def test_int3_and_int_n_are_traps_that_return_behind_the_instruction(where: Where) -> None:
    guest = RawGuest("int3; a: int $3; b: int $0x55; c: finish", where).finish()
    assert [(r.vector, r.error, r.rip) for r in guest.log] == [
        (BP, 0, guest["a"]), (BP, 0, guest["b"]), (0x55, 0, guest["c"]),
    ]  # fmt: skip


@pytest.mark.parametrize("ring", [0, 3])
def test_an_interrupt_gate_clears_if_and_a_trap_gate_does_not(where: Where, ring: int) -> None:
    start = "to_user user; user:" if ring else ""
    guest = RawGuest(
        f"push $0x202; popf; {start} int $0x70; int $0x71; {'int $0x80' if ring else 'finish'}",
        where,
        gates={0x70: ("", {"dpl": 3, "kind": 0xE}), 0x71: ("", {"dpl": 3, "kind": 0xF})},
    ).finish()
    first, second = guest.log[:2]
    kept = 0 if ring else IF  # to_user starts ring 3 with interrupts off
    assert (first.rflags & IF, first.flags_in_handler & IF) == (kept, 0)
    assert (second.rflags & IF, second.flags_in_handler & IF) == (kept, kept)


def test_an_exception_clears_tf_nt_and_keeps_the_arithmetic_flags_in_the_frame(where: Where) -> None:
    guest = RawGuest("push $0x4ED7; popf; lea a(%rip), %r15; ud2; a: finish", where).finish()
    (record,) = guest.log
    assert record.rflags & 0xFFFF == 0x4ED7  # NT OF DF IF SF ZF AF PF CF and the fixed bit; RF is above
    assert record.flags_in_handler & 0x4300 == 0  # NT TF IF


def test_a_gate_with_an_ist_switches_the_stack_at_the_same_ring(where: Where) -> None:
    guest = RawGuest("lea a(%rip), %r15; ud2; a: finish", where, gates={UD: ("", {"ist": 1})}).finish()
    (record,) = guest.log
    assert (record.rsp, record.ss, record.frame) == (STACK, KERNEL_SS, STACK_OF_IST_1 - 48)


def test_a_frame_is_aligned_to_16_bytes(where: Where) -> None:
    guest = RawGuest("sub $5, %rsp; lea a(%rip), %r15; ud2; a: finish", where).finish()
    (record,) = guest.log
    assert (record.rsp, record.frame) == (STACK - 5, STACK - 16 - 48)


@pytest.mark.parametrize("vector", [3, 0x0D, 0x31, 0x55])
def test_int_n_that_its_gate_forbids_is_a_general_protection_at_the_instruction(where: Where, vector: int) -> None:
    """The error code is the gate's place in the IDT: vector * 8 + 2 (APM vol. 2, 8.4.1)."""
    guest = RawGuest(
        f"lea after(%rip), %r15; to_user user; user: nop; bad: int ${vector}; after: int $0x80", where
    ).finish()
    record, _ = guest.log
    assert (record.vector, record.error, record.rip) == (GP, vector * 8 + 2, guest["bad"])
    assert (record.cs, record.rsp, record.frame) == (USER_CS, USER_STACK, STACK_OF_RING_0 - 48)


def test_int_n_at_ring_0_may_use_any_gate_and_pushes_no_error_code(where: Where) -> None:
    guest = RawGuest("int $13; a: finish\ngp: mov (%rsp), %rax; mov %rax, DATA; iretq", where, gates={GP: ("gp", {})})
    guest.finish()
    assert guest.words(1) == [guest["a"]]


@pytest.mark.parametrize("ring", [0, 3])
def test_an_absent_gate_is_segment_not_present(where: Where, ring: int) -> None:
    start = "to_user user; user:" if ring else ""
    guest = RawGuest(
        f"lea after(%rip), %r15; {start} bad: int $0x60; after: {'int $0x80' if ring else 'finish'}",
        where,
        gates={0x60: ("", {"present": 0, "dpl": 3})},
    ).finish()
    record = guest.log[0]
    assert (record.vector, record.error, record.rip) == (NP, 0x60 * 8 + 2, guest["bad"])


def test_an_absent_gate_of_a_fault_sets_the_ext_bit_only_for_events_from_outside(where: Where) -> None:
    """#UD through an absent gate: #NP with IDT = 1 and EXT = 1, for the event was no INT n (APM vol. 2, 8.4.1)."""
    guest = RawGuest("lea a(%rip), %r15; bad: ud2; a: finish", where, gates={UD: ("", {"present": 0})}).finish()
    (record,) = guest.log
    assert (record.vector, record.rip) == (NP, guest["bad"])
    assert record.error in (UD * 8 + 2, UD * 8 + 3)


def test_int_n_beyond_the_idt_limit_is_a_general_protection(where: Where) -> None:
    def short_idt(vmcb: Vmcb) -> None:
        vmcb.idtr.limit = 0x90 * 16 - 1

    guest = RawGuest("lea a(%rip), %r15; bad: int $0x91; a: finish", where, prepare=short_idt).finish()
    (record,) = guest.log
    assert (record.vector, record.error, record.rip) == (GP, 0x91 * 8 + 2, guest["bad"])


def test_a_fault_while_a_page_fault_is_delivered_is_a_double_fault(where: Where) -> None:
    """The gate of #PF is absent: #NP while delivering #PF gives #DF with error code 0 (APM vol. 2, 8.2.9)."""
    guest = RawGuest(
        "lea a(%rip), %r15; bad: mov NOT_MAPPED, %eax; a: finish", where, gates={PF: ("", {"present": 0})}
    ).finish()
    (record,) = guest.log
    assert (record.vector, record.error, record.rip) == (DF, 0, guest["bad"])


def test_a_page_fault_on_the_stack_is_a_double_fault_on_its_ist(where: Where) -> None:
    """The kernel's stack pointer is bad: delivering #PF faults again, and #DF comes on a good stack."""
    guest = RawGuest(
        "mov %rsp, %rdi; mov $NOT_MAPPED+0x800, %rsp; lea a(%rip), %r15; bad: push %rax; a: mov %rdi, %rsp; finish",
        where,
        gates={DF: ("", {"ist": 1})},
    ).finish()
    (record,) = guest.log
    assert (record.vector, record.error, record.rip) == (DF, 0, guest["bad"])
    assert (record.rsp, record.frame) == (NOT_MAPPED + 0x800, STACK_OF_IST_1 - 48)


def test_two_faults_one_after_the_other_are_no_double_fault(where: Where) -> None:
    """A handler that itself faults after its delivery: two separate exceptions."""
    code = """
        lea a(%rip), %r15
        ud2
    a:  lea b(%rip), %r15
        xor %ecx, %ecx
        div %ecx
    b:  lea c(%rip), %r15
        mov NOT_MAPPED, %eax
    c:  lea d(%rip), %r15
        mov NOT_MAPPED, %eax
    d:  finish
    """
    assert [record.vector for record in RawGuest(code, where).finish().log] == [UD, DE, PF, PF]


def test_no_way_to_deliver_the_double_fault_ends_the_machine(where: Where) -> None:
    absent = {vector: ("", {"present": 0}) for vector in (UD, DF, NP)}
    assert "triple fault" in RawGuest("ud2", where, gates=absent).crash()


def test_an_empty_idt_ends_the_machine(where: Where) -> None:
    assert "triple fault" in RawGuest(f"lidt {DATA}; int3", where, memory={DATA: bytes(10)}).crash()


def test_a_far_return_to_ring_3_and_a_call_gate_of_the_gdt_keep_the_rings_apart(where: Where) -> None:
    """CS and SS in the frame of the next exception say which ring it came from."""
    guest = RawGuest(
        f"push ${USER_SS}; push ${USER_STACK}; push ${USER_CS}; push $user; lretq; user: int $0x80", where
    ).finish()
    (record,) = guest.log
    assert (record.cs, record.ss, record.rsp) == (USER_CS, USER_SS, USER_STACK)


def test_syscall_and_sysretq_follow_the_manual(where: Where) -> None:
    """APM vol. 3, SYSCALL and SYSRET: RCX, R11, the mask, the selectors, and RSP left alone."""
    code = """
        mov $0xC0000081, %ecx; xor %eax, %eax; mov $0x00180008, %edx; wrmsr
        mov $0xC0000082, %ecx; mov $entry, %eax; xor %edx, %edx; wrmsr
        mov $0xC0000084, %ecx; mov $0x301, %eax; wrmsr
        mov $0xC0000080, %ecx; rdmsr; or $1, %eax; wrmsr
        to_user user
    user:
        stc
        syscall
    back:
        mov %ss, %eax; mov %eax, DATA+48
        mov %cs, %eax; mov %eax, DATA+56
        int $0x80
    entry:
        mov %rcx, DATA
        mov %r11, DATA+8
        pushf
        popq DATA+16
        mov %cs, %eax; mov %eax, DATA+24
        mov %ss, %eax; mov %eax, DATA+32
        mov %rsp, DATA+40
        sysretq
    """
    guest = RawGuest(code, where).finish()
    rcx, r11, flags, cs, ss, rsp, ss3, cs3 = guest.words(8)
    assert (rcx, r11 & 0xFFFF, flags & 0x301) == (guest["back"], 0x3, 0)
    assert (cs, ss, rsp) == (KERNEL_CS, KERNEL_SS, USER_STACK)
    assert (cs3, ss3) == (USER_CS, USER_SS)


def test_syscall_without_sce_and_sysenter_are_undefined(where: Where) -> None:
    guest = RawGuest(
        "lea b(%rip), %r15; to_user user; user: a: syscall; b: lea d(%rip), %r15; c: sysenter; d: int $0x80",
        where,
        prepare=lambda vmcb: setattr(vmcb, "efer", 0xD00),
    ).finish()
    assert [(r.vector, r.rip) for r in guest.log[:2]] == [(UD, guest["a"]), (UD, guest["c"])]


def test_the_io_permission_bitmap_lets_a_port_through(where: Where) -> None:
    """A TSS with a bitmap: port 0x80 is free, 0x81 is not (APM vol. 2, 12.2.5)."""
    bitmap = bytes(0x10) + b"\x02" + b"\xff" * 16
    tss = struct.pack("<H", 0x68) + bitmap

    descriptor = struct.pack("<HHBBBBII", 0x68 + len(bitmap) - 1, TSS & 0xFFFF, TSS >> 16, 0x89, 0, 0, 0, 0)
    guest = RawGuest(
        f"mov ${TR}, %eax; ltr %ax; lea a(%rip), %r15; to_user user; user: in $0x80, %al; mov %al, DATA; bad: in $0x81, %al; a: int $0x80",  # noqa: E501
        where,
        memory={TSS + 0x66: tss, GDT + TR: descriptor},
    ).finish()
    record = guest.log[0]
    assert (record.vector, record.error, record.rip) == (GP, 0, guest["bad"])
    assert guest.read(DATA, 1) == b"\xff"


def test_the_tables_of_a_guest_stand_where_the_tests_believe(where: Where) -> None:
    """SGDT, SIDT and STR tell the guest its own values, not the silicon's."""
    guest = RawGuest("sgdt DATA; sidt DATA+16; str %eax; mov %eax, DATA+32; finish", where).finish()
    assert struct.unpack("<HQ", guest.read(DATA, 10)) == (0x3F, GDT)
    assert struct.unpack("<HQ", guest.read(DATA + 16, 10)) == (0xFFF, IDT)
    assert guest.word(DATA + 32) == 0x30
    assert guest.registers()["rip"] > CODE
