"""The virtual APIC and posted interrupts, by raw guests: what exits and what does not, and races of posting."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.silicon.posted import Descriptor
from hv.silicon.x86_64.machine import Ended, Idle
from hv.silicon.x86_64.virtual_apic import X2APIC
from modes.hw_assist.mode import HwAssist
from modes.posted_interrupts.delivery import NOTIFY, PostedDelivery
from tests.support import DATA, NATIVE_AVIC, NATIVE_POSTED, UNDER_AVIC, UNDER_POSTED, RawGuest, Where, two_cpus

posted = pytest.mark.parametrize("where", UNDER_POSTED)
Gates = dict[int, tuple[str, dict[str, int]]]
START = "mov $DATA, %r8; lapic 0xF0, 0x1FF;"
HANDLER = "h: movb $'h', (%r8); inc %r8; movl $0, 0xB0(%rbp); iretq\n"
GATES: Gates = {0x40: ("h", {})}


def exits(guest: RawGuest) -> dict[str, int]:
    """Those of interrupts: not the pages' first touches, nor the last HLT."""
    return {reason: count for reason, count in guest.exits.items() if reason not in ("npf", "hlt")}


def delivery(guest: RawGuest) -> PostedDelivery:
    mode = guest.vm.mode
    assert isinstance(mode, HwAssist)
    assert isinstance(mode.interrupts, PostedDelivery)
    return mode.interrupts


def text(guest: RawGuest) -> str:
    return guest.read(DATA, 64).rstrip(b"\0").decode()


# --- what exits -----------------------------------------------------------------------------------------------------


@posted
@pytest.mark.parametrize(
    ("access", "reason"),
    [
        ("movl $0x20, 0x80(%rbp)", None), ("mov 0x80(%rbp), %eax", None), ("movb $0x20, 0x80(%rbp)", None),
        ("movl $0, 0xB0(%rbp)", None), ("mov 0x20(%rbp), %eax", None), ("testl $1, 0x200(%rbp)", None),
        ("movl $0x44040, 0x300(%rbp)", None), ("movl $0x1000000, 0x310(%rbp)", None),
        ("movl $0x10000, 0x320(%rbp)", "apic_write"), ("movl $0, 0x380(%rbp)", "apic_write"),
        ("movl $0x40, 0x300(%rbp)", "apic_write"), ("orl $1, 0x3E0(%rbp)", "apic_write"),
        ("mov 0x390(%rbp), %eax", "apic_access"), ("mov 0xA0(%rbp), %eax", "apic_access"),
        ("movl $1, 0x30(%rbp)", "apic_access"), ("mov 0x84(%rbp), %eax", "apic_access"),
        ("movq $0, 0x380(%rbp)", "apic_access"),
    ],
)  # fmt: skip
def test_an_access_exits_or_not(where: Where, access: str, reason: str | None) -> None:
    guest = RawGuest(START + f"{access}; finish\n", where).finish()
    expected = {"apic_write": 1}  # of START
    if reason is not None:
        expected[reason] = expected.get(reason, 0) + 1
    assert exits(guest) == expected


@posted
def test_an_access_that_exits_first_does_what_it_would_have_done(where: Where) -> None:
    """ADC reads carry and changes all flags: neither may be of an attempt that did not count."""
    code = (
        START
        + """movl $0xB, 0x3E0(%rbp); movl $1000000, 0x380(%rbp); mov $5, %eax; stc; adc 0xA0(%rbp), %eax
        mov %rax, DATA; movl $0x50, 0x80(%rbp); mov 0xA0(%rbp), %eax; mov %rax, DATA+8
        mov 0x390(%rbp), %eax; mov %rax, DATA+16; movq $0, 0x380(%rbp); mov 0x390(%rbp), %eax; mov %rax, DATA+24
        finish\n"""
    )
    words = RawGuest(code, where).finish().words(4)
    assert words[:2] == [6, 0x50]
    assert 900_000 < words[2] < 1_000_000
    assert words[3] == 0


@posted
def test_an_interrupt_to_oneself_and_its_end_exit_nowhere(where: Where) -> None:
    guest = RawGuest(START + "sti; movl $0x44040, 0x300(%rbp); nop; finish\n" + HANDLER, where, gates=GATES).finish()
    assert text(guest) == "h"
    assert exits(guest) == {"apic_write": 1}


@posted
def test_the_end_of_a_level_triggered_interrupt_exits_for_the_io_apic(where: Where) -> None:
    """The 16550's line on pin 4: it stays high until the handler has read the byte, and so does the interrupt."""
    code = (
        START
        + """mov $IOAPIC, %ebx; movl $0x18, (%rbx); movl $0x8040, 0x10(%rbx); movl $0x19, (%rbx)
        movl $0, 0x10(%rbx); mov $0x3FC, %dx; mov $8, %al; out %al, (%dx); mov $0x3F9, %dx; mov $1, %al; out %al, (%dx)
        sti; 1: hlt; cmp $DATA+3, %r8; jne 1b; finish
        h: movb $'h', (%r8); inc %r8; cmp $DATA+2, %r8; jb 2f; mov $0x3F8, %dx; in (%dx), %al
        2: movl $0, 0xB0(%rbp); iretq\n"""
    )
    guest = RawGuest(code, where, gates=GATES)
    for typed in (b"x", b"y"):
        assert isinstance(guest.run(), Idle)
        guest.console.feed(typed)
    assert isinstance(guest.run(), Idle)
    assert text(guest) == "hhh"  # the first one has left the line high
    assert guest.exits["virtual_eoi"] == 3


@posted
def test_an_interrupt_whose_stack_is_not_backed_is_delivered_once(where: Where) -> None:
    """The push exits; the hypervisor backs the page and injects what was under way."""
    code = START + "mov $0x300000, %esp; sti; movl $0x44040, 0x300(%rbp); nop; finish\n" + HANDLER
    guest = RawGuest(code, where, gates=GATES).finish()
    assert text(guest) == "h"


# --- x2APIC ---------------------------------------------------------------------------------------------------------


@posted
def test_tpr_eoi_and_self_ipi_behind_msrs(where: Where) -> None:
    """The guest is not offered x2APIC; here the hypervisor opens it all the same."""
    code = (
        START
        + """sti; mov $0x40, %eax; xor %edx, %edx; mov $0x83F, %ecx; wrmsr; nop
        mov $0x808, %ecx; mov $0x55, %eax; wrmsr; rdmsr; mov %rax, DATA+8; mov 0x80(%rbp), %eax; mov %rax, DATA+16
        mov %cr8, %rax; mov %rax, DATA+24; mov $0x83F, %ecx; mov $0x40, %eax; wrmsr; nop
        mov $0x820, %ecx; rdmsr; mov %rax, DATA+32; mov $0x808, %ecx; xor %eax, %eax; wrmsr; nop; finish
        h: movb $'h', (%r8); inc %r8; push %rax; push %rcx; push %rdx; xor %eax, %eax; xor %edx, %edx
        mov $0x80B, %ecx; wrmsr; pop %rdx; pop %rcx; pop %rax; iretq\n"""
    )
    guest = RawGuest(code, where, gates=GATES)
    open_x2apic(guest)
    guest.finish()
    assert guest.read(DATA, 8).rstrip(b"\0") == b"hh"
    assert guest.words(4, DATA + 8) == [0x55, 0x55, 5, 0]
    assert exits(guest) == {"apic_write": 1}


@posted
@pytest.mark.parametrize(("register", "value"), [(0x808, 0x100), (0x80B, 1), (0x83F, 0x140), (0x838, 5)])
def test_bad_values_behind_msrs_fault(where: Where, register: int, value: int) -> None:
    code = f"mov $1f, %r15; mov ${register}, %ecx; mov ${value}, %eax; xor %edx, %edx; wrmsr; nop; 1: finish\n"
    guest = RawGuest(code, where)
    open_x2apic(guest)
    assert [record.vector for record in guest.finish().log] == [13]


def open_x2apic(guest: RawGuest) -> None:
    """No intercepts for MSRs 0x800 to 0x8FF."""
    guest.vmcb.apic_controls |= X2APIC
    guest.machine.memory.write(guest.vmcb.msrpm_base_pa + 0x800 // 4, bytes(0x100 // 4))


# --- avic -----------------------------------------------------------------------------------------------------------

TO_OTHER = """start_other; 1: cmpq $1, DATA+0x88; jne 1b; movl $0x1000000, 0x310(%rbp)
    {send}; 1: cmpq $0, DATA+0x80; je 1b; finish
    other: mov $DATA, %r8; sti; incq DATA+0x88; 1: {rest}; cmpq $0, DATA+0x80; je 1b; cli; hlt
    h: incq DATA+0x80; movl $0, 0xB0(%rbp); iretq\n"""


@pytest.mark.parametrize("where", UNDER_AVIC)
@pytest.mark.parametrize(
    ("send", "rest", "reason"),
    [
        ("movl $0x40, 0x300(%rbp)", "pause", None),  # to one that runs
        ("movl $0x0, 0xD0(%rbp); movl $0xC0040, 0x300(%rbp)", "pause", None),  # to all others
        ("mov $20000, %edi; 1: dec %edi; jnz 1b; movl $0x40, 0x300(%rbp)", "hlt", "incomplete_ipi"),
        ("movl $0x140, 0x300(%rbp)", "pause", "incomplete_ipi"),  # lowest priority: by the hypervisor
    ],
    ids=["running", "others", "asleep", "lowest priority"],
)
def test_interrupts_to_others(where: Where, send: str, rest: str, reason: str | None) -> None:
    guest = RawGuest(two_cpus(TO_OTHER.format(send=send, rest=rest)), where, gates=GATES, cpus=2).finish()
    assert guest.word(DATA + 0x80) == 1
    sent = guest.exits.get("incomplete_ipi", 0)
    assert sent == 2 + (reason is not None)  # INIT and the start-up message are two


# --- races of posting -----------------------------------------------------------------------------------------------

BUSY = """mov $0, %r9d; sti; 1: inc %r9; cmpl $0, DATA+0x800; je 1b; cli; finish\n"""
ASLEEP = """sti; 1: hlt; cmpl $0, DATA+0x800; je 1b; cli; finish\n"""
BLINKING = """1: cli; mov $9, %ecx; 2: dec %ecx; jnz 2b; sti; nop; mov $5, %ecx; 2: dec %ecx; jnz 2b
    movl $0xF0, 0x80(%rbp); mov $7, %ecx; 2: dec %ecx; jnz 2b; movl $0, 0x80(%rbp)
    cmpl $0, DATA+0x800; je 1b; sti; nop; nop; finish\n"""
POSTED = (0x41, 0x57, 0x99, 0xE0)
LAST = 0x30  # sets the word that ends the guest
COUNTERS = "".join(
    f"v{vector:x}: incl DATA+{4 * vector}; mov 0x80(%rbp), %eax; movl $0, 0xB0(%rbp); iretq\n" for vector in POSTED
)
END = f"v{LAST:x}: movl $1, DATA+0x800; movl $0, 0xB0(%rbp); iretq\n"
COUNTING: Gates = {vector: (f"v{vector:x}", {}) for vector in (*POSTED, LAST)}

step = st.tuples(
    st.sampled_from(["post", "post", "post", "urgent", "suppress", "allow", "again"]),
    st.sampled_from(POSTED), st.integers(0, 900),
)  # fmt: skip


@pytest.mark.parametrize("code", [BUSY, ASLEEP, BLINKING], ids=["busy", "asleep", "blinking"])
@pytest.mark.parametrize("where", [NATIVE_POSTED, NATIVE_AVIC], ids=["posted", "avic"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(step, max_size=20))
def test_no_post_is_lost_or_comes_twice(where: Where, code: str, steps: list[tuple[str, int, int]]) -> None:
    """Cards post while the vCPU runs, masks and sleeps, with notifications suppressed and not."""
    guest = RawGuest(START + code + COUNTERS + END, where, gates=COUNTING)
    descriptor = delivery(guest).descriptors[0]
    guest.run(60_000)
    posts = dict.fromkeys(POSTED, 0)
    since = dict.fromkeys(POSTED, 0)  # how often it had come when it was posted last
    for kind, vector, cycles in [*steps, ("allow", 0, 0)]:
        if kind in ("post", "urgent"):
            posts[vector] += 1
            since[vector] = count(guest, vector)
            guest.machine.post(descriptor, vector, kind == "urgent")
        elif kind == "suppress":
            descriptor.suppress(True)
        elif kind == "allow":
            allow(guest, descriptor)
        else:
            guest.machine.interrupt(0, NOTIFY)  # one that says nothing new
        guest.run(cycles)
    guest.run(60_000)
    for vector in POSTED:
        assert count(guest, vector) <= posts[vector], "twice"
        assert not posts[vector] or count(guest, vector) > since[vector], "lost"
    guest.machine.post(descriptor, LAST)
    guest.finish()
    assert {reason for reason, _ in exits(guest).items()} <= {"apic_write", "hlt"}
    guest.close()


def count(guest: RawGuest, vector: int) -> int:
    return int(struct.unpack("<I", guest.read(DATA + 4 * vector, 4))[0])


def allow(guest: RawGuest, descriptor: Descriptor) -> None:
    """What a scheduler does when it lets a vCPU run again: what was posted meanwhile is notified of now."""
    descriptor.suppress(False)
    if descriptor.requests:
        guest.machine.post(descriptor, descriptor.requests.bit_length() - 1)


# --- hostile guests -------------------------------------------------------------------------------------------------

MAIN = 0x2_0000
BEFORE_OFFSET = (  # instructions with an operand at RBP and an offset of 32 bits: what comes before it, and after
    ("8885", ""), ("668985", ""), ("8985", ""), ("488985", ""),  # MOV of a register of 1, 2, 4, 8 bytes to it
    ("8a85", ""), ("668b85", ""), ("8b85", ""), ("488b85", ""),  # and from it
    ("8785", ""), ("f0838d", "30"), ("8385", "11"), ("fe85", ""), ("ffb5", ""),  # XCHG, LOCK OR, ADD, INC, PUSH
    ("488dbd", "b905000000f3ab"), ("488db5", "bf00040400b905000000f3a5"),  # REP STOS and REP MOVS
)  # fmt: skip
access = st.tuples(
    st.sampled_from(BEFORE_OFFSET), st.one_of(st.integers(0, 0x3F).map(lambda n: 16 * n), st.integers(0, 0xFF8)),
    st.sampled_from([0, 0x40, 0xFF, 0x44040, 0x41, 0x20041, 0xFFFF_FFFF, 0x1FF]),
)  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(accesses=st.lists(access, min_size=1, max_size=8))
def test_a_hostile_driver_gets_an_answer_and_the_same_on_both_paths(
    accesses: list[tuple[tuple[str, str], int, int]]
) -> None:  # fmt: skip
    """Any access to the page: the guest goes on, or ends with one line."""
    body = b"".join(
        b"\xb8" + struct.pack("<I", value) + bytes.fromhex(before) + struct.pack("<I", offset) + bytes.fromhex(after)
        for (before, after), offset, value in accesses
    )
    code = START + f"mov $1f, %r15; sti; mov ${MAIN}, %eax; jmp *%rax; 1: finish\n"
    seen = []
    for where in (NATIVE_AVIC, NATIVE_AVIC._replace(portable=True)):
        guest = RawGuest(code, where, memory={MAIN: body + b"\x0f\x0b"})
        outcome = guest.run(2_000_000)
        report = outcome.report if isinstance(outcome, Ended) else type(outcome).__name__
        assert "\n" not in report
        seen.append((report, guest.exits, guest.cpu.assist_counts(), [record.vector for record in guest.log]))
        guest.close()
    assert seen[0] == seen[1]
