"""What is the translator's own: no exits where 1998 had none, the window, the cache, and what it shows of itself."""

from __future__ import annotations

import contextlib

import pytest

from hv.mode import Mode
from hv.recursion_bench import guest as recursion_guest
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Ended, Idle
from hv.silicon.x86_64.state import RAX
from hv.vm import Vm
from modes.full_emulation.mode import TrapAndEmulate
from modes.full_emulation.translator.mode import FullEmulation
from modes.full_emulation.translator.targets import AREAS, PAGES_A_CODE_PAGE
from modes.full_emulation.translator.translate import MOST_BYTES
from modes.full_emulation.translator.window import CODE as CODE_OFFSET
from modes.full_emulation.translator.window import CR, CR8, IF, PLACES, REGISTERS, SIZE
from tests.guests.sequences import Stand, code_of, stand
from tests.guests.test_ipi import two
from tests.support import (
    CODE,
    DATA,
    EVERYWHERE,
    KERNEL_CS,
    LAPIC,
    NATIVE_METAL,
    NATIVE_TRANSLATED,
    NOT_MAPPED,
    PD,
    PDPT,
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


# Addresses to which no kernel returns. In the table of targets some of them have a slot where the guest has something.
TABLE = WINDOW + SIZE  # the slot of address 0


def with_slot_at(address: int) -> int:
    return int(address - TABLE & (1 << 64) - 1) >> 3


NOWHERE = {
    "0": 0,
    "an address of the user's": NOT_MAPPED,
    "no canonical address": 0x9000_0000_0000,
    "an address without a slot": 0x4000_0000_0000,
    "a slot in a chip": with_slot_at(LAPIC + 0x20),
    "a slot in data that is a zero": with_slot_at(DATA),
    "a slot in data that leads to the guest's code": with_slot_at(DATA + 8),
    "a slot in data that leads to data": with_slot_at(DATA + 16),
    "a slot in data that is no address": with_slot_at(DATA + 24),
    "a slot in the guest's code": with_slot_at(CODE + 8),
    "a slot in the hypervisor's scratch": with_slot_at(WINDOW + REGISTERS),
    "a slot in the hypervisor's facts": with_slot_at(WINDOW + CR),
    "a slot in the table itself": with_slot_at(TABLE + 8 * CODE + 0x80),
    "a slot in the cache": with_slot_at(WINDOW + CODE_OFFSET + 8),
} | {f"a return point, but for its top bits: {bits}": bits << 61 for bits in range(1, 8)}  # fmt: skip


@translated
@pytest.mark.parametrize("name", NOWHERE)
def test_a_jump_to_nowhere_faults_as_on_hardware(name: str, where: Where) -> None:
    ways = ("push %rbx; ret", "jmp *%rbx", "push %rbx; ret $8", "call *DATA+0x40")
    code = (
        f".set CODE, {CODE}; movq $0, DATA; movq $evil, DATA+8; movq $DATA, DATA+16; movabs $0x900000000000, %rax;"
        f"mov %rax, DATA+24; mov $11, %ecx; movabs ${NOWHERE[name]:#x}, %rbx;"
        f"{'lea 5f(%rip), %rax; xor %rax, %rbx;' if 'top bits' in name else ''} call 2f; 5: mov %rbx, DATA+0x40;"
        f"{' '.join(f'lea 1f(%rip), %r15; {way}; ud2; 1:' for way in ways)} mov %rcx, DATA+32; finish;"
        "2: ret; evil: movq $1, DATA+48; finish"
    )
    guest, metal = RawGuest(code, where).finish(), RawGuest(code, NATIVE_METAL).finish()
    assert len(guest.log) == len(ways)
    assert guest.log == metal.log
    assert guest.words(7) == metal.words(7)
    assert "mmio" not in guest.exits


def test_a_guest_that_forges_an_address_of_the_cache_harms_nobody_but_itself() -> None:
    """It ends, or goes on where it has no business; there is one line if it cannot go on at all."""
    for offset in range(0, 60, 4):
        code = (
            f"call 2f; mov ${WINDOW + CODE_OFFSET + offset:#x}, %rax; mov %rax, DATA; lea 1f(%rip), %r15;"
            f"mov ${with_slot_at(DATA):#x}, %ebx; jmp *%rbx; 1: finish; 2: ret"
        )
        guest = RawGuest(code, NATIVE_TRANSLATED)
        outcome = guest.run(1_000_000)
        assert not isinstance(outcome, Ended) or "\n" not in (outcome.report or "")
        guest.close()


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


@translated
def test_so_it_does_when_the_guest_wants_the_addresses_of_the_table_of_targets(where: Where) -> None:
    """2 MiB above the window the slots of this code begin, where the guest maps a large page of its own."""
    slot = [TABLE >> shift & 511 for shift in (39, 30, 21)]
    entries = zip([PML4, SPARE, SPARE + 0x1000], slot, [SPARE | 3, (SPARE + 0x1000) | 3, 0x20_0083], strict=True)
    build = "; ".join(f"movq ${to:#x}, {table + 8 * at:#x}" for table, at, to in entries)
    guest = RawGuest(
        f"call 1f; {build}; mov ${TABLE + 8 * CODE:#x}, %rbx; movq $77, (%rbx); call 1f; mov (%rbx), %rax;"
        f"mov %rax, DATA; mov {0x20_0000 + 8 * CODE:#x}, %rcx; mov %rcx, DATA+8; finish; 1: incq DATA+16; ret",
        where,
    ).finish()
    assert guest.words(3) == [77, 77, 2]
    assert mode_of(guest).desk.window.base not in (WINDOW, 0)


@translated
def test_targets_all_over_the_address_space(where: Where) -> None:
    """More areas than there are page tables for, and code that is called in each of them again and again."""
    places = [0x40_0000 * n + 0x1_0000 for n in range(1, AREAS + 4)]
    build = "; ".join(f"movq $0x83, {PD + 8 * (at >> 21):#x}" for at in places)
    code = 0x8_0000
    calls = "; ".join(f"mov ${at - 0x1_0000 + code:#x}, %eax; call *%rax" for at in places)
    guest = RawGuest(
        f"{build}; movl $0x2504FF48, {code:#x}; movl ${DATA:#x}, {code + 4:#x}; movb $0xC3, {code + 8:#x};"
        f"mov $3, %ecx; 1: {calls}; dec %ecx; jnz 1b; finish",
        where,
    )
    assert isinstance(guest.run(5_000_000), Idle)
    assert guest.word(DATA) == 3 * len(places)
    assert mode_of(guest).desk.cache.s.costs.flushes > 1


def test_more_targets_than_the_table_has_pages_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modes.full_emulation.translator.targets.PAGES_OF_SLOTS", 2 * PAGES_A_CODE_PAGE)
    calls = "".join(f"call 2f; jmp 3f; .org {n * 0x400}; 3: " for n in range(1, 20))
    guest = RawGuest(f"mov $3, %ecx; 1: {calls} dec %ecx; jnz 1b; finish; 2: incq DATA; ret", NATIVE_TRANSLATED)
    assert isinstance(guest.run(5_000_000), Idle)
    assert guest.word(DATA) == 3 * 19
    cache = mode_of(guest).desk.cache
    assert cache.s.costs.flushes > 0
    assert len(cache.targets.s.pages) <= 2 * PAGES_A_CODE_PAGE


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


@translated
@pytest.mark.parametrize("far", [0xFFFF_F800_0000_0000, 0xFFFF_8000_0000_0000])
def test_code_far_away_reaches_its_data_and_returns(far: int, where: Where) -> None:
    """In the middle of the address space no 32 bits lead from the cache to the guest's data."""
    guest = RawGuest(
        f"movq ${PDPT | 7:#x}, {PML4 + 8 * (far >> 39 & 511):#x}; mov ${far:#x}, %rcx; lea 1f(%rip), %rax;"
        "add %rcx, %rax; jmp *%rax;"
        "1: mov $3, %ecx; 2: incq 4f(%rip); call 3f; loop 2b; lea 4f(%rip), %rbx; mov %rbx, DATA;"
        "mov 4f(%rip), %rax; mov %rax, DATA+8; push 4f(%rip); pop DATA+16; sgdt 4f(%rip); mov 4f+2(%rip), %rax;"
        "mov %rax, DATA+24; hlt; 3: addq $10, 4f(%rip); ret; 4: .quad 0, 0",
        where,
    ).finish()
    words = guest.words(4)
    assert words[0] >> 32 == far >> 32
    assert words[1:] == [33, 33, 0x6000]


@translated
@pytest.mark.parametrize(("far", "misses"), [(0xFFFF_F800_0000_0000, 1), (0xFFFF_8000_0000_0000, 1 + 3)])
def test_far_away_there_is_a_table_of_targets_up_to_8_tib(far: int, misses: int, where: Where) -> None:
    """The jump there misses; beyond, each return too."""
    code = f"movq ${PDPT | 7:#x}, {PML4 + 8 * (far >> 39 & 511):#x}; mov ${far:#x}, %rcx; lea 1f(%rip), %rax;"
    code += "add %rcx, %rax; jmp *%rax; 1: mov $3, %ecx; 2: call 3f; loop 2b; hlt; 3: incq DATA; ret"
    assert RawGuest(code, where).finish().exits["lookup_miss"] == misses


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


def test_translating_takes_virtual_time() -> None:
    guest = RawGuest("1: " + "inc %rax; " * 50 + "hlt", NATIVE_TRANSLATED)
    costs = mode_of(guest).desk.cache.s.costs
    assert costs.instructions >= 51  # zeros are instructions too
    assert guest.vm.now >= costs.instructions * guest.vm.costs.translation >= costs.instructions * MILLI


# --- two vCPUs --------------------------------------------------------------------------------------------------------
# Each has a window and a cache of its own; the shadow tables they share. CPU 1 is in its cache while CPU 0 acts.


@translated
def test_code_that_one_cpu_writes_reaches_the_cache_of_another(where: Where) -> None:
    """CPU 1 loops without an exit, through two pages; the second one's jump becomes a HLT."""
    code = "start_other; until DATA+8, 1; rest 1000; movb $0xF4, patch; finish\n"
    code += "other: incq DATA+8; 1: incq DATA; jmp patch; .fill 600, 1, 0x90; patch: jmp 1b\n"
    guest = two(code, where).finish()
    assert guest.words(1)[0] > 10


@translated
def test_a_page_of_code_that_one_cpu_remaps_is_another_one_for_both(where: Where) -> None:
    """CPU 1 calls a page again and again. CPU 0 maps another one there; CPU 1 flushes its TLB when it is told."""
    page = 0xA_0000
    code = (
        f"movl $0xC3C0FF48, {SPARE:#x}; movl $0xC3C1FF48, {SPARE + 0x1000:#x}; movq ${SPARE | 7:#x}, {PT + 8 * 0xA0};"
    )
    code += (
        f"start_other; until DATA+8, 1; rest 1000; movq ${SPARE + 0x1000 | 7:#x}, {PT + 8 * 0xA0}; movq $1, DATA+16;"
    )
    code += f"finish\n other: xor %eax, %eax; xor %ecx, %ecx; mov ${page:#x}, %ebx; incq DATA+8;"
    code += "1: call *%rbx; cmpq $0, DATA+16; je 1b; invlpg (%rbx); xor %edx, %edx; xor %ecx, %ecx; mov %rax, DATA;"
    code += "call *%rbx; sub DATA, %rax; mov %rax, DATA+24; mov %rcx, DATA+32; finish\n"
    words = two(code, where).finish().words(5)
    assert words[0] > 10
    assert words[3:] == [0, 1]


@translated
def test_all_tables_are_dropped_while_another_cpu_is_in_its_cache(where: Where) -> None:
    """Also within each instruction's sequence: POPF spoils the flags, and sets IF, before it is done."""
    code = "start_other; until DATA+8, 1; 1: hlt; jmp 1b\n"
    code += "other: xor %eax, %eax; incq DATA+8; 1: cmp %eax, %eax; pushf; sti; cli; cmp $-1, %eax; popf; jne 2f;"
    code += "call 3f; incq DATA; jmp 1b; 2: finish; 3: ret\n"
    guest = two(code, where)
    guest.run(300_000)
    mode, done = mode_of(guest), 0
    for _ in range(200):
        guest.run(7)
        if mode.desks[1].inside:
            guest.vm.ledger.open = True
            mode.pager.drop_all()
            guest.vm.ledger.open = False
            done += 1
    before = guest.words(1)[0]
    guest.run(50_000)
    assert done > 100
    assert guest.words(1)[0] > before
    assert guest.cpu.halted
    assert not guest.machine.cpus[1].halted


@translated
def test_a_snapshot_with_both_cpus_in_their_caches_goes_on_as_if_nothing_had_been(where: Where) -> None:
    code = "start_other; until DATA+8, 1; 1: call count; cmpq $2000, DATA; jb 1b; movb $0xF4, patch; finish\n"
    code += (
        "other: incq DATA+8; 2: incq DATA+24; cli; sti; cli; call count; jmp patch; .fill 600, 1, 0x90; patch: jmp 2b\n"
    )
    code += "count: lock incq DATA; ret\n"
    whole, first, second = (two(code, where) for _ in range(3))
    whole.finish()
    while not all(desk.inside for desk in mode_of(first).desks):
        first.run(100)
    first.run(500)
    assert all(desk.inside for desk in mode_of(first).desks)
    second.vm.restore(first.vm.snapshot())
    for guest in (first, second):
        guest.finish()
        assert guest.words(4) == whole.words(4)
        assert guest.exits == whole.exits
        assert guest.vm.now == whole.vm.now


@translated
def test_init_reaches_a_cpu_in_its_cache_and_it_starts_again(where: Where) -> None:
    code = """start_other; until DATA+8, 1; rest 1000; send 0x4500; rest 100000; send 0x4615; until DATA+8, 2; finish
        other: incq DATA+8; 1: incq DATA; call 2f; cmpq $2, DATA+8; jne 1b; finish; 2: ret\n"""
    guest = two(code, where).finish()
    assert guest.words(2)[1] == 2


@translated
@pytest.mark.parametrize("value", [0, -1])
def test_a_cpu_that_writes_into_another_one_s_window_harms_nobody_but_the_guest(value: int, where: Where) -> None:
    offsets = (*range(REGISTERS, REGISTERS + 0x80, 8), IF, CR8)
    stores = ";".join(f"mov ${PLACES[1] + offset:#x}, %rbx; movq ${value}, (%rbx)" for offset in offsets)
    code = f"start_other; until DATA+8, 1; mov $500, %ecx; 1: {stores}; dec %ecx; jnz 1b; finish\n"
    code += "other: incq DATA+8; 1: call 2f; pushf; pop %rcx; push %rcx; popf; mov %cr8, %rax; jmp 1b; 2: ret\n"
    guest = two(code, where)
    for _ in range(50):
        guest.run(20_000)
    guest.close()


@translated
def test_a_cpu_that_jumps_into_another_one_s_cache_faults_as_on_hardware(where: Where) -> None:
    at = PLACES[1] + CODE_OFFSET + 2
    code = f"start_other; until DATA+8, 1; mov ${at:#x}, %rbx; lea 1f(%rip), %r15; jmp *%rbx; 1: finish\n"
    code += "other: incq DATA+8; 1: call 2f; jmp 1b; 2: ret\n"
    guest = two(code, where)
    guest.run(1_000_000)
    (record,) = guest.log
    assert (record.vector, record.rip, record.cr2) == (PF, at, at)
