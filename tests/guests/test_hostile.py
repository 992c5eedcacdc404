"""Guests that do what no guest should: the process lives, and the machine goes on or ends with one clear line."""

from __future__ import annotations

import random
import struct

import pytest

from hv.silicon.timing import MILLI
from hv.silicon.x86_64 import machine as machine_module
from hv.silicon.x86_64.machine import Ended
from tests.support import CODE, DATA, EVERYWHERE, GDT, NATIVE_HW, NATIVE_METAL, PT, RawGuest, Where

everywhere = pytest.mark.parametrize("where", EVERYWHERE)

# What ends a machine, with a word of its report.
FATAL = {
    "CR3 at nothing": ("mov $0x7000000, %eax; mov %rax, %cr3; nop", ""),
    "CR3 at zeros": ("mov $0x200000, %eax; mov %rax, %cr3; nop", "triple fault"),
    "CR3 far away": ("mov $0xFFFFFFF000, %rax; mov %rax, %cr3; nop", ""),
    "an empty IDT": ("lidt DATA; ud2", "triple fault"),
    "an IDT at nothing": ("movw $0xFFF, DATA; movq $0x70000000, DATA+2; lidt DATA; ud2", "triple fault"),
    "an IDT that is not canonical": ("movw $0xFFF, DATA; movb $0x80, DATA+8; lidt DATA; ud2", "triple fault"),
}


@everywhere
@pytest.mark.parametrize("name", FATAL)
def test_a_machine_that_cannot_go_on_says_so_in_one_line(where: Where, name: str) -> None:
    code, word = FATAL[name]
    assert word in RawGuest(code, where).crash()


# What a kernel survives: it gets an exception, or nothing happens. (code, vectors that may come)
SURVIVED = {
    "null TR": ("xor %eax, %eax; ltr %ax", {13}),
    "TR at a data segment": ("mov $0x10, %eax; ltr %ax", {13}),
    "TR beyond the GDT": ("mov $0xFFF8, %eax; ltr %ax", {13}),
    "TR that is busy": ("mov $0x30, %eax; ltr %ax", {13}),
    "null TR from memory": ("movw $3, DATA; ltr DATA", {13}),
    "TR from memory that is not there": ("ltr NOT_MAPPED", {14}),
    "TR from memory": ("movb $0x89, 0x6035; movw $0x30, DATA; mov $DATA-8, %r9d; ltr 8(%r9)", set()),
    "LDT at a code segment": ("mov $8, %eax; lldt %ax", {13}),
    "GDT at nothing, then a load of DS": (
        "movw $0xFFF, DATA; movq $NOT_MAPPED, DATA+2; sgdt DATA+16; lgdt DATA; mov $0x10, %eax; mov %eax, %ds; 8:",
        {13, 14, 8},
    ),
    "a jump to a page that is not there": ("mov $NOT_MAPPED, %eax; jmp *%rax", {14}),
    "a jump to no canonical address": ("mov $0x900000000000, %rax; jmp *%rax", {13}),
    "a return to no canonical address": ("mov $0x900000000000, %rax; push %rax; ret", {13}),
    "DR7": ("mov $0x4FF, %eax; mov %rax, %dr0; mov %rax, %dr7; mov %dr7, %rbx", set()),
    "MONITOR": ("monitor", {6}),
    "MWAIT": ("mwait", {6}),
    "RDPMC": ("xor %ecx, %ecx; rdpmc", {13}),
    "XSETBV": ("xor %ecx, %ecx; mov $3, %eax; xor %edx, %edx; xsetbv", {6}),
    "XGETBV": ("xor %ecx, %ecx; xgetbv", {6}),
    "SYSENTER": ("sysenter", {6}),
    "SYSEXIT": ("sysexit", {6, 13}),
    "RSM": ("rsm", {6}),
    "VMCALL": ("vmcall", {6}),
    "a 32-bit far jump": ("ljmp *DATA", {13, 14}),
    "CR8 with a bit that must be zero": ("mov $0x10, %eax; mov %rax, %cr8", {13}),
    "CR8 with its highest bit": ("movabs $0x8000000000000001, %r9; mov %r9, %cr8", {13}),
    "CR8 with a good value": ("mov $0xF, %r9d; .byte 0x66; mov %r9, %cr8; mov %cr8, %rax", set()),
    "CR5": (".byte 0x0F, 0x20, 0xE8", {6}),
}


@everywhere
@pytest.mark.parametrize("name", SURVIVED)
def test_a_kernel_gets_an_exception_and_lives(where: Where, name: str) -> None:
    code, vectors = SURVIVED[name]
    guest = RawGuest(f"lea after(%rip), %r15; {code}; after: nop; finish", where)
    outcome = guest.run()
    if isinstance(outcome, Ended):
        assert name == "GDT at nothing, then a load of DS"
        assert "\n" not in outcome.report
        return
    came = {record.vector for record in guest.log}
    assert came <= vectors
    assert bool(came) == bool(vectors)


# Unicorn does not refuse these control register values.
RESERVED = [
    "mov $0x80000000, %eax; mov %rax, %cr0",
    "xor %eax, %eax; mov %rax, %cr4",
]


@everywhere
@pytest.mark.parametrize("code", RESERVED)
def test_a_bad_control_register_value_goes_on_or_ends_with_a_line(where: Where, code: str) -> None:
    outcome = RawGuest(f"lea after(%rip), %r15; {code}; after: nop; finish", where).run()
    assert not isinstance(outcome, Ended) or (outcome.report and "\n" not in outcome.report)


@everywhere
def test_a_spin_with_interrupts_off_ends_by_the_watchdog(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "WATCHDOG", 20_000)
    monkeypatch.setattr(machine_module, "SLICE", 5_000 * MILLI)
    report = RawGuest("cli; here: jmp here", where).crash()
    assert "interrupts off" in report


@everywhere
def test_page_tables_that_point_to_themselves(where: Where) -> None:
    """Every level is the same page: address 0 of that slot reads the table itself."""
    code = "movq $0x200007, 0x200000; movq $0x200007, 0x1800; mov $0x800000000000, %rax; shr $1, %rax; "
    guest = RawGuest(code + "neg %rax; mov %rax, DATA; finish", where).finish()
    assert guest.word(DATA)
    memory = {PT + 8 * 0x60: struct.pack("<Q", PT | 7)}
    found = RawGuest("mov 0x60000, %rax; finish", where, memory=memory).finish()
    assert found.registers()["rax"] == 7


ACCESSES = [
    "mov 0x20(%rbp), %al", "mov 0x20(%rbp), %ax", "mov 0x20(%rbp), %rax", "mov %al, 0x80(%rbp)", "mov %ax, 0x80(%rbp)",
    "mov %rax, 0x80(%rbp)", "mov 0x21(%rbp), %eax", "mov 0xFFE(%rbp), %eax", "movzbl 0x23(%rbp), %eax", "movsbl 0x20(%rbp), %eax",  # noqa: E501
    "incl 0x80(%rbp)", "addl $5, 0x80(%rbp)", "xchg %eax, 0x80(%rbp)", "cmpl $0, 0x20(%rbp)", "testb $1, 0x20(%rbp)",
    "push 0x20(%rbp)", "pop 0x80(%rbp)", "movups 0x20(%rbp), %xmm0", "movups %xmm0, 0x80(%rbp)", "mov %rbp, %rsi; movsl",  # noqa: E501
    "mov %rbp, %rdi; mov $9, %ecx; rep stosl", "jmp *%rbp", "jmp *0x20(%rbp)", "call *%rbp", "lgdt 0x20(%rbp)", "fldl 0x20(%rbp)",  # noqa: E501
    "lock incl 0x80(%rbp)", "mov %rbp, %rsp; push %rax", "mov %cs, 0x80(%rbp)", "mov 0x20(%rbp), %ss", "bt %eax, 0x20(%rbp)",  # noqa: E501
    "mov %rbp, %rax; mov %rax, %cr3; nop",
]  # fmt: skip


@everywhere
@pytest.mark.parametrize("base", ["LAPIC", "IOAPIC"])
def test_any_access_to_a_chip_goes_on_or_ends_with_a_line(where: Where, base: str) -> None:
    for access in ACCESSES:
        guest = RawGuest(f"lea after(%rip), %r15; mov ${base}, %ebp; mov $1, %eax; {access}; after: finish", where)
        outcome = guest.run()
        if isinstance(outcome, Ended):
            assert outcome.report, access
            assert "\n" not in outcome.report
        guest.close()


@pytest.mark.parametrize("where", [NATIVE_METAL, NATIVE_HW], ids=["metal", "hw-assist"])
@pytest.mark.parametrize("part", range(4))
def test_random_bytes_as_code_do_no_harm(where: Where, part: int) -> None:
    """Random code from random registers, at ring 0 and 3: it ends, pauses or crashes, and hv lives."""
    for seed in range(part, 240, 4):
        chosen = random.Random(seed)
        code = chosen.randbytes(256)
        memory = {DATA: chosen.randbytes(0x1000)}
        if seed % 3 == 0:
            memory[GDT + 8 * chosen.randrange(1, 6)] = chosen.randbytes(8)
        guest = RawGuest(code, where, memory=memory)
        state = guest.machine.engine.state
        places = (DATA, CODE, 0xFEE0_0000, 0xFEC0_0000, 0x40_0000, 0xFFFF_8000_0000_0000, 0, 0x1000)
        for register in range(16):
            if register != 4:
                state.regs[register] = chosen.choice(places) + chosen.getrandbits(8) * chosen.getrandbits(1)
        if seed % 2:
            guest.vmcb.cs.selector, guest.vmcb.cs.attrib = 0x2B, 0xAFB
            guest.vmcb.ss.selector, guest.vmcb.ss.attrib, guest.vmcb.cpl = 0x23, 0xCF3, 3
        outcome = guest.run(40_000)
        if isinstance(outcome, Ended):
            assert outcome.report
            assert "\n" not in outcome.report
        guest.registers()
        guest.close()
