"""The table of targets: whatever an indirect branch leads to, the guest gets what hardware gives it."""

from __future__ import annotations

import pytest

from hv.silicon.x86_64.machine import Ended, Idle
from modes.full_emulation.translator.targets import AREAS, PAGES_A_CODE_PAGE
from modes.full_emulation.translator.window import CODE as CODE_OFFSET
from modes.full_emulation.translator.window import CR, REGISTERS, SIZE
from tests.guests.test_translator import SPARE, WINDOW, mode_of, translated
from tests.support import (
    CODE,
    DATA,
    LAPIC,
    NATIVE_METAL,
    NATIVE_TRANSLATED,
    NOT_MAPPED,
    PD,
    PDPT,
    PML4,
    RawGuest,
    Where,
)

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


def test_nor_one_that_forges_an_address_of_what_was_dropped_from_it() -> None:
    """A call-out whose instruction the guest has overwritten since."""
    code = (
        f"movl $0xC3090F, {SPARE:#x}; mov ${SPARE:#x}, %ebx; call *%rbx; movl $-1, {SPARE:#x}; lea 1f(%rip), %r15;"
        f"call *%rbx; 1: lea 2f(%rip), %r15; mov ${with_slot_at(DATA):#x}, %ebx; orq $0, DATA; jmp *%rbx; 2: finish"
    )
    first = RawGuest(code, NATIVE_TRANSLATED)
    cache = mode_of(first).desk.cache.s
    while SPARE not in cache.where:
        first.run(100)
    for at in range(cache.where[SPARE] - 16, cache.where[SPARE] + 16):
        guest = RawGuest(code, NATIVE_TRANSLATED, memory={DATA: at.to_bytes(8, "little")})
        outcome = guest.run(1_000_000)
        assert not isinstance(outcome, Ended) or "\n" not in (outcome.report or "")
        guest.close()


@translated
def test_the_table_moves_when_the_guest_wants_its_addresses(where: Where) -> None:
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
