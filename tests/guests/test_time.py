"""Virtual time: instructions are counted exactly, slices end exactly, and how a run is cut leaves no trace."""

from __future__ import annotations

import functools
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Ended, Idle, Paused
from hv.silicon.x86_64.microcode import EVENTS
from tests.support import (
    CODE,
    DATA,
    EVERYWHERE,
    NATIVE,
    NATIVE_HW,
    NATIVE_METAL,
    NATIVE_SHADOW,
    NATIVE_TRAP,
    PORTABLE_HW,
    PORTABLE_METAL,
    PORTABLE_SHADOW,
    PORTABLE_TRAP,
    TRAPPED,
    UNDER_TRAP,
    RawGuest,
    Where,
    costs,
)

everywhere = pytest.mark.parametrize("where", EVERYWHERE + UNDER_TRAP)

# code -> instructions, without the HLT at the end
COUNTS = {
    "": 0,
    "nop; nop; nop": 3,
    "mov $1000, %ecx; 1: dec %ecx; jnz 1b": 2001,
    "call 1f; jmp 2f; 1: ret; 2:": 3,
    "mov $7, %ecx; mov $DATA, %edi; rep stosb": 2 + 1 + 7,
    "mov $100, %ecx; mov $DATA, %edi; mov $DATA+0x200, %esi; rep movsq": 3 + 1 + 100,
    "xor %ecx, %ecx; mov $DATA, %edi; rep stosb": 2 + 1,
    "mov $DATA, %edi; stosb; stosq": 3,
    "cpuid": 1,
    "mov $0x80, %dx; in %dx, %al; out %al, (%dx)": 3,
    "mov %cr0, %rax; mov %rax, %cr0; mov %cr3, %rax; mov %rax, %cr3": 4,
    "mov %cr8, %rax; mov %rax, %cr8": 2,
    "pause; pause": 2,
    "invlpg DATA": 1,
    "rdtsc; rdtsc": 2,
    "mov $0xC0000080, %ecx; rdmsr; wrmsr": 3,
    "sti; nop; cli; nop": 4,
    "pushf; popf": 2,
    "mov %ss, %eax; mov %eax, %ss; nop": 3,
    "push $0x10; push %rsp; pushf; push $8; push $1f; iretq; 1:": 6,
    "1: lea 2f(%rip), %rax; jmp *%rax; 2: nop; nop": 4,
    "sgdt DATA; lgdt DATA; sidt DATA; lidt DATA": 4,
}


@pytest.mark.parametrize("where", EVERYWHERE + TRAPPED)
@pytest.mark.parametrize("code", COUNTS)
def test_instructions_are_counted_exactly(where: Where, code: str) -> None:
    assert RawGuest(f"{code}\nhlt", where).finish().retired == COUNTS[code] + 1


@everywhere
def test_an_instruction_that_faults_is_not_counted_until_it_completes(where: Where) -> None:
    """The handler takes 4 instructions and lets the load be tried again."""
    code = f"""
        movq $0x1234, DATA
    bad:
        mov NOT_MAPPED, %rcx
        hlt
    repair:
        movq $0x200083, {0x3000 + 8 * 2}
        invlpg NOT_MAPPED
        add $8, %rsp
        iretq
    """
    guest = RawGuest(code, where, gates={14: ("repair", {})}).finish()
    assert guest.retired == 3 + 4


@everywhere
@pytest.mark.parametrize("bad", ["ud2", "div %ecx", "mov NOT_MAPPED, %eax", "mov %eax, NOT_MAPPED", "lldt %ax"])
def test_an_instruction_that_never_completes_is_never_counted(where: Where, bad: str) -> None:
    """The handler of one HLT ends the guest."""
    gates: dict[int, tuple[str, dict[str, int]]] = {vector: ("end", {}) for vector in (0, 6, 13, 14)}
    guest = RawGuest(f"mov $0xFFF8, %eax; xor %ecx, %ecx; {bad}; end: hlt", where, gates=gates).finish()
    assert guest.retired == 2 + 1


@everywhere
def test_a_string_instruction_that_faults_in_the_middle_counts_the_iterations_done(where: Where) -> None:
    """16 bytes up to the end of the mapped 4 MiB, then a fault; the handler gives up."""
    guest = RawGuest(
        "mov $100, %ecx; mov $NOT_MAPPED-16, %edi; bad: rep stosb; hlt; end: hlt", where, gates={14: ("end", {})}
    ).finish()
    registers = guest.registers()
    assert (registers["rcx"], registers["rdi"]) == (84, 0x40_0000)
    assert guest.retired == 2 + 16 + 1
    other = RawGuest(
        "mov $100, %ecx; mov $NOT_MAPPED-16, %edi; bad: rep stosb; hlt; end: hlt", NATIVE_METAL, gates={14: ("end", {})}
    ).finish()
    assert guest.retired == other.retired


@everywhere
def test_a_slice_ends_exactly_at_its_budget(where: Where) -> None:
    """Cutting a run of plain instructions at any time leaves the clock less than one instruction behind it."""
    cpi = costs().timing.cpi
    guest = RawGuest("1: inc %rax; jmp 1b", where)
    guest.run(20_000)  # past the first touch of the pages
    for n in (1, 2, 3, 10, 777):
        before, at = guest.cpu.m.retired, guest.vm.now
        assert isinstance(guest.vm.run(at + n * cpi), Paused)
        assert guest.cpu.m.retired - before == n
        assert guest.vm.now == at + n * cpi


@pytest.mark.parametrize("where", [NATIVE_METAL, PORTABLE_METAL])
@pytest.mark.parametrize(
    ("code", "events"),
    [
        ("nop", ()),
        ("in $0x80, %al", ("port_io",)),
        ("mov %cr0, %rax", ("cr_access",)),
        ("mov %cr8, %rax", ("cr8_access",)),
        ("xor %eax, %eax; mov %rax, %cr8", ("cr8_access",)),
        ("mov $1, %eax; cpuid", ("cpuid",)),
        ("mov $0x1B, %ecx; rdmsr", ("msr",)),
        ("rdtsc", ("rdtsc",)),
        ("invlpg DATA", ("invlpg", "tlb")),
        ("mov %cr3, %rax; mov %rax, %cr3", ("cr_access", "cr_access", "tlb")),
        ("int $0x70", ("exception", "iret")),
    ],
)
def test_rdtsc_shows_instructions_times_cpi_plus_the_events(where: Where, code: str, events: tuple[str, ...]) -> None:
    """From behind the first RDTSC to behind the second one; the second one's own time is in it."""
    source = f"""
        rdtsc
        mov %eax, %r8d
        mov %edx, %r9d
        {code}
        rdtsc
        mov %eax, DATA
        mov %edx, DATA+4
        mov %r8d, DATA+8
        mov %r9d, DATA+12
        hlt
    back:
        iretq
    """
    guest = RawGuest(source, where, gates={0x70: ("back", {})}).finish()
    last, first = guest.words(2)
    timing = costs().timing
    times = {name: getattr(timing, name) for name in timing.__struct_fields__} | {
        "tlb": timing.walk * timing.walk_levels
    }
    instructions = 2 + code.count(";") + 1 + 1 + (code.startswith("int"))
    cycles = instructions * timing.cpi + timing.rdtsc + sum(times[event] for event in events)
    assert abs((last - first) - cycles / MILLI) < 1


@everywhere
def test_rdtscp_and_the_tsc_msr_agree_with_rdtsc(where: Where) -> None:
    code = """
        mov $0xC0000103, %ecx; mov $0x77, %eax; xor %edx, %edx; wrmsr
        rdtsc; mov %eax, DATA; mov %edx, DATA+4
        rdtscp; mov %eax, DATA+8; mov %edx, DATA+12; mov %rcx, DATA+16
        mov $0x10, %ecx; rdmsr; mov %eax, DATA+24; mov %edx, DATA+28
        hlt
    """
    first, second, aux, third = RawGuest(code, where).finish().words(4)
    assert aux == 0x77
    assert 0 < first < second < third < first + 20_000


# A guest with all that can go wrong at the edge of a slice: faults, `int n`, REP, observed instructions, a timer.
BUSY = """
    mov $14, %r12d
    lapic 0xF0, 0x1FF
    lapic 0x3E0, 0xB
    lapic 0x320, 0x20040
    lapic 0x380, 190
    sti
again:
    mov $11, %ecx
    mov $DATA+0x100, %edi
    rep stosb
    lea 1f(%rip), %r15
    ud2
1:  lea 2f(%rip), %r15
    mov NOT_MAPPED, %eax
2:  int $0x55
    mov %cr8, %rax
    mov %rax, %cr8
    mov %cr3, %rax
    mov %rax, %cr3
    pushf
    cli
    popf
    rdtsc
    add %rax, DATA+8
    mov $1, %eax
    cpuid
    xor %ebx, DATA+24
    in $0x80, %al
    add %r12, DATA+16
    dec %r12d
    jnz again
    cli
    lapic 0x380, 0
    rdtsc
    mov %eax, DATA+32
    hlt
tick:
    push %rbp
    incq DATA
    lapic 0xB0, 0
    pop %rbp
    iretq
quick:
    mov %r15, 8(%rsp)
    add $8, %rsp
    iretq
no_code:
    mov %r15, (%rsp)
    iretq
plain:
    iretq
"""
QUICK: dict[int, tuple[str, dict[str, int]]] = {
    6: ("no_code", {}), 14: ("quick", {}), 0x55: ("plain", {}), 0x40: ("tick", {}),
}  # fmt: skip


def busy(where: Where) -> RawGuest:
    return RawGuest(BUSY, where, gates=QUICK)


def facts(guest: RawGuest) -> dict[str, Any]:
    """Everything that must not depend on how the run was cut."""
    return {
        "retired": guest.retired, "now": guest.vm.now, "data": guest.read(DATA, 0x200), "exits": guest.exits,
        "assists": dict(guest.cpu.assist_counts()), "registers": guest.registers(),
        "ledger": guest.vm.ledger.state, "chips": repr(guest.vm.board.save()),
    }  # fmt: skip


@functools.cache
def uninterrupted(where: Where) -> dict[str, Any]:
    guest = busy(where).finish()
    assert guest.words(1)[0] >= 3  # the timer fired now and then
    found = facts(guest)
    del found["chips"]
    return found


@everywhere
def test_the_busy_guest_ends(where: Where) -> None:
    assert uninterrupted(where)["retired"] > 500


def test_native_and_portable_agree_on_the_busy_guest() -> None:
    assert uninterrupted(NATIVE_METAL) == uninterrupted(PORTABLE_METAL)
    assert uninterrupted(NATIVE_HW) == uninterrupted(PORTABLE_HW)
    assert uninterrupted(NATIVE_SHADOW) == uninterrupted(PORTABLE_SHADOW)
    assert uninterrupted(NATIVE_TRAP) == uninterrupted(PORTABLE_TRAP)


def cut(where: Where, cycles: list[int]) -> dict[str, Any]:
    """The busy guest, run in pieces of these lengths, over and over."""
    guest = busy(where)
    for _ in range(100_000):
        for piece in cycles:
            outcome = guest.vm.run(guest.vm.now + piece)
            if not isinstance(outcome, Paused):
                assert not isinstance(outcome, Ended), outcome
                assert isinstance(outcome, Idle)
                found = facts(guest)
                guest.close()
                del found["chips"]
                return found
    raise AssertionError("the guest does not come to its end")


@pytest.mark.parametrize("where", NATIVE, ids=[where.mode.id for where in NATIVE])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(cycles=st.lists(st.integers(1, 3_000_000), min_size=1, max_size=8))
def test_how_a_run_is_cut_into_slices_leaves_no_trace(where: Where, cycles: list[int]) -> None:
    assert cut(where, cycles) == uninterrupted(where)


@everywhere
def test_stopping_before_every_instruction_leaves_no_trace(where: Where) -> None:
    assert cut(where, [1]) == uninterrupted(where)


@everywhere
def test_the_program_counter_stands_between_two_instructions_after_a_slice(where: Where) -> None:
    guest = RawGuest("nop; nop; nop; nop; hlt", where)
    cpi = costs().timing.cpi
    places = []
    for _ in range(4):
        retired = guest.retired
        while guest.retired == retired:
            guest.vm.run(guest.vm.now + cpi)
        places.append(guest.registers()["rip"] - CODE)
    assert places == [1, 2, 3, 4]


def test_the_time_of_a_machine_survives_a_64_bit_tsc_write() -> None:
    """WRMSR to the TSC moves what RDTSC shows, not the clock."""
    code = """
        mov $0x10, %ecx; mov $5, %eax; xor %edx, %edx; wrmsr
        rdtsc; mov %eax, DATA; mov %edx, DATA+4; hlt
    """
    guest = RawGuest(code, NATIVE_METAL).finish()
    (value,) = struct.unpack("<Q", guest.read(DATA, 8))
    assert 5 < value < 2_000


@pytest.mark.parametrize("where", EVERYWHERE + TRAPPED)
def test_a_pause_takes_its_time_however_the_run_is_cut(where: Where) -> None:
    code = "mov $50, %ecx; 1: pause; dec %ecx; jnz 1b; pause; hlt"
    whole, cut = RawGuest(code, where).finish(), RawGuest(code, where)
    while isinstance(cut.run(1), Paused):
        pass
    assert cut.vm.now == whole.vm.now
    cpu, timing = cut.cpu, costs().timing
    assert cpu.m.count[EVENTS.index("pause")] == 51
    exits = cut.vm.now - cpu.m.retired * timing.cpi - 51 * timing.pause
    assert exits >= 0
    assert where.mode.id != "bare-metal" or exits == 0
