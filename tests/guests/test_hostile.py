"""Guests that do what no guest should: the process lives, and the machine goes on or ends with one clear line."""

from __future__ import annotations

import struct

import pytest

from hv.silicon.timing import MILLI
from hv.silicon.x86_64 import machine as machine_module
from hv.silicon.x86_64.machine import Ended, Idle
from modes.full_emulation.mode import TrapAndEmulate
from modes.hw_assist.shadow import HwShadow
from modes.shadow import pager
from tests.fuzz.random_bytes import run_random_bytes
from tests.support import (
    CODE,
    DATA,
    EVERYWHERE,
    NATIVE,
    NATIVE_METAL,
    PD,
    PDPT,
    PML4,
    PT,
    UNDER_SHADOW,
    UNDER_TRAP,
    RawGuest,
    Where,
)

everywhere = pytest.mark.parametrize("where", [*EVERYWHERE, *UNDER_TRAP])
shadowed = pytest.mark.parametrize("where", [*UNDER_SHADOW, *UNDER_TRAP])

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


@pytest.mark.parametrize("where", NATIVE, ids=[where.mode.id for where in NATIVE])
@pytest.mark.parametrize("part", range(4))
def test_random_bytes_as_code_do_no_harm(where: Where, part: int) -> None:
    """Random code from random registers, at ring 0 and 3: it ends, pauses or crashes, and hv lives."""
    for seed in range(part, 240, 4):
        run_random_bytes(seed, where)


OWN_LEVELS = (
    f"movq ${PML4 | 7:#x}, {PML4 + 40:#x}; mov $(5<<39|5<<30|5<<21|5<<12), %rbx; movq $0, 56(%rbx); incq 72(%rbx);"
    "lock orq $0x20, 40(%rbx); mov %rbx, %rdi; add $80, %rdi; mov $9, %ecx; rep stosq; finish"
)
# What ends in the same way wherever shadow tables are, and on metal: (code, memory).
ALIKE: dict[str, tuple[str, dict[int, bytes]]] = {
    "a CR3 in a device": ("mov $0xFEE00000, %eax; mov %rax, %cr3; nop; finish", {}),
    "reserved bits in CR3": ("mov $0xFFF0000000001000, %rax; mov %rax, %cr3; nop; finish", {}),
    "an IDT that is unmapped": (f"movq $0, {PT + 8 * 7:#x}; invlpg 0x7000; mov NOT_MAPPED, %rax; finish", {}),
    "a TSS that is unmapped": (f"movq $0, {PT + 8 * 8:#x}; invlpg 0x8000; to_user u; u: ud2; finish", {}),
    "a stack in a page table": (f"mov ${PT + 0x900:#x}, %esp; lea 1f(%rip), %r15; ud2; 1: int $0x55; finish", {}),
    "code in a page table": (
        "lea 1f(%rip), %r15; mov 0xA00000, %rax; 1: movb $0x90, patch(%rip); patch: hlt; finish",
        {PD + 8 * 5: struct.pack("<Q", CODE | 7)},
    ),
    "page tables in code": (
        f"mov ${PT + 0x900:#x}, %ebx; movb $0xC3, (%rbx); call *%rbx; movq $0xC390, (%rbx); call *%rbx; finish", {}
    ),
    "a table that is all levels, and changes itself": (OWN_LEVELS, {}),
    "kernel code that rewrites itself": (
        "mov $3, %ecx; 1: incl patch+1; patch: mov $5, %eax; dec %ecx; jnz 1b; mov %rax, DATA; finish", {}
    ),
    "paging switched off in 64-bit code": (
        "mov %cr0, %rax; and $0x7FFFFFFF, %eax; lea 1f(%rip), %r15; mov %rax, %cr0; 1: finish", {}
    ),
}  # fmt: skip


@shadowed
@pytest.mark.parametrize("name", ALIKE)
def test_a_shadowed_guest_ends_as_on_metal(where: Where, name: str) -> None:
    code, memory = ALIKE[name]

    def end(where: Where) -> tuple[str, object, bytes]:
        guest = RawGuest(code, where, memory=memory)
        outcome = guest.run()
        return repr(outcome), guest.log, guest.read(0, 0x6_0000)

    assert end(where) == end(NATIVE_METAL)


@shadowed
def test_an_event_whose_stack_is_a_table_above_it_ends_clearly_or_comes(where: Where) -> None:
    """The frame goes into the PML4 that maps it. Simplified under hw-shadow, which delivers no event by hand."""
    guest = RawGuest(f"mov ${PML4 + 0x800:#x}, %esp; lea 1f(%rip), %r15; ud2; 1: finish", where)
    outcome = guest.run()
    assert not isinstance(outcome, Ended) or "a stack lies in the page table" in outcome.report


@shadowed
def test_thousands_of_address_spaces_fit_in_bounded_memory(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pager, "MOST_TABLES", 200)
    monkeypatch.setattr(pager, "MOST_LEAVES", 300)
    roots = 2500
    guest = RawGuest(
        f"mov $0x200000, %ebx; mov ${roots}, %r12d; 1: movq ${PDPT | 7:#x}, (%rbx); mov %rbx, %cr3; incq DATA;"
        "add $0x1000, %rbx; dec %r12d; jnz 1b; finish",
        where,
        memory={PD + 8 * i: struct.pack("<Q", i << 21 | 0x83) for i in range(1, 8)},
    )
    assert isinstance(guest.run(100_000_000), Idle)
    assert guest.word(DATA) == roots
    mode = guest.vm.mode
    assert isinstance(mode, TrapAndEmulate | HwShadow)
    kept = mode.pager.s
    assert kept.used <= 200
    assert kept.leaves <= 300
    assert max(len(kept.tables), len(kept.of_guest), len(kept.traced), len(kept.maps)) <= 300
    assert max(len(kept.written), len(kept.out_of_sync), len(kept.idle)) <= 300


@shadowed
def test_many_pages_fit_in_bounded_memory(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pager, "MOST_LEAVES", 100)
    guest = RawGuest(
        "mov $0x200000, %ebx; mov $1000, %ecx; 1: incq (%rbx); add $0x1000, %rbx; dec %ecx; jnz 1b; finish",
        where,
        memory={PD + 8 * i: struct.pack("<Q", i << 21 | 0x83) for i in range(1, 8)},
    )
    assert isinstance(guest.run(100_000_000), Idle)
    assert all(guest.word(0x20_0000 + 0x1000 * i) == 1 for i in range(1000))
    mode = guest.vm.mode
    assert isinstance(mode, TrapAndEmulate | HwShadow)
    assert mode.pager.s.leaves == sum(map(len, mode.pager.s.maps.values())) <= 100
