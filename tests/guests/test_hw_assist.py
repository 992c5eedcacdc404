"""Which exits hardware assistance takes, exactly, for guests of a few instructions."""

from __future__ import annotations

import pytest

from tests.support import DATA, UNDER_HW, RawGuest, Where

pytestmark = pytest.mark.parametrize("where", UNDER_HW)
UD, GP = 6, 13


def exits(code: str, where: Where) -> dict[str, int]:
    """Exits of the code, without those of first touches and of the last HLT."""
    found = RawGuest(code + "\nfinish", where).finish().exits
    assert found.pop("hlt") == 1
    found.pop("npf")
    return found


NO_EXIT = [
    "nop", "cli", "sti; cli", "pushf; popf", "mov %cr0, %rax; mov %rax, %cr0", "mov %cr2, %rax", "mov %cr3, %rax; mov %rax, %cr3",  # noqa: E501
    "mov %cr4, %rax; mov %rax, %cr4", "mov %rax, %cr8; mov %cr8, %rax", "invlpg DATA", "rdtsc", "rdtscp", "int3",
    "int $0x55", "lea 1f(%rip), %r15; ud2; 1:", "lea 1f(%rip), %r15; mov NOT_MAPPED, %eax; 1:", "swapgs; swapgs",
    "mov $0xC0000101, %ecx; rdmsr; wrmsr", "mov $0xC0000082, %ecx; rdmsr; wrmsr", "sgdt DATA; lgdt DATA", "wbinvd", "pause",  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize("code", NO_EXIT)
def test_what_the_guest_may_do_alone_does_not_exit(where: Where, code: str) -> None:
    assert exits("xor %eax, %eax;" + code, where) == {}


ONE_EXIT = {
    "cpuid": "cpuid",
    "vmmcall": "vmmcall",
    "in $0x80, %al": "ioio",
    "out %al, $0x80": "ioio",
    "mov $0x80, %dx; in %dx, %eax": "ioio",
    "mov $0x10, %ecx; rdmsr": "msr",
    "mov $0x1B, %ecx; rdmsr; wrmsr; rdmsr": "msr",
    "mov $LAPIC, %ebp; mov 0x30(%rbp), %eax; mov %eax, 0xB0(%rbp)": "mmio",
    "mov $IOAPIC, %ebp; movl $1, (%rbp)": "mmio",
    "lea 1f(%rip), %r15; vmrun; 1:": "invalid_opcode",
    "lea 1f(%rip), %r15; vmload; 1:": "invalid_opcode",
    "lea 1f(%rip), %r15; vmsave; 1:": "invalid_opcode",
    "lea 1f(%rip), %r15; stgi; 1:": "invalid_opcode",
    "lea 1f(%rip), %r15; clgi; 1:": "invalid_opcode",
    "lea 1f(%rip), %r15; skinit; 1:": "invalid_opcode",
}
COUNT = {"mov $0x1B, %ecx; rdmsr; wrmsr; rdmsr": 3, "mov $LAPIC, %ebp; mov 0x30(%rbp), %eax; mov %eax, 0xB0(%rbp)": 2}


@pytest.mark.parametrize("code", ONE_EXIT)
def test_what_the_hypervisor_keeps_exits_once(where: Where, code: str) -> None:
    assert exits(code, where) == {ONE_EXIT[code]: COUNT.get(code, 1)}


@pytest.mark.parametrize("name", ["vmrun", "vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga"])
def test_svm_is_not_there_for_the_guest(where: Where, name: str) -> None:
    guest = RawGuest(f"lea after(%rip), %r15; bad: {name}; after: finish", where).finish()
    assert [(r.vector, r.error, r.rip) for r in guest.log] == [(UD, 0, guest["bad"])]


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("mov $0x12345, %ecx; bad: rdmsr", True),
        ("mov $0x12345, %ecx; bad: wrmsr", True),
        ("mov $0xC0010117, %ecx; bad: rdmsr", True),
        ("mov $0xC0000080, %ecx; rdmsr; or $0x1000, %eax; bad: wrmsr", True),  # SVME is not offered
        ("mov $0xC0000080, %ecx; rdmsr; and $0xFFFFFEFF, %eax; bad: wrmsr", True),  # LME while paging is on
        ("mov $0xC0000080, %ecx; rdmsr; or $0x4, %eax; bad: wrmsr", True),  # reserved
        ("mov $0xC0000080, %ecx; rdmsr; bad: wrmsr", False),
        ("mov $0xC0000080, %ecx; rdmsr; xor $1, %eax; bad: wrmsr", False),  # SCE
    ],
)
def test_a_model_specific_register_that_is_not_there_is_a_general_protection(
    where: Where, code: str, faults: bool
) -> None:
    guest = RawGuest(f"lea after(%rip), %r15; {code}; after: finish", where).finish()
    assert [(r.vector, r.error, r.rip) for r in guest.log] == [(GP, 0, guest["bad"])] * faults


def test_each_page_of_memory_costs_one_nested_page_fault(where: Where) -> None:
    """Reads, writes and fetches; the second touch of any kind is free."""
    before = RawGuest("finish", where).finish().exits["npf"]
    code = "mov $0x200000, %edi; mov $64, %ecx; 1: mov (%rdi), %eax; add $0x1000, %rdi; dec %ecx; jnz 1b;"
    assert RawGuest(code + "finish", where).finish().exits["npf"] == before + 64
    written = code.replace("mov (%rdi), %eax", "mov %eax, (%rdi)").replace("1:", "3:").replace("1b", "3b")
    assert RawGuest(code + written + "finish", where).finish().exits["npf"] == before + 64


def test_an_access_across_two_pages_faults_once_for_each(where: Where) -> None:
    before = RawGuest("finish", where).finish().exits["npf"]
    guest = RawGuest(
        "mov $-1, %rax; mov %rax, 0x200FFC; mov 0x200FFC, %rcx; mov %rcx, 0x201800; finish", where
    ).finish()
    assert guest.exits["npf"] == before + 2
    assert guest.registers()["rcx"] == (1 << 64) - 1


def test_the_first_touch_by_a_page_walk_is_one_fault_too(where: Where) -> None:
    """The guest's own page tables lie in memory that is backed on demand."""
    before = RawGuest("finish", where).finish().exits["npf"]
    code = "movq $0x203003, 0x200000; movq $0x200003, 0x3018; mov 0x600000, %eax; mov 0x600008, %eax; finish"
    assert RawGuest(code, where).finish().exits["npf"] == before + 2


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("mov $DATA, %edi; mov $1, %ecx; rep insb", 1),
        ("mov $DATA, %edi; mov $100, %ecx; rep insb", 1),
        ("mov $DATA, %edi; insl", 1),
        ("mov $DATA+0xFC0, %edi; mov $128, %ecx; rep insb", 2),
        ("mov $DATA, %esi; mov $100, %ecx; rep outsb", 1),
        ("mov $DATA+0xFC0, %esi; mov $128, %ecx; rep outsb", 2),
    ],
)
def test_a_string_transfer_is_one_exit_for_each_page(where: Where, code: str, count: int) -> None:
    touch = "mov $0x80, %dx; movb $0, DATA; movb $0, DATA+0x1000;"
    assert exits(touch + code, where) == {"ioio": count}


def test_a_string_transfer_moves_the_bytes_and_the_registers(where: Where) -> None:
    code = "movb $0, DATA; mov $0x3FD, %dx; mov $DATA+8, %edi; mov $5, %ecx; rep insb; finish"
    guest = RawGuest(code, where).finish()
    assert guest.read(DATA, 16) == bytes(8) + b"\x60" * 5 + bytes(3)
    registers = guest.registers()
    assert (registers["rcx"], registers["rdi"]) == (0, DATA + 13)


def test_a_string_transfer_to_memory_that_was_never_touched(where: Where) -> None:
    """INS into a page that is not backed yet: it is backed, and the transfer happens once."""
    guest = RawGuest("mov $0x3FD, %dx; mov $0x200000, %edi; mov $5, %ecx; rep insb; finish", where).finish()
    assert guest.read(0x20_0000, 6) == b"\x60" * 5 + b"\0"


def test_the_size_of_a_port_access_says_how_much_of_rax_changes(where: Where) -> None:
    code = (
        "mov $-2, %rax; mov %rax, %rbx; in $0x90, %al; mov %rax, DATA; xor %eax, %eax; in $0x90, %ax; mov %rax, DATA+8;"
    )
    code += "mov %rbx, %rax; in $0x90, %eax; mov %rax, DATA+16; finish"
    assert RawGuest(code, where).finish().words(3) == [(1 << 64) - 1, 0xFFFF, 0xFFFF_FFFF]


def test_the_hypervisor_shows_itself_in_cpuid_and_hides_svm(where: Where) -> None:
    code = "mov $1, %eax; cpuid; mov %ecx, DATA; mov $0x80000001, %eax; cpuid; mov %ecx, DATA+8;"
    code += "mov $0x40000000, %eax; cpuid; mov %ebx, DATA+16; finish"
    feature, extended, signature = RawGuest(code, where).finish().words(3)
    assert feature >> 31 & 1 == 1
    assert extended >> 2 & 1 == 0
    assert signature.to_bytes(8, "little").startswith(b"hvla")


def test_a_timer_tick_of_a_running_guest_is_arm_expiry_and_eoi(where: Where) -> None:
    """The emulated APIC: three writes to set it up, one external interrupt, one EOI."""
    code = """
        mov $LAPIC, %ebp
        movl $0x1FF, 0xF0(%rbp)
        movl $0xB, 0x3E0(%rbp)
        movl $0x40, 0x320(%rbp)
        movl $300, 0x380(%rbp)
        sti
    1:  cmpq $0, DATA
        je 1b
        finish
    tick:
        incq DATA
        movl $0, 0xB0(%rbp)
        iretq
    """
    guest = RawGuest(code, where, gates={0x40: ("tick", {})}).finish()
    found = guest.exits
    del found["npf"]
    assert found == {"mmio": 5, "external_interrupt": 1, "hlt": 1}


def test_an_interrupt_with_if_off_costs_one_window(where: Where) -> None:
    code = """
        mov $LAPIC, %ebp
        movl $0x1FF, 0xF0(%rbp)
        movl $0x40040, 0x300(%rbp)
        nop
        sti
        nop
        finish
    tick:
        movl $0, 0xB0(%rbp)
        iretq
    """
    found = RawGuest(code, where, gates={0x40: ("tick", {})}).finish().exits
    del found["npf"]
    assert found == {"mmio": 3, "interrupt_window": 1, "hlt": 1}


def test_a_sleeping_guest_is_woken_without_an_exit(where: Where) -> None:
    code = """
        mov $LAPIC, %ebp
        movl $0x1FF, 0xF0(%rbp)
        movl $0xB, 0x3E0(%rbp)
        movl $0x40, 0x320(%rbp)
        movl $1000, 0x380(%rbp)
        sti
        hlt
        finish
    tick:
        movl $0, 0xB0(%rbp)
        iretq
    """
    found = RawGuest(code, where, gates={0x40: ("tick", {})}).finish().exits
    del found["npf"]
    assert found == {"mmio": 5, "hlt": 2}


def test_writes_of_cr8_exit_only_while_an_interrupt_waits_for_them(where: Where) -> None:
    code = """
        mov $LAPIC, %ebp
        movl $0x1FF, 0xF0(%rbp)
        mov $5, %eax
        mov %rax, %cr8
        sti
        movl $0x40040, 0x300(%rbp)
        xor %eax, %eax
        mov %rax, %cr8
        mov %rax, %cr8
        nop
        finish
    tick:
        movl $0, 0xB0(%rbp)
        iretq
    """
    found = RawGuest(code, where, gates={0x40: ("tick", {})}).finish().exits
    assert found["cr8_write"] == 1
    assert found["mmio"] == 3


@pytest.mark.parametrize("stack", [0x20_0000, 0x20_0FF8, 0x20_1008])
def test_an_event_whose_stack_is_not_backed_is_delivered_once(where: Where, stack: int) -> None:
    code = f"mov ${stack + 0x1000}, %rsp; lea a(%rip), %r15; ud2; a: int $0x55; b: finish"
    guest = RawGuest(code, where).finish()
    assert [(r.vector, r.rip) for r in guest.log] == [(UD, guest["a"] - 2), (0x55, guest["b"])]
    assert guest.exits["npf"] >= 6


def test_an_interrupt_whose_stack_is_not_backed_is_delivered_once(where: Where) -> None:
    code = "lapic 0xF0, 0x1FF; movl $0x40040, 0x300(%rbp); mov $0x201000, %rsp; sti; nop; a: nop; cli; hlt"
    guest = RawGuest(code, where).finish()
    assert [(r.vector, r.rip) for r in guest.log] == [(0x40, guest["a"])]


def test_an_instruction_across_two_pages_that_are_not_backed_runs_once(where: Where) -> None:
    memory = {0x20_0FFE: b"\x48\xff\xc0\x48\xff\xc0\xf4"}  # inc rax; inc rax; hlt
    guest = RawGuest("mov $0x200FFE, %eax; jmp *%rax", where, memory=memory).finish()
    assert guest.registers()["rax"] == 0x20_1000
    assert guest.retired == 5
