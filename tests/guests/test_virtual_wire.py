"""Interrupts of the 8259s reach a guest that uses no APIC, on metal and behind exits."""

from __future__ import annotations

import pytest

from tests.support import DATA, EVERYWHERE, UNDER_POSTED, UNDER_TRAP, RawGuest, Where

pytestmark = pytest.mark.parametrize("where", EVERYWHERE + UNDER_POSTED + UNDER_TRAP)

# Both 8259s at 0x20 and 0x28, everything masked but what `mask` says; counter 0 of the 8254 at 10 kHz, square wave.
SETUP = """
    .macro put port, value
        mov $\\value, %al
        out %al, $\\port
    .endm
    put 0x20, 0x11; put 0x21, 0x20; put 0x21, 4; put 0x21, 1; put 0x21, {master}
    put 0xA0, 0x11; put 0xA1, 0x28; put 0xA1, 2; put 0xA1, 1; put 0xA1, {slave}
"""
TIMER = "put 0x43, 0x36; put 0x40, 0x77; put 0x40, 0;"
HANDLERS = """
    timer: push %rax; incq DATA; put 0x20, 0x20; pop %rax; iretq
    clock:
        push %rax
        incq DATA
        put 0x70, 0x0C; in $0x71, %al; mov %al, DATA+8
        put 0xA0, 0x20; put 0x20, 0x20
        pop %rax
        iretq
    spurious: incq DATA+16; iretq
"""
GATES: dict[int, tuple[str, dict[str, int]]] = {0x20: ("timer", {}), 0x28: ("clock", {}), 0x27: ("spurious", {})}
LONG = 20_000_000


def run(code: str, where: Where, *, master: int, slave: int = 0xFF) -> RawGuest:
    guest = RawGuest(SETUP.format(master=master, slave=slave) + code + HANDLERS, where, gates=GATES)
    guest.run(LONG)
    return guest


def test_the_tick_of_the_8254_interrupts_a_busy_guest(where: Where) -> None:
    guest = run(TIMER + "sti; 1: cmpq $3, DATA; jb 1b; finish\n", where, master=0xFE)
    assert guest.words(1) == [3]
    metal = where.mode.id == "bare-metal"
    # The mode's own rise came with the control word, in an exit; two periods while the guest ran.
    assert guest.exits.get("external_interrupt", 0) == (0 if metal else 2)


def test_the_tick_wakes_a_guest_that_sleeps(where: Where) -> None:
    guest = run(TIMER + "1: sti; hlt; cli; cmpq $3, DATA; jb 1b; finish\n", where, master=0xFE)
    assert guest.words(1) == [3]
    assert "external_interrupt" not in guest.exits


def test_the_clock_s_interrupt_comes_by_the_slave(where: Where) -> None:
    code = "put 0x70, 0x0A; put 0x71, 0x23; put 0x70, 0x0B; put 0x71, 0x42; sti; 1: cmpq $2, DATA; jb 1b; finish\n"
    guest = run(code, where, master=0xFB, slave=0xFE)
    assert guest.words(2) == [2, 0xC0]


def test_what_the_8259_masks_does_not_come(where: Where) -> None:
    guest = run(TIMER + "sti; mov $100000, %ecx; 1: dec %ecx; jnz 1b; finish\n", where, master=0xFF)
    assert guest.words(1) == [0]


def test_masking_lint0_cuts_the_wire(where: Where) -> None:
    code = "lapic 0xF0, 0x1FF; lapic 0x350, 0x10700;" + TIMER + "sti; mov $100000, %ecx; 1: dec %ecx; jnz 1b; finish\n"
    assert run(code, where, master=0xFE).words(1) == [0]


def test_the_task_priority_does_not_hold_it_back(where: Where) -> None:
    code = TIMER + "mov $15, %eax; mov %rax, %cr8; sti; 1: cmpq $2, DATA; jb 1b; finish\n"
    assert run(code, where, master=0xFE).words(1) == [2]


def test_an_idle_guest_whose_tick_is_off_is_idle(where: Where) -> None:
    code = SETUP.format(master=0xFE, slave=0xFF) + TIMER + "put 0x43, 0x30; sti; hlt; hlt\n" + HANDLERS
    guest = RawGuest(code, where, gates=GATES)
    guest.finish()
    assert guest.read(DATA + 8, 1) == b"\0"
