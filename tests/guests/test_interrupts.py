"""Interrupts: local APIC and its timer, the shadow of STI, priorities, HLT, the serial line; on metal and emulated."""

from __future__ import annotations

import pytest

from hv.silicon.x86_64.machine import Idle
from tests.support import DATA, EVERYWHERE, KERNEL_CS, UNDER_POSTED, UNDER_TRAP, RawGuest, Where

pytestmark = pytest.mark.parametrize("where", EVERYWHERE + UNDER_POSTED + UNDER_TRAP)

Gates = dict[int, tuple[str, dict[str, int]]]
# The handlers write their vector's letter to the text at R8 and end the interrupt.
HANDLERS = """
a_handler: movb $'a', (%r8); inc %r8; movl $0, 0xB0(%rbp); iretq
b_handler: movb $'b', (%r8); inc %r8; movl $0, 0xB0(%rbp); iretq
c_handler: movb $'c', (%r8); inc %r8; movl $0, 0xB0(%rbp); iretq
"""
GATES: Gates = {0x40: ("a_handler", {}), 0x51: ("b_handler", {}), 0xA2: ("c_handler", {})}
START = "mov $DATA, %r8; lapic 0xF0, 0x1FF;"
SELF = "movl $0x400{:02X}, 0x300(%rbp);"  # an interrupt to oneself


def text(guest: RawGuest) -> str:
    return guest.read(DATA, 64).rstrip(b"\0").decode()


def say(letter: str) -> str:
    return f"movb $'{letter}', (%r8); inc %r8;"


def test_an_interrupt_waits_until_if_is_set_and_for_one_instruction_after_sti(where: Where) -> None:
    guest = RawGuest(
        START + SELF.format(0x40) + "nop; nop; sti; mov %r8, %r9; shadow: nop; cli; hlt\n" + HANDLERS,
        where,
        gates={0x40: ("", {})},
    ).finish()
    (record,) = guest.log
    assert (record.vector, record.rip, record.cs) == (0x40, guest["shadow"], KERNEL_CS)
    assert record.rflags >> 9 & 1 == 1
    assert record.flags_in_handler >> 9 & 1 == 0


def test_sti_followed_by_cli_lets_no_interrupt_in(where: Where) -> None:
    code = START + SELF.format(0x40) + "sti; cli; nop; nop; sti; nop; nop; finish\n" + HANDLERS
    guest = RawGuest(code, where, gates={0x40: ("", {})}).finish()
    (record,) = guest.log
    assert record.rip > guest["a_handler"] - 8


def test_popf_opens_the_window_without_a_shadow(where: Where) -> None:
    code = START + SELF.format(0x40) + "push $0x202; popf; after: nop; finish\n" + HANDLERS
    guest = RawGuest(code, where, gates={0x40: ("", {})}).finish()
    assert [record.rip for record in guest.log] == [guest["after"]]


def test_sti_hlt_is_woken_by_the_interrupt_that_waits(where: Where) -> None:
    """The idiom of every idle loop: the interrupt comes behind HLT, not before it."""
    code = START + SELF.format(0x40) + "sti; hlt; after: finish\n" + HANDLERS
    guest = RawGuest(code, where, gates={0x40: ("", {})}).finish()
    assert [record.rip for record in guest.log] == [guest["after"]]


def test_the_highest_vector_comes_first_and_interrupts_the_lower_ones_handler(where: Where) -> None:
    code = START + SELF.format(0x40) + SELF.format(0xA2) + SELF.format(0x51) + "sti; nop; nop; finish\n" + HANDLERS
    assert text(RawGuest(code, where, gates=GATES).finish()) == "cba"


def test_a_lower_vector_waits_for_the_end_of_the_interrupt(where: Where) -> None:
    """The handler of the high one opens interrupts: the low one does not come before EOI, the higher one does."""
    code = (
        START + SELF.format(0x51) + "sti; nop; nop; finish\n"
        "b_slow:" + SELF.format(0x40) + "sti; nop;" + say("1") + SELF.format(0xA2) + "nop;" + say("2")
        + "cli; movl $0, 0xB0(%rbp);" + say("3") + "iretq\n" + HANDLERS
    )  # fmt: skip
    assert text(RawGuest(code, where, gates={**GATES, 0x51: ("b_slow", {})}).finish()) == "1c23a"


def test_the_task_priority_in_cr8_holds_interrupts_back(where: Where) -> None:
    """CR8 = 4 holds class 4 back, 3 lets it in; class 5 passes (APM vol. 2, 16.6.4)."""
    code = (
        START + "mov $4, %eax; mov %rax, %cr8; sti;" + SELF.format(0x40) + "nop;" + say("1") + SELF.format(0x51)
        + "nop;" + say("2") + "dec %eax; mov %rax, %cr8; nop;" + say("3") + "finish\n" + HANDLERS
    )  # fmt: skip
    assert text(RawGuest(code, where, gates=GATES).finish()) == "1b2a3"


def test_cr8_and_the_tpr_register_are_one(where: Where) -> None:
    code = """
        lapic 0xF0, 0x1FF
        mov $9, %eax; mov %rax, %cr8; mov 0x80(%rbp), %ecx; mov %rcx, DATA
        movl $0x50, 0x80(%rbp); mov %cr8, %rax; mov %rax, DATA+8
        finish
    """
    assert RawGuest(code, where).finish().words(2) == [0x90, 5]


def test_lowering_the_tpr_register_releases_a_waiting_interrupt(where: Where) -> None:
    code = (
        START + "movl $0xF0, 0x80(%rbp); sti;" + SELF.format(0x40) + "nop; nop;" + say("1") + "movl $0, 0x80(%rbp); nop;"  # noqa: E501
        + say("2") + "finish\n" + HANDLERS
    )  # fmt: skip
    assert text(RawGuest(code, where, gates=GATES).finish()) == "1a2"


def test_the_same_vector_twice_is_one_interrupt(where: Where) -> None:
    code = START + SELF.format(0x40) * 3 + "sti; nop; nop; finish\n" + HANDLERS
    assert text(RawGuest(code, where, gates=GATES).finish()) == "a"


def test_a_vector_below_16_and_a_switched_off_apic_give_no_interrupt(where: Where) -> None:
    code = (
        "mov $DATA, %r8; mov $LAPIC, %ebp; sti;" + SELF.format(0x40) + "nop; nop; lapic 0xF0, 0x1FF;"
        + SELF.format(0x0F) + "nop; nop; finish\n" + HANDLERS
    )  # fmt: skip
    # A virtual APIC's interrupts to oneself do not ask whether it is on (Intel SDM vol. 3, 30.1.5).
    assert text(RawGuest(code, where, gates=GATES).finish()) == ("a" if where.interrupts else "")


def test_a_one_shot_timer_fires_once(where: Where) -> None:
    code = (
        START
        + "movl $0xB, 0x3E0(%rbp); movl $0x40, 0x320(%rbp); movl $10, 0x380(%rbp); sti; hlt; mov 0x390(%rbp), %eax;"
    )
    code += "mov %eax, DATA+64; cli; hlt\n" + HANDLERS
    guest = RawGuest(code, where, gates=GATES).finish()
    assert text(guest) == "a"
    assert guest.word(DATA + 64) == 0


def test_a_periodic_timer_fires_until_it_is_stopped(where: Where) -> None:
    code = START + "movl $0xB, 0x3E0(%rbp); movl $0x20040, 0x320(%rbp); movl $400, 0x380(%rbp); sti; 1: hlt;"
    code += "cmp $DATA+5, %r8; jne 1b; cli; movl $0, 0x380(%rbp); finish\n" + HANDLERS
    assert text(RawGuest(code, where, gates=GATES).finish()) == "aaaaa"


def test_a_timer_interrupts_a_loop_that_runs(where: Where) -> None:
    code = (
        START + "movl $0xB, 0x3E0(%rbp); movl $0x40, 0x320(%rbp); movl $30, 0x380(%rbp); sti; 1: cmp $DATA, %r8; je 1b;"
    )
    assert text(RawGuest(code + "finish\n" + HANDLERS, where, gates=GATES).finish()) == "a"


def test_a_timer_that_expires_with_interrupts_off_is_delivered_later(where: Where) -> None:
    code = (
        START
        + "movl $0xB, 0x3E0(%rbp); movl $0x40, 0x320(%rbp); movl $30, 0x380(%rbp); 1: mov 0x390(%rbp), %eax; test %eax, %eax; jnz 1b;"  # noqa: E501
    )
    code += say("1") + "sti; nop; nop;" + say("2") + "finish\n" + HANDLERS
    assert text(RawGuest(code, where, gates=GATES).finish()) == "1a2"


def test_a_masked_timer_counts_but_does_not_interrupt(where: Where) -> None:
    code = START + "movl $0xB, 0x3E0(%rbp); movl $0x10040, 0x320(%rbp); movl $30, 0x380(%rbp); sti;"
    code += "1: mov 0x390(%rbp), %eax; test %eax, %eax; jnz 1b; nop; finish\n" + HANDLERS
    assert text(RawGuest(code, where, gates=GATES).finish()) == ""


def test_an_interrupt_at_ring_3_switches_the_stack(where: Where) -> None:
    code = (
        START + "movl $0xB, 0x3E0(%rbp); movl $0x40, 0x320(%rbp); movl $30, 0x380(%rbp); push $0x23; push $USER_STACK;"
        "push $0x202; push $0x2B; push $user; iretq; user: jmp user; done: cli; hlt\n"
    )
    guest = RawGuest(code, where, gates={0x40: ("done", {})}).finish()
    assert guest.registers()["rsp"] == 0x3_2000 - 40
    assert guest.read(0x3_2000 - 40, 16) == guest["user"].to_bytes(8, "little") + (0x2B).to_bytes(8, "little")


def test_a_byte_from_the_serial_line_interrupts_through_the_io_apic(where: Where) -> None:
    """16550 on pin 4: received data, vector 0x51; the guest sleeps until it comes."""
    code = (
        START
        + "mov $IOAPIC, %ebx; movl $0x18, (%rbx); movl $0x51, 0x10(%rbx); movl $0x19, (%rbx); movl $0, 0x10(%rbx);"
        "mov $0x3FC, %dx; mov $8, %al; out %al, (%dx); mov $0x3F9, %dx; mov $1, %al; out %al, (%dx);"
        "sti; 1: hlt; cmp $DATA+2, %r8; jne 1b; finish\n"
        "rx: mov $0x3F8, %dx; in (%dx), %al; mov %al, (%r8); inc %r8; movl $0, 0xB0(%rbp); iretq\n"
    )
    guest = RawGuest(code, where, gates={0x51: ("rx", {})})
    assert isinstance(guest.run(), Idle)
    guest.console.feed(b"x")
    assert isinstance(guest.vm.run(), Idle)
    assert text(guest) == "x"
    guest.console.feed(b"y")
    assert isinstance(guest.vm.run(), Idle)
    assert text(guest) == "xy"


def test_hlt_with_interrupts_off_sleeps_for_ever(where: Where) -> None:
    code = START + SELF.format(0x40) + "hlt;" + say("1") + "finish\n" + HANDLERS
    guest = RawGuest(code, where, gates=GATES)
    guest.run()
    assert "a" not in text(guest)


def test_a_jump_to_itself_before_an_interrupt_is_counted(where: Where) -> None:
    """STI holds the interrupt back for one instruction, which completes, also when it leads to itself."""
    counts = set()
    for last in ("jmp last", "nop"):
        code = f"{START}; cli; {SELF.format(0x40)}; nop; sti; last: {last}; nop; finish; end: hlt"
        guest = RawGuest(code, where, gates={0x40: ("end", {})}).finish()
        counts.add(guest.retired)
    assert len(counts) == 1
