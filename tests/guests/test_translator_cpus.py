"""Two vCPUs under the translator: each has a window and a cache of its own; the shadow tables they share.

CPU 1 is in its cache while CPU 0 acts.
"""

from __future__ import annotations

import pytest

from modes.full_emulation.translator.window import CODE as CODE_OFFSET
from modes.full_emulation.translator.window import CR8, IF, PLACES, REGISTERS
from tests.guests.test_ipi import two
from tests.guests.test_translator import PF, SPARE, mode_of, translated
from tests.support import (
    PT,
    Where,
)


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
