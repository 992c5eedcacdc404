"""A guest that stores into the code it runs: each instruction is counted once, and the new code is what runs next.

Unicorn begins such an instruction again when the store falls into its own block of code.
"""

from __future__ import annotations

import pytest

from hv.silicon.x86_64.machine import Idle
from modes.full_emulation.translator.mode import FullEmulation
from tests.support import CODE, EVERYWHERE, PT, UNDER_TRAP, RawGuest, Where

everywhere = pytest.mark.parametrize("where", EVERYWHERE + UNDER_TRAP)
in_hardware = pytest.mark.parametrize("where", EVERYWHERE)

# code -> instructions, and what RAX is at the end. All of them end with HLT, which counts too.
GUESTS = {
    "the next instruction": ("movb $7, 1f+1; 1: mov $5, %eax; hlt", 3, 7),
    "an instruction of the block that has run": ("1: mov $5, %eax; movb $7, 1b+1; hlt", 3, 5),
    "itself, twice": ("mov $2, %ecx; 1: addb $1, 1b+7; dec %ecx; jnz 1b; mov 1b+7, %al; hlt", 9, 4),
    "itself, locked": ("mov $2, %ecx; 1: lock addb $1, 1b+8; dec %ecx; jnz 1b; mov 1b+8, %al; hlt", 9, 4),
    "flags in between": ("mov $-1, %eax; add $1, %eax; movb $8, 1f+2; 1: adc $5, %eax; hlt", 5, 9),
    "push over the next ones": (
        "lea 1f+8(%rip), %rsp; mov $0x9090909090909090, %rbx; push %rbx; 1: .fill 4, 2, 0xC0FF; hlt", 3 + 8 + 1, 0,
    ),
    "call over the block": ("1: .fill 8, 1, 0x90; lea 1b+8(%rip), %rsp; call 2f; hlt; 2: hlt", 8 + 2 + 1, 0),
    # The third call replaces itself by the address behind it, which begins with an HLT.
    "call itself, over itself": ("lea 1f+24(%rip), %rsp; jmp 1f; .org 0xEF; 1: call 1b; hlt", 2 + 3 + 1, 0),
}  # fmt: skip
# The same, but not under trap-and-emulate: a REP whose last iteration is single-stepped counts its iterations and not
# one more, and a translation has a jump at the end of a page.
IN_HARDWARE = {
    "code across the end of a page": (
        ("mov $0x9090909090909090, %rax; jmp 1f; .org 0xFE8; 1: mov %rax, CODE+0xFFC; .fill 12, 1, 0x90; "
         ".fill 4, 2, 0xC0FF; movzbl %al, %eax; hlt"), 3 + 12 + 8 + 2, 0x90,
    ),
    "rep stosb over code that has run": (
        "mov $0x90, %eax; 1: mov $1b, %edi; mov $9, %ecx; rep stosb; hlt", 3 + 10 + 1, 0x90,
    ),
    "rep movsb over itself": ("mov $1f, %esi; mov %esi, %edi; mov $2, %ecx; 1: rep movsb; hlt", 3 + 3 + 1, 0),
}  # fmt: skip


def check(name: str, where: Where, *, cut: bool) -> None:
    code, retired, rax = (GUESTS | IN_HARDWARE)[name]
    guest = RawGuest(f".set CODE, {CODE}\n{code}", where)
    while cut and not isinstance(guest.run(1), Idle):
        assert guest.retired < 100
    guest.finish()
    assert (guest.retired, guest.registers()["rax"]) == (retired, rax)


@everywhere
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut before each instruction"])
@pytest.mark.parametrize("name", GUESTS)
def test_a_store_into_the_running_code_is_counted_once(where: Where, name: str, cut: bool) -> None:
    check(name, where, cut=cut)


@in_hardware
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut before each instruction"])
@pytest.mark.parametrize("name", IN_HARDWARE)
def test_and_so_it_is_in_these_cases(where: Where, name: str, cut: bool) -> None:
    check(name, where, cut=cut)


@everywhere
def test_a_store_into_two_pages_of_code_gets_through(where: Where) -> None:
    """Also where writes to both are watched, and one of them is the page that runs."""
    code, _, rax = IN_HARDWARE["code across the end of a page"]
    assert RawGuest(f".set CODE, {CODE}\n{code}", where).finish().registers()["rax"] == rax


@everywhere
def test_a_store_that_faults_first_is_counted_once(where: Where) -> None:
    """The code page once more at ALIAS, read-only until the handler (6 instructions) lets the store be tried again."""
    code = f"""
        .set ALIAS, 0xA0000
        movb $7, ALIAS + (1f - CODE) + 1
    1:  mov $5, %eax
        hlt
    repair:
        push %rax
        movq ${CODE | 7}, {PT + 8 * 0xA0}
        invlpg ALIAS
        pop %rax
        add $8, %rsp
        iretq
    """
    memory = {PT + 8 * 0xA0: (CODE | 5).to_bytes(8, "little")}
    guest = RawGuest(f".set CODE, {CODE}\n{code}", where, gates={14: ("repair", {})}, memory=memory).finish()
    assert (guest.retired, guest.registers()["rax"]) == (3 + 6, 7)


@everywhere
def test_a_mark_on_such_a_store_is_met_once(where: Where) -> None:
    guest = RawGuest("begin: movb $7, 1f+1; 1: mov $5, %eax; end: nop; hlt", where)
    guest.machine.watch_marks(guest["begin"], guest["end"])
    guest.finish()
    (window,) = guest.machine.probe.windows
    assert (guest.retired, window.retired) == (4, 2)


@everywhere
def test_a_jump_to_itself_is_counted_each_time(where: Where) -> None:
    added = 5 if where.mode is FullEmulation else 0  # a jump behind each LOOP, which reaches 128 bytes only
    assert RawGuest("mov $5, %ecx; 1: loop 1b; hlt", where).finish().retired == 1 + 5 + added + 1
