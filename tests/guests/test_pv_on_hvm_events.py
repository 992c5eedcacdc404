"""Xen beside a PC: how a guest hears of events, of time, of other vCPUs and of cards."""

from __future__ import annotations

import struct

import pytest

from modes.hw_assist.mode import HwAssist
from modes.paravirt.mode import Paravirt
from tests.hvm_rig import (
    ARGUMENTS,
    BY_LINE,
    BY_VECTOR,
    EINVAL,
    ENOENT,
    ENOSYS,
    EPERM,
    ETIME,
    HELP,
    TAKE,
    TAKING,
    Line,
    result,
    run,
    signed,
)
from tests.support import DATA, RawGuest, Where, two_cpus

# --- upcalls ------------------------------------------------------------------------------------------------------


def test_an_upcall_by_vector_needs_no_interrupt_controller() -> None:
    """The local APIC is off. Three events to oneself: three hypercalls, and no exit besides."""
    code = "set_up; bind_ipi 0, DATA+8; sti; send DATA+8; send DATA+8; send DATA+8;" + "nop;" * 4 + "finish\n" + TAKE
    guest = run(code, gates=TAKING)
    assert guest.words(1) == [3]
    assert "mmio" not in guest.exits
    assert "interrupt_window" not in guest.exits
    assert guest.exits["hypercall.event_channel_op"] == 4


def test_an_upcall_waits_until_interrupts_are_on() -> None:
    code = "set_up; bind_ipi 0, DATA+8; send DATA+8; mov DATA, %rax; mov %rax, DATA+16; sti; nop; nop; finish\n" + TAKE
    guest = run(code, gates=TAKING)
    assert guest.words(3)[::2] == [1, 0]
    assert guest.exits["interrupt_window"] == 1


def test_an_upcall_that_is_not_taken_comes_again_at_the_next_exit() -> None:
    """The handler clears nothing. There is one more for each exit with interrupts on."""
    code = "set_up; bind_ipi 0, DATA+8; sti; send DATA+8; mov $3, %ebx; 1: xor %eax, %eax; cpuid; nop;"
    code = code.replace("mov $3, %ebx; 1:", "mov $3, %r8d; 1:") + "dec %r8d; jnz 1b; finish\ntake: incq DATA; iretq\n"
    assert run(code, gates=TAKING).words(1) == [4]


def test_a_masked_port_makes_no_upcall_until_it_is_unmasked() -> None:
    code = "set_up; bind_ipi 0, DATA+8; movq $-1, SHARED+0xA00; sti; send DATA+8; mov DATA, %rax; mov %rax, DATA+16;"
    code += "mov DATA+8, %eax; mov %eax, ARGUMENTS; hypercall event_channel_op, 9, $ARGUMENTS; nop; finish\n" + TAKE
    assert run(code, gates=TAKING).words(3)[::2] == [1, 0]


def test_without_the_feature_a_vector_is_no_callback() -> None:
    code = "set_up; mov %rax, DATA+16; bind_ipi 0, DATA+8; sti; send DATA+8; nop; finish\n" + TAKE
    guest = run(code, BY_LINE, gates=TAKING)
    assert guest.words(3)[::2] == [0, 0]


LINE = """
    find_xen
    place
    lapic 0xF0, 0x1FF
    mov $IOAPIC, %ebx
    movl $0x10 + 2 * 11, (%rbx)
    movl $0xA041, 0x10(%rbx) /* level-triggered, vector 0x41 */
"""
END = "lapic 0xB0, 0; iretq\n"


@pytest.mark.parametrize("where", [BY_VECTOR, BY_LINE, Line(HwAssist, portable=True)])
def test_an_upcall_by_a_line_is_ended_like_any_interrupt(where: Where) -> None:
    """Line 11. The upcall is taken before the end of interrupt, so the line has fallen by then, and fires no more."""
    code = LINE + "callback 0, 11; bind_ipi 0, DATA+8; sti; send DATA+8; nop; nop; send DATA+8; nop; nop; finish\n"
    code += TAKE.replace("iretq", END)
    guest = run(code, where, gates={0x41: ("take", {})})
    assert guest.words(1) == [2]
    assert guest.exits["mmio"] == 1 + 2 + 2  # the set-up's, and an end each


def test_a_line_stays_up_while_the_upcall_is_not_taken() -> None:
    code = LINE + "callback 0, 11; bind_ipi 0, DATA+8; sti; send DATA+8; nop; nop; finish\n"
    code += "take: incq DATA; cmpq $3, DATA; jne 1f; movb $0, SHARED; 1:" + END
    assert run(code, BY_LINE, gates={0x41: ("take", {})}).words(1) == [3]


def test_a_pin_of_pci_leads_where_the_bridge_routes_it() -> None:
    """Device 2, INTA: the second wire (2 - 1), which register 61h of the ISA bridge leads to line 11."""
    code = LINE + "mov $0xCF8, %edx; mov $0x80000860, %eax; out %eax, %dx; mov $0xCFC + 1, %edx; mov $11, %al;"
    code += "out %al, %dx; callback 0x1000000, 0x1000; bind_ipi 0, DATA+8; sti; send DATA+8; nop; nop; finish\n"
    assert run(code + TAKE.replace("iretq", END), BY_LINE, gates={0x41: ("take", {})}).words(1) == [1]


def test_a_vcpu_s_own_vector_goes_through_its_local_apic() -> None:
    memory = {ARGUMENTS + 64: struct.pack("<IB3x", 0, 0x51), ARGUMENTS + 72: struct.pack("<IB3x", 0, 15),
              ARGUMENTS + 80: struct.pack("<IB3x", 9, 0x51)}  # fmt: skip
    code = "set_up; lapic 0xF0, 0x1FF; hypercall hvm_op, 23, $ARGUMENTS+72; mov %rax, DATA+16;"
    code += "hypercall hvm_op, 23, $ARGUMENTS+80; mov %rax, DATA+24; hypercall hvm_op, 23, $ARGUMENTS+64;"
    code += "bind_ipi 0, DATA+8; sti; send DATA+8; nop; nop; finish\n"
    code += "take: mov $LAPIC, %ebp; mov 0x120(%rbp), %eax; mov %rax, DATA+32;" + TAKE.split(":", 1)[1]
    guest = run(code.replace("iretq", END), gates={0x51: ("take", {}), **TAKING}, memory=memory)
    count, _, low, nobody, in_service = guest.words(5)
    assert (count, signed(low), signed(nobody), in_service) == (1, -EINVAL, -ENOENT, 1 << 0x51 - 0x40)


def test_a_line_is_not_for_a_vcpu_with_a_vector_of_its_own() -> None:
    """Linux names line 1, which is the keyboard's, when each of its vCPUs has its own vector (arch/x86/xen)."""
    memory = {ARGUMENTS + 64: struct.pack("<IB3x", 0, 0x51)}
    code = LINE + "hypercall hvm_op, 23, $ARGUMENTS+64; callback 0, 11; bind_ipi 0, DATA+8; sti; send DATA+8; nop; nop;"
    code += "send DATA+8; nop; nop; finish\nline: incq DATA+16;" + END + TAKE.replace("iretq", END)
    guest = run(code, gates={0x51: ("take", {}), 0x41: ("line", {})}, memory=memory)
    assert (guest.words(1), guest.words(3)[2]) == ([2], 0)


# --- time ---------------------------------------------------------------------------------------------------------

HOUR = 3_600_000_000_000


def test_the_timer_interrupts_a_guest_that_runs() -> None:
    code = "set_up; bind_timer DATA+8; sti; mov $20000, %edi; mov $15, %eax; vmmcall; 1: cmpq $0, DATA; je 1b; finish\n"
    guest = run(code + TAKE, gates=TAKING)
    assert guest.exits["external_interrupt"] == 1
    assert 20_000 <= guest.vm.now * 2 // 5 // 1000 < 30_000  # ns


@pytest.mark.parametrize("wait", ["sti; hlt", "hypercall sched_op, 1, $0"])
def test_the_timer_wakes_a_guest_that_sleeps(wait: str) -> None:
    """HLT with interrupts on, or sched_op's block, which does not care about them. Waking is no exit."""
    code = f"set_up; bind_timer DATA+8; mov $50000, %edi; mov $15, %eax; vmmcall; {wait}; sti; nop; finish\n" + TAKE
    guest = run(code, gates=TAKING)
    assert guest.words(1) == [1]
    assert "external_interrupt" not in guest.exits
    assert guest.vm.now >= 50_000 * 2500


def test_a_shot_in_the_past_is_refused_if_the_guest_wants_the_future() -> None:
    memory = {ARGUMENTS: struct.pack("<QII", 1, 1, 0)}
    code = "xor %esi, %esi; mov $ARGUMENTS, %edx; mov $8, %edi; mov $24, %eax; vmmcall;"
    assert result(code, memory=memory) == -ETIME


@pytest.mark.parametrize(("until", "least"), [(40_000, 40_000), (HOUR, HOUR)])
def test_a_poll_ends_at_its_time(until: int, least: int) -> None:
    memory = {ARGUMENTS: struct.pack("<QIIQ", ARGUMENTS + 64, 1, 0, until), ARGUMENTS + 64: struct.pack("<I", 9)}
    guest = RawGuest(HELP + "find_xen; place; hypercall sched_op, 3, $ARGUMENTS2; finish".replace("ARGUMENTS2", "DATA"),
                     BY_VECTOR, memory={DATA: memory[ARGUMENTS], ARGUMENTS + 64: memory[ARGUMENTS + 64]})  # fmt: skip
    guest.run(2 * HOUR)
    assert guest.vm.now // 2500 >= least


def test_other_commands_for_vcpus_are_a_pc_s_business() -> None:
    for command, errno in ((0, ENOSYS), (1, ENOSYS), (2, ENOSYS), (11, ENOSYS)):
        assert result(f"xor %esi, %esi; xor %edx, %edx; mov ${command}, %edi; mov $24, %eax; vmmcall;") == -errno
    assert result("mov $9, %esi; mov $3, %edi; mov $24, %eax; vmmcall;") == -ENOENT


# --- two CPUs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("portable", [False, True])
def test_an_event_interrupts_the_other_cpu_without_its_local_apic(portable: bool) -> None:
    code = "set_up; bind_ipi 1, DATA+32; start_other; 1: pause; cmpq $1, DATA+8; jne 1b; send DATA+32;"
    code += (
        "1: pause; cmpq $1, DATA; jne 1b; finish\n other: sti; incq DATA+8; 1: pause; cmpq $1, DATA; jne 1b; finish\n"
    )
    code += "take: incq DATA; movb $0, SHARED+64; movq $0, SHARED+72; movq $0, SHARED+0x800; iretq\n"
    where = Where(HwAssist, portable, Paravirt)
    guest = RawGuest(two_cpus(HELP + code), where, gates=TAKING, cpus=2).finish()
    assert guest.words(2) == [1, 1]
    assert guest.exits["external_interrupt"] == 1


# --- interrupts of cards ------------------------------------------------------------------------------------------

PIRQ = """
    set_up
    hypercall physdev_op, 23, $ARGUMENTS
    mov ARGUMENTS + 4, %eax
    mov %eax, ARGUMENTS
    mov %rax, DATA + 16
    hypercall event_channel_op, 2, $ARGUMENTS
    mov %rax, DATA + 24
    mov DATA + 16, %eax
    mov %eax, ARGUMENTS
    hypercall event_channel_op, 2, $ARGUMENTS
    mov %rax, DATA + 32
    movl $23, ARGUMENTS
    hypercall event_channel_op, 2, $ARGUMENTS
    mov %rax, DATA + 40
"""


def test_a_card_s_message_can_be_an_event() -> None:
    """Its data has no vector, and its address the number that Xen has given: nothing to end at a local APIC."""
    guest = RawGuest(HELP + PIRQ + "sti; 1: hlt; jmp 1b\n" + TAKE, BY_VECTOR, gates=TAKING).finish()
    count, _, pirq, bound, again, line = guest.words(6)
    assert (count, pirq, bound, signed(again), signed(line)) == (0, 24, 0, -17, -EINVAL)
    for address, data, expected in ((pirq, 0x4300, 1), (pirq + 1, 0x4300, 1), (pirq, 0x40, 1), (pirq, 0, 2)):
        guest.vm.board.message(0xFEE0_0000 | address << 12, data)
        guest.finish()
        assert guest.words(1) == [expected], (address, data)
    assert "mmio" not in guest.exits


def test_without_vectors_there_are_no_pirqs() -> None:
    guest = run(PIRQ + "finish\n" + TAKE, BY_LINE, gates=TAKING)
    assert signed(guest.words(4)[3]) == -EPERM
