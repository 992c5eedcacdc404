"""What is the translator's own: no exits where 1998 had none, the window, the cache, and what it shows of itself."""

from __future__ import annotations

import contextlib

import pytest

from hv.mode import Mode
from hv.recursion_bench import guest as recursion_guest
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Idle
from hv.silicon.x86_64.state import RAX
from hv.vm import Vm
from modes.full_emulation.mode import TrapAndEmulate
from modes.full_emulation.translator.mode import FullEmulation
from modes.full_emulation.translator.translate import AFTER_STI, AT_TARGET, CALL_OUT, MOST_BYTES
from modes.full_emulation.translator.window import CODE as CODE_OFFSET
from modes.full_emulation.translator.window import CR, CR8, IF, PLACES, REGISTERS, SIZE
from tests.guests.sequences import Stand, code_of, stand
from tests.support import (
    CODE,
    DATA,
    EVERYWHERE,
    KERNEL_CS,
    NATIVE_METAL,
    NATIVE_TRANSLATED,
    PML4,
    PORTABLE_TRANSLATED,
    PT,
    UNDER_TRAP,
    RawGuest,
    Where,
    costs,
)

translated = pytest.mark.parametrize(
    "where", [pytest.param(NATIVE_TRANSLATED, id="native"), pytest.param(PORTABLE_TRANSLATED, id="portable")]
)
PF = 14
SPARE = 0x9_0000  # free frames, mapped where they are
WINDOW = PLACES[0]


def mode_of(guest: RawGuest) -> FullEmulation:
    mode = guest.vm.mode
    assert isinstance(mode, FullEmulation)
    return mode


FIBONACCI = """
mov $12, %edi; call 1f; jmp 3f
1: cmp $2, %edi; jae 2f; mov %edi, %eax; ret
2: push %rdi; dec %edi; call 1b; pop %rdi; push %rax; sub $2, %edi; call 1b; pop %rdi; add %rdi, %rax; ret
3:"""
# Each of these runs without an exit. What it leaves in RAX is the guest's own.
WITHOUT_EXITS = {
    "recursion": (FIBONACCI, 144),
    "CLI and STI": ("mov $9, %ecx; 1: sti; cli; loop 1b; pushf; pop %rax", 0x2),
    "PUSHF and POPF": ("sti; pushf; cli; popf; pushf; cli; pop %rax; and $0x200, %eax", 0x200),
    "CR8": ("mov $7, %eax; mov %rax, %cr8; xor %eax, %eax; mov %cr8, %rax; xor %ecx, %ecx; mov %rcx, %cr8", 7),
    "control registers": ("mov %cr4, %rax", 0x620),
    "a selector": ("mov %ss, %eax", 0x10),
    "SMSW": ("smsw %eax; and $0xFFFF, %eax", 0x33),
    "STR": ("str %eax", 0x30),
    "SGDT": ("sgdt DATA; mov DATA+2, %rax", 0x6000),
    "IN from an empty port": ("xor %eax, %eax; in $0x80, %al", 0xFF),
    "RDTSC": ("rdtsc; xor %eax, %eax", 0),
}  # fmt: skip


@translated
@pytest.mark.parametrize("name", WITHOUT_EXITS)
def test_no_exit(where: Where, name: str) -> None:
    """Twice: the first time translates."""
    code, rax = WITHOUT_EXITS[name]
    guest = RawGuest(f"mov $2, %ebx; again: {code}; begin: nop; dec %ebx; jnz again; finish", where).finish()
    assert guest.registers()["rax"] == rax
    once = RawGuest(f"mov $1, %ebx; again: {code}; begin: nop; dec %ebx; jnz again; finish", where).finish()
    assert guest.exits == once.exits
    assert guest.exits.keys() <= {"hlt", "shadow_page_fault", "translate", "lookup_miss", "cli"}


@translated
@pytest.mark.parametrize("offset", [CODE_OFFSET, SIZE + 8 * CODE, CR], ids=["code", "targets", "facts"])
def test_a_store_to_the_hypervisor_s_part_of_the_window_faults_as_on_hardware(offset: int, where: Where) -> None:
    """The guest has nothing there, so it gets the #PF of an address that is not mapped."""
    code = f"call 2f; mov ${WINDOW + offset:#x}, %rbx; lea 1f(%rip), %r15; movq $-1, (%rbx); 1: finish; 2: ret"
    guest = RawGuest(code, where).finish()
    record = guest.log[0]
    assert (record.vector, record.error, record.cr2) == (PF, 2, WINDOW + offset)


@translated
@pytest.mark.parametrize("offset", [0, CODE_OFFSET, CODE_OFFSET + 2, CODE_OFFSET + 40])
def test_a_jump_into_the_window_faults_as_on_hardware(offset: int, where: Where) -> None:
    code = f"mov ${WINDOW + offset:#x}, %rbx; lea 1f(%rip), %r15; jmp *%rbx; 1: finish"
    (record,) = RawGuest(code, where).finish().log
    assert (record.vector, record.error & ~1, record.rip, record.cr2) == (PF, 16, WINDOW + offset, WINDOW + offset)


@translated
@pytest.mark.parametrize("value", [0, -1])
def test_what_the_guest_can_write_there_harms_nobody_but_itself(value: int, where: Where) -> None:
    """Simplified: these two pages are the guest's own state, and no fault. The hypervisor believes none of it."""
    for offset in (*range(REGISTERS, REGISTERS + 0x80, 8), IF, CR8):
        code = f"mov ${WINDOW + offset:#x}, %rbx; movq ${value}, (%rbx); call 1f; pushf; pop %rcx; jmp 2f; 1: ret; 2:"
        guest = RawGuest(f"{code} mov %cr8, %rax; cli; hlt", where)
        guest.run(1_000_000)
        assert guest.registers()["cpl"] == 0
        guest.close()


@translated
def test_the_window_moves_when_the_guest_wants_its_addresses(where: Where) -> None:
    """The guest maps a page of its own there, and finds in it what it has put there."""
    slot = [WINDOW >> shift & 511 for shift in (39, 30, 21, 12)]
    tables = [SPARE, SPARE + 0x1000, SPARE + 0x2000]
    entries = zip([PML4, *tables], slot, [*tables, SPARE + 0x3000], strict=True)
    build = "; ".join(f"movq ${to | 3:#x}, {table + 8 * at:#x}" for table, at, to in entries)
    guest = RawGuest(
        f"call 1f; {build}; mov ${WINDOW:#x}, %rbx; movq $77, (%rbx); call 1f; mov {SPARE + 0x3000:#x}, %rax;"
        "mov %rax, DATA; mov (%rbx), %rcx; mov %rcx, DATA+8; finish; 1: incq DATA+16; ret",
        where,
    ).finish()
    assert guest.words(3) == [77, 77, 2]
    assert mode_of(guest).desk.window.base not in (WINDOW, 0)


def test_a_guest_that_leaves_no_room_runs_with_patched_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modes.full_emulation.translator.mode.PLACES", PLACES[:1])
    monkeypatch.setattr("modes.full_emulation.translator.mode.FullEmulation._fits", lambda self, base: False)
    guest = RawGuest("sti; cli; pushf; pop %rax; hlt", NATIVE_TRANSLATED).finish()
    assert (guest.registers()["rax"], guest.exits["sti"], guest.exits["pushf"]) == (2, 1, 1)


def test_a_small_cache_is_emptied_and_the_guest_does_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    size = MOST_BYTES + 700
    monkeypatch.setattr(FullEmulation, "cache_size", size)
    small, flushes = Stand(NATIVE_TRANSLATED), 0
    for seed in range(6):
        code, _ = code_of(seed)
        assert small.run(code) == stand(NATIVE_METAL).run(code), f"seed {seed}"
        cache = mode_of(small.guest).desk.cache
        assert cache.used <= size
        flushes += cache.s.costs.flushes
    assert flushes > 6


@pytest.mark.parametrize("where", EVERYWHERE + UNDER_TRAP)
def test_a_far_jump_and_a_far_call_through_a_32_bit_pointer(where: Where) -> None:
    """FF /5 and FF /3 without REX.W: offset and selector; the call pushes both, of 4 bytes each."""
    guest = RawGuest(
        f"movl $1f, DATA; movw ${KERNEL_CS}, DATA+4; movl $2f, DATA+8; movw ${KERNEL_CS}, DATA+12; mov %rsp, %rbx;"
        ".byte 0xFF, 0x2C, 0x25; .long DATA; ud2; 1: .byte 0xFF, 0x1C, 0x25; .long DATA+8; 3: ud2;"
        "2: sub %rsp, %rbx; mov (%rsp), %ecx; mov 4(%rsp), %edx; lea 3b(%rip), %rsi; sub %rsi, %rcx; hlt", where,
    ).finish()  # fmt: skip
    registers = guest.registers()
    assert [registers[name] for name in ("rbx", "rcx", "rdx")] == [8, 0, KERNEL_CS]
    assert not guest.log


@translated
def test_a_report_shows_the_guest_s_own_registers(where: Where) -> None:
    guest = RawGuest("1: call 2f; pushf; pop %rax; jmp 1b; 2: mov $5, %ecx; ret", where)
    for _ in range(40):
        guest.run(7)
        told = mode_of(guest).guest_registers(guest.cpu)
        assert CODE <= told["rip"] < CODE + 32
        assert told.get("rcx", 5) in (0, 5)


@translated
def test_a_store_that_has_adapted_and_is_of_no_more_use_is_a_plain_one_again(where: Where) -> None:
    """The same instruction first writes a table that is in use, then plain memory."""
    entry = PT + 8 * 0xA0
    guest = RawGuest(
        f"mov $64, %ecx; mov ${entry:#x}, %edi; mov ${SPARE | 0x67:#x}, %ebx;"
        "1: mov %rbx, (%rdi); mov 0xA0000, %rax; cmp $40, %ecx; jne 2f; mov $DATA, %edi; 2: dec %ecx; jnz 1b; finish",
        where,
    )  # fmt: skip
    guest.finish()
    costs = mode_of(guest).desk.cache.s.costs
    assert (costs.adapted, costs.reverted) == (1, 1)
    assert guest.word(DATA) == SPARE | 0x67
    assert guest.exits["table_callout"] < 30


@translated
def test_instructions_that_do_not_fit_a_page_or_cannot_be_decoded(where: Where) -> None:
    """The last instruction of a page ends in the next one; an empty next page faults there, and not before."""
    at = SPARE + 0xFFD
    guest = RawGuest(
        f"mov ${at:#x}, %ebx; movb $0xB8, (%rbx); movl $0x11223344, 1(%rbx); movb $0xC3, 5(%rbx);"
        "call *%rbx; mov %rax, DATA;"
        f"movq $0, {PT + 8 * ((SPARE >> 12) + 1):#x}; invlpg {SPARE + 0x1000:#x};"
        "lea 1f(%rip), %r15; call *%rbx; 1: hlt",
        where,
    ).finish()
    assert guest.word(DATA) == 0x1122_3344
    record = guest.log[0]
    assert (record.vector, record.rip, record.cr2) == (PF, at, SPARE + 0x1000)


@pytest.mark.parametrize("mode", [TrapAndEmulate, FullEmulation])
def test_the_benchmark_s_recursive_function_makes_no_exit(mode: type[Mode]) -> None:
    with contextlib.closing(Vm({"cpu": mode}, recursion_guest(), costs(), smp=1)) as vm:
        assert isinstance(vm.run(), Idle)
        assert vm.machine.engine.state.regs[RAX] == 46368
        assert vm.ledger.totals()["shadow_page_fault"] <= 4
        assert sum(vm.ledger.totals().values()) < 15


@pytest.mark.parametrize("instruction", ["ret", "call *%rbx", "pushf", "mov %rax, %cr8", "mov %ss, (%rsp)"])
def test_no_interrupt_comes_between_sti_and_all_that_the_next_instruction_has_become(instruction: str) -> None:
    guest = RawGuest(
        f"lea 3f(%rip), %rbx; xor %eax, %eax; push %rbx; sti; behind: {instruction}; 3: finish", NATIVE_TRANSLATED
    )
    places = mode_of(guest.finish()).desk.cache.s.places.values()
    fixes = [place.fix for place in places if place.rip == guest["behind"]]
    assert len(fixes) > 2
    assert all(fix & (AFTER_STI | AT_TARGET | CALL_OUT) for fix in fixes)


def test_translating_takes_virtual_time() -> None:
    guest = RawGuest("1: " + "inc %rax; " * 50 + "hlt", NATIVE_TRANSLATED)
    costs = mode_of(guest).desk.cache.s.costs
    assert costs.instructions >= 51  # zeros are instructions too
    assert guest.vm.now >= costs.instructions * guest.vm.costs.translation >= costs.instructions * MILLI
