"""Shadow page tables under kind and hostile guests: the guest sees what metal shows it, or the run ends clearly."""

from __future__ import annotations

import pytest

from modes.full_emulation.mode import TrapAndEmulate
from modes.full_emulation.translator.mode import FullEmulation
from modes.hw_assist.shadow import HwShadow
from modes.shadow import pager
from tests.support import NATIVE_METAL, PD, PDPT, PML4, PT, UNDER_SHADOW, UNDER_TRAP, RawGuest, Where

PF = 14
SPARE = 0x9_0000  # free frames, mapped where they are
everywhere = pytest.mark.parametrize("where", [pytest.param(NATIVE_METAL, id="metal"), *UNDER_SHADOW, *UNDER_TRAP])
shadowed = pytest.mark.parametrize("where", [*UNDER_SHADOW, *UNDER_TRAP])


def remap(page: int, entry: int) -> str:
    """Point the entry of a page in the last table elsewhere."""
    return f"movq ${entry:#x}, {PT + 8 * (page >> 12):#x}; invlpg {page:#x};"


@everywhere
def test_a_changed_entry_is_seen_after_invlpg(where: Where) -> None:
    guest = RawGuest(
        f"movq $11, {SPARE:#x}; movq $22, {SPARE + 0x1000:#x};"
        + remap(0xA_0000, SPARE | 7) + "mov 0xA0000, %rax; mov %rax, DATA;"
        + remap(0xA_0000, SPARE + 0x1000 | 7) + "mov 0xA0000, %rax; mov %rax, DATA+8; finish",
        where,
    ).finish()  # fmt: skip
    assert guest.words(2) == [11, 22]


@everywhere
def test_a_store_into_two_tables_that_are_in_use_gets_through(where: Where) -> None:
    """Each of them maps the store itself. As a plain move, a locked addition and a push."""
    both = PDPT + 0xFFC
    code = f"movl $0x5A5A, {both}; mov {both}, %rax; xor $4, %rax; mov %rax, {both}; lock xorq $8, {both};"
    code += f"mov %rsp, %rbx; mov ${both + 8}, %esp; push {both}; mov %rbx, %rsp; mov {both}, %rax; mov %rax, DATA;"
    code += "finish"
    assert RawGuest(code, where).finish().words(1)[0] & 0xFFFF_FFFF == 0x5A5A ^ 4 ^ 8


@everywhere
def test_accessed_and_dirty_bits_come_as_on_hardware(where: Where) -> None:
    look = f"mov {PT + 8 * 0xA0:#x}, %rax; mov %rax, DATA+"
    guest = RawGuest(
        remap(0xA_0000, SPARE | 7)
        + f"{look}0; mov 0xA0000, %rbx; {look}8; mov %rbx, 0xA0000; {look}16;"
        + remap(0xA_0000, SPARE | 0x27) + f"mov %rbx, 0xA0008; {look}24; finish",
        where,
    ).finish()  # fmt: skip
    assert [word & 0x60 for word in guest.words(4)] == [0, 0x20, 0x60, 0x60]


@everywhere
@pytest.mark.parametrize(
    ("entry", "error"),
    [(SPARE | 5, 7), (SPARE | 3, 7), (0, 6), (SPARE | 7 | 1 << 45, 15)],
    ids=["read-only", "supervisor", "absent", "reserved"],
)
def test_a_user_s_write_is_refused_with_the_right_error(entry: int, error: int, where: Where) -> None:
    guest = RawGuest(
        f"movabs ${entry:#x}, %rax; mov %rax, {PT + 8 * 0xA0:#x}; invlpg 0xA0000; lea 1f(%rip), %r15;"
        "to_user user; user: movl $1, 0xA0000; 1: int $0x80",
        where,
    ).finish()
    record = guest.log[0]
    assert (record.vector, record.error, record.cr2) == (PF, error, 0xA_0000)


@everywhere
def test_a_table_that_maps_itself_can_be_changed_through_itself(where: Where) -> None:
    """PML4 entry 511 points at the PML4: the tables appear at the top of the address space."""
    window = (511 << 39) | 0xFFFF << 48 & (1 << 64) - 1
    slot = window | 0 << 30 | 0 << 21 | 0xA0 << 3  # entry A0 of the last table
    guest = RawGuest(
        f"movq ${PML4 | 3:#x}, {PML4 + 8 * 511:#x}; movq $77, {SPARE:#x}; movabs ${slot:#x}, %rbx;"
        f"movq ${SPARE | 7:#x}, (%rbx); invlpg 0xA0000; mov 0xA0000, %rax; mov %rax, DATA;"
        f"lock orq $0x200, (%rbx); mov {PT + 8 * 0xA0:#x}, %rax; mov %rax, DATA+8; finish",
        where,
    ).finish()
    assert guest.words(1) == [77]
    assert guest.words(2)[1] & ~0x60 == SPARE | 7 | 0x200


@everywhere
@pytest.mark.parametrize("place", [PML4 + 8, PDPT + 8 * 5, PD + 8 * 3], ids=["pml4", "pdpt", "pd"])
def test_a_table_outside_memory_is_all_ones(place: int, where: Where) -> None:
    address = {PML4 + 8: 1 << 39, PDPT + 8 * 5: 5 << 30, PD + 8 * 3: 3 << 21}[place]
    guest = RawGuest(
        f"movabs $0x7F00000007, %rax; mov %rax, {place:#x}; movabs ${address:#x}, %rbx; lea 1f(%rip), %r15;"
        "mov (%rbx), %rcx; 1: finish",
        where,
    ).finish()
    record = guest.log[0]
    assert (record.vector, record.error, record.cr2) == (PF, 9, address)


@shadowed
def test_a_wild_cr3_ends_in_a_triple_fault(where: Where) -> None:
    assert "triple fault" in RawGuest("movabs $0xFFFFFFF000, %rax; mov %rax, %cr3; nop; finish", where).crash()


@shadowed
def test_faults_in_the_delivery_of_faults_end_clearly(where: Where) -> None:
    """The stack of ring 0 is gone."""
    assert "triple fault" in RawGuest("mov $NOT_MAPPED+0x1000, %esp; ud2; finish", where).crash()


@everywhere
def test_code_that_rewrites_another_page_of_code(where: Where) -> None:
    """The other page gets a sensitive instruction after it has run."""
    guest = RawGuest(
        f"movl $0xC3909090, {SPARE:#x}; mov ${SPARE:#x}, %ebx; call *%rbx; movl $0xC3D08C90, {SPARE:#x};"
        "xor %eax, %eax; call *%rbx; mov %rax, DATA; finish",
        where,
    ).finish()
    assert guest.words(1) == [0x10]  # mov %ss, %eax


@shadowed
def test_many_address_spaces_fit_in_bounded_memory(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of shadow tables is dropped when it is full, and the guest does not notice."""
    monkeypatch.setattr(pager, "MOST_TABLES", 24)
    roots, first = 50, 0x20_0000
    guest = RawGuest(
        f"mov ${first:#x}, %ebx; mov ${roots}, %r12d;"
        f"1: movq ${PDPT | 7:#x}, (%rbx); mov %rbx, %cr3; incq DATA; incq {SPARE:#x}; add $0x1000, %rbx;"
        f"dec %r12d; jnz 1b; mov ${PML4:#x}, %eax; mov %rax, %cr3; finish",
        where,
    ).finish()
    assert guest.words(1) == [roots]
    mode = guest.vm.mode
    assert isinstance(mode, TrapAndEmulate | HwShadow)
    assert mode.pager.s.used <= 24


@everywhere
def test_the_user_reaches_nothing_of_the_kernel_s(where: Where) -> None:
    """The kernel has touched the page, so it is in the kernel's shadow; in the user's it must not be."""
    guest = RawGuest(
        remap(0xA_0000, SPARE | 3) + "movq $5, 0xA0000; lea 1f(%rip), %r15; to_user user;"
        "user: mov 0xA0000, %rax; 1: mov %rax, DATA; int $0x80",
        where,
    ).finish()  # fmt: skip
    record = guest.log[0]
    assert (record.vector, record.error, record.cr2) == (PF, 5, 0xA_0000)
    assert guest.words(1) == [0]


REMAP_64 = f"""
    mov $64, %ecx; mov $0xA0000, %ebx
1:  mov (%rbx), %rax; add $0x1000, %ebx; dec %ecx; jnz 1b      /* all in the shadow */
    mov $64, %ecx; mov ${PT + 8 * 0xA0:#x}, %ebx
2:  movq ${SPARE | 7:#x}, (%rbx); add $8, %ebx; dec %ecx; jnz 2b
"""


@shadowed
def test_a_burst_leaves_a_table_out_of_sync_until_the_guest_flushes(where: Where) -> None:
    """64 entries change for five exits. Until INVLPG or a load of CR3 the old translation stays, as in a TLB.

    The translator makes the fifth write a call-out, and needs two more to see that this was in vain.
    """
    guest = RawGuest(
        f"movq $77, {SPARE:#x}; {REMAP_64}"
        "mov 0xA8000, %rax; mov %rax, DATA; mov 0xA9000, %rax; mov %rax, DATA+8;"
        "invlpg 0xA8000; mov 0xA8000, %rax; mov %rax, DATA+16; mov 0xAA000, %rax; mov %rax, DATA+24;"
        "mov %cr3, %rax; mov %rax, %cr3; mov 0xAA000, %rax; mov %rax, DATA+32; finish",
        where,
        memory={0xA_8000: b"\1", 0xA_9000: b"\2", 0xA_A000: b"\3"},
    ).finish()
    assert guest.words(5) == [1, 2, 77, 3, 77]
    translated = isinstance(guest.vm.mode, FullEmulation)
    writes = guest.exits["page_table_write"], guest.exits.get("table_callout", 0)
    assert writes == ((4, 3) if translated else (5, 0))


@everywhere
def test_a_burst_is_seen_after_a_flush_through_every_mapping_of_the_table(where: Where) -> None:
    """The same table serves two places of the address space; one of them is filled again before the flush."""
    guest = RawGuest(
        f"movq $77, {SPARE:#x}; mov 0x8A8000, %rax; {REMAP_64} invlpg 0xA8000; mov 0xA8000, %rax; mov %rax, DATA;"
        "invlpg 0x8A8000; mov 0x8A8000, %rax; mov %rax, DATA+8; finish",
        where,
        memory={PD + 8 * 4: (PT | 7).to_bytes(8, "little")},
    ).finish()
    assert guest.words(2) == [77, 77]


@shadowed
def test_a_table_that_is_only_data_now_is_forgotten(where: Where) -> None:
    """A frame was a table and is written again and again, while the guest switches address spaces."""
    old = 0x9_1000
    guest = RawGuest(
        f"mov 0x800000, %rax; movq $0, {PD + 8 * 4:#x}; mov ${PML4:#x}, %eax; mov %rax, %cr3; mov $40, %ecx;"
        f"1: .set at, {old}; .rept 6; incq at; .set at, at + 8; .endr; mov %rax, %cr3; dec %ecx; jnz 1b; finish",
        where,
        memory={PD + 8 * 4: (old | 7).to_bytes(8, "little"), old: (SPARE | 7).to_bytes(8, "little")},
    ).finish()
    assert guest.word(old + 8) == 40
    assert guest.exits["page_table_write"] < 20
