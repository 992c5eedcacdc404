"""The smallest PV domains that show a thing: how the kernel is entered and left, and what it may not do."""

from __future__ import annotations

import contextlib
import struct

import pytest

from hv.silicon.x86_64.machine import Idle
from modes.paravirt.abi import EBUSY, EEXIST, EINVAL, EPERM, FLAT_RING3_CS64, FLAT_RING3_SS, Refused
from modes.paravirt.frames import Kind
from tests.pv_support import BASE, DATA, STACK, PvGuest

SHARED = DATA + 0x1000  # where SETUP maps shared_info
# A trap table whose entries all lead to `handler`, which stores the frame and goes on at R15; shared_info mapped.
SETUP = """
    mov %rsi, %rbp              /* start_info */
    mov $traps, %rdi
    hypercall set_trap_table
    mov $event, %rdi
    mov $handler, %rsi
    mov $system_call, %rdx
    hypercall set_callbacks
    mov $DATA + 0x1000, %rdi
    mov 40(%rbp), %rsi
    or $3, %rsi
    mov $2, %edx
    hypercall update_va_mapping
    jmp begin
.macro record                   /* the frame: nine words to DATA + 0x100 */
    push %rax
    push %rbx
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8
    mov 16+8*\\i(%rsp), %rbx
    mov %rbx, DATA + 0x100 + 8*\\i
    .endr
    mov %rsp, DATA + 0x180
    pop %rbx
    pop %rax
.endm
handler:
    record
    jmp *%r15
event:
    record
    incq DATA + 0x88
    jmp *%r15
system_call:
    record
    incq DATA + 0x90
    jmp *%r15
.macro trap vector, flags=4
    .byte \\vector, \\flags
    .word 0xe033
    .long 0
    .quad handler
.endm
.balign 16
traps:
    trap 0
    trap 3, 7
    trap 6
    trap 13
    trap 14
    trap 0x20, 5
    .quad 0, 0
begin:
"""


def run(code: str, *, portable: bool = False) -> PvGuest:
    guest = PvGuest(SETUP + code, portable=portable)
    guest.finish()
    return guest


@pytest.fixture(params=[False, True], ids=["native", "portable"])
def portable(request: pytest.FixtureRequest) -> bool:
    value: bool = request.param
    return value


def test_a_kernel_s_fault_is_bounced_with_xen_s_frame(portable: bool) -> None:
    guest = run(
        """
        mov $0x111, %ecx
        mov $0x222, %r11d
        mov $after, %r15
        mov %rsp, DATA
        there: mov 0x40000000, %eax
        after: finish
        """,
        portable=portable,
    )
    with contextlib.closing(guest):
        rsp = guest.words(1)[0]
        rcx, r11, error, rip, cs, flags, frame_rsp, ss = guest.words(8, DATA + 0x100)
        assert (rcx, r11, error) == (0x111, 0x222, 0)
        assert rip == guest.code.labels["there"]
        assert (cs & 0xFFFF, ss, frame_rsp) == (FLAT_RING3_CS64 & ~3, FLAT_RING3_SS, rsp)
        assert cs >> 32 & 0xFF == 1  # events were masked, as at the start
        assert not flags & 1 << 9
        assert guest.words(1, SHARED + 16) == [0x4000_0000]  # arch.cr2
        assert guest.exits["guest_page_fault"] == 1


def test_the_frame_is_aligned_and_int_n_goes_on_behind_itself() -> None:
    guest = run(
        """
        mov $after, %r15
        sub $8, %rsp
        int $0x20
        there:
        after: finish
        """
    )
    with contextlib.closing(guest):
        assert guest.words(1, DATA + 0x100 + 16)[0] == guest.code.labels["there"]
        assert (guest.words(1, DATA + 0x180)[0] + 16 + 7 * 8) % 16 == 0
        assert guest.exits["int_bounce"] == 1


def test_int_n_without_the_right_is_a_general_protection_fault() -> None:
    """Vector 13 is for the kernel's own exceptions: flags 4, level 0, which not even the kernel may `int`."""
    guest = run("mov $after, %r15\nthere: int $13\nafter: finish")
    with contextlib.closing(guest):
        assert guest.words(2, DATA + 0x110) == [13 << 3 | 2, guest.code.labels["there"]]


TO_USER = """
    mov $STACK - 0x800, %rsi
    hypercall stack_switch
    lea DATA + 0x600, %rsi      /* the user's table: the kernel's own, for once */
    movl $15, (%rsi)
    mov 104(%rbp), %rax         /* mfn_list */
    mov 88(%rbp), %rbx          /* pt_base */
    mov $BASE, %rcx
    sub %rcx, %rbx
    shr $12, %rbx
    mov (%rax,%rbx,8), %rax
    mov %rax, 8(%rsi)
    mov %rsi, %rdi
    mov $1, %esi
    xor %edx, %edx
    mov $0x7ff0, %r10d
    hypercall mmuext_op
    mov %rax, DATA + 0x40
    push $0xe02b
    push $STACK - 0x400
    push $0x202
    push $0xe033
    push $user
    push $0
    jmp BASE + 0x104000 + 32 * 23
"""


def test_a_system_call_of_a_program_comes_on_the_kernel_s_stack(portable: bool) -> None:
    guest = run(
        TO_USER
        + """
        user:
        mov $after, %r15
        mov $0x77, %eax
        syscall
        there:
        nop
        after: mov %rax, DATA
        finish
        """,
        portable=portable,
    )
    with contextlib.closing(guest):
        assert guest.words(1, DATA + 0x40) == [0]
        rcx, r11, rip, cs, flags, _, ss = guest.words(7, DATA + 0x100)
        assert rip == rcx == guest.code.labels["there"]
        assert flags == r11
        assert cs == FLAT_RING3_CS64
        assert ss == FLAT_RING3_SS
        assert flags & 1 << 9  # events were open in the program
        assert guest.words(1) == [0x77]
        assert guest.exits["syscall_bounce"] == 1
        assert guest.exits["hypercall.iret"] == 1
        assert guest.words(1, DATA + 0x180) == [STACK - 0x800 - 7 * 8 - 16]


def test_an_event_is_delivered_when_it_is_unmasked_and_only_then() -> None:
    guest = run(
        """
        movl $0, DATA + 0x200       /* bind VIRQ_TIMER */
        movl $0, DATA + 0x204
        mov $1, %edi
        mov $DATA + 0x200, %rsi
        hypercall event_channel_op
        mov $1000, %edi             /* long ago */
        hypercall set_timer_op
        mov DATA + 0x88, %rax
        mov %rax, DATA              /* still 0: masked */
        mov $after, %r15
        movb $0, DATA + 0x1001
        xor %edi, %edi
        hypercall xen_version
        after:
        mov DATA + 0x88, %rax
        mov %rax, DATA + 8
        movzbl DATA + 0x1001, %eax
        mov %rax, DATA + 16
        finish
        """
    )
    with contextlib.closing(guest):
        assert guest.words(3) == [0, 1, 1]


def test_a_vcpu_that_blocks_is_woken_by_its_timer_without_an_exit() -> None:
    guest = run(
        """
        movl $0, DATA + 0x200
        movl $0, DATA + 0x204
        mov $1, %edi
        mov $DATA + 0x200, %rsi
        hypercall event_channel_op
        mov $50000, %edi            /* 50 us after the start */
        hypercall set_timer_op
        mov $after, %r15
        mov $1, %edi
        hypercall sched_op
        after:
        rdtsc
        mov %eax, DATA
        finish
        """
    )
    with contextlib.closing(guest):
        assert guest.words(1)[0] >= 125_000  # cycles at 2.5 GHz
        assert "external_interrupt" not in guest.exits


def test_a_running_vcpu_is_interrupted_once() -> None:
    guest = run(
        """
        movl $0, DATA + 0x200
        movl $0, DATA + 0x204
        mov $1, %edi
        mov $DATA + 0x200, %rsi
        hypercall event_channel_op
        mov $50000, %edi
        hypercall set_timer_op
        mov $after, %r15
        movb $0, DATA + 0x1001
        loop: jmp loop
        after: finish
        """
    )
    with contextlib.closing(guest):
        assert guest.exits["external_interrupt"] == 1


def test_who_blocks_for_ever_waits_for_the_outside_world() -> None:
    guest = PvGuest(SETUP + "mov $1, %edi\nhypercall sched_op\nfinish")
    with contextlib.closing(guest):
        assert isinstance(guest.run(), Idle)


def test_a_page_table_is_read_only_to_its_owner_and_a_store_to_it_is_checked() -> None:
    """The level-1 table of DATA is found by a walk; storing an entry of another frame's there is Xen's to do."""
    guest = run(
        """
        mov $refused, %r15
        mov 88(%rbp), %rbx          /* pt_base: the top table */
        movq $0, 8(%rbx)            /* not a level-1 table: a fault */
        movq $1, DATA
        refused:
        finish
        """
    )
    with contextlib.closing(guest):
        assert guest.words(1) == [0]
        assert guest.exits["guest_page_fault"] == 1


def test_a_store_to_a_last_level_table_is_checked_and_done_or_a_fault() -> None:
    """pt_base + 0x3000 is the first one. Entry 511 goes; entry 510 is to map the table itself, writable."""
    guest = run(
        """
        mov 88(%rbp), %rbx
        movq $0, 0x3000 + 511 * 8(%rbx)
        mov 0x3000 + 511 * 8(%rbx), %rax
        mov %rax, DATA
        mov $refused, %r15
        mov 88(%rbp), %rcx          /* its own frame, from the list of frames */
        mov $BASE - 0x3000, %rax
        sub %rax, %rcx
        shr $12, %rcx
        mov 104(%rbp), %rax
        mov (%rax,%rcx,8), %rax
        shl $12, %rax
        or $3, %rax
        mov %rax, 0x3000 + 510 * 8(%rbx)
        movq $1, DATA + 8
        refused: finish
        """
    )
    with contextlib.closing(guest):
        assert guest.words(2) == [0, 0]
        assert guest.exits["page_table_write"] == 1
        assert guest.exits["guest_page_fault"] == 1


def test_a_frame_that_is_a_table_cannot_be_mapped_writable() -> None:
    guest = run(
        """
        mov 104(%rbp), %rax
        mov 88(%rbp), %rbx
        mov %rbx, %rdi
        mov $BASE, %rcx
        sub %rcx, %rbx
        shr $12, %rbx
        mov (%rax,%rbx,8), %rsi
        shl $12, %rsi
        or $3, %rsi
        mov $2, %edx
        hypercall update_va_mapping
        mov %rax, DATA
        mov $DATA, %rdi             /* Xen's own memory: 0xfc00000000 */
        mov $0xfc00003003, %rsi
        mov $2, %edx
        hypercall update_va_mapping
        mov %rax, DATA + 8
        mov $DATA, %rdi             /* no memory at all */
        mov $0x1000000003, %rsi
        mov $2, %edx
        hypercall update_va_mapping
        mov %rax, DATA + 16
        mov $0xffff800000000000, %rdi
        xor %esi, %esi
        xor %edx, %edx
        hypercall update_va_mapping
        mov %rax, DATA + 24
        finish
        """
    )
    with contextlib.closing(guest):
        minus = [(1 << 64) - error for error in (EBUSY, EBUSY, EPERM, EINVAL)]
        assert guest.words(4) == minus


def test_the_machine_to_physical_table_is_there_to_be_read_and_not_written() -> None:
    guest = run(
        """
        mov 104(%rbp), %rax
        mov 8*5(%rax), %rbx         /* the frame of page 5 */
        mov $0xffff800000000000, %rax
        mov (%rax,%rbx,8), %rcx
        mov %rcx, DATA
        mov $after, %r15
        movq $1, (%rax,%rbx,8)
        movq $1, DATA + 8
        after:
        finish
        """
    )
    with contextlib.closing(guest):
        assert guest.words(2) == [5, 0]


@pytest.mark.parametrize(
    "instruction", ["mov %rax, %cr4", "lgdt DATA", "lidt DATA", "ltr %ax", "wrmsr", "swapgs", "in %dx, %al"]
)
def test_a_privileged_instruction_that_xen_does_not_execute_faults(instruction: str) -> None:
    guest = run(f"mov $after, %r15\nmov $0x12345, %ecx\nxor %eax, %eax\n{instruction}\nmovq $1, DATA\nafter: finish")
    with contextlib.closing(guest):
        assert guest.words(1) == [0]
        assert guest.exits["exception_bounce"] == 1


def test_xen_executes_some_privileged_instructions_for_a_kernel() -> None:
    guest = run(
        """
        movl $1, DATA + 0x300
        mov $6, %edi
        mov $DATA + 0x300, %rsi
        hypercall physdev_op
        cli
        sti
        in $0x80, %al
        movzbl %al, %eax
        mov %rax, DATA
        mov %cr3, %rax
        mov %rax, DATA + 8
        mov %cr3, %rbx
        mov %rbx, %cr3
        mov %cr0, %rax
        mov %rax, DATA + 16
        clts
        mov $0xc0000100, %ecx
        mov $0x1234000, %eax
        xor %edx, %edx
        wrmsr
        rdmsr
        mov %rax, DATA + 24
        finish
        """
    )
    with contextlib.closing(guest):
        port, cr3, cr0, fs = guest.words(4)
        assert (port, cr3, fs) == (0xFF, guest.v.s.root << 12, 0x1234000)
        assert cr0 & 0x8000_0001 == 0x8000_0001
        assert guest.exits["ioio"] == 1
        assert guest.exits["cr_access"] == 5
        assert guest.exits["msr"] == 2


@pytest.mark.parametrize(
    ("code", "report"),
    [
        ("ud2", "no trap for exception 6"),
        ("mov $0x40000000, %rsp\nmov $23, %eax\nsyscall", "no frame at RSP 0x40000000"),
        (SETUP + "mov $0x40000000, %rsp\nud2", "kernel stack at 0x3fff"),
        ("push $0\n" * 9 + "mov $23, %eax\nsyscall", "no place for ring 3"),
        ("push $3\n" * 9 + "mov $23, %eax\nsyscall", "without page tables"),
    ],
)
def test_a_domain_that_cannot_go_on_is_ended_with_one_line(code: str, report: str) -> None:
    guest = PvGuest(code)
    with contextlib.closing(guest):
        assert report in guest.crash()


def test_a_list_of_hypercalls_is_one_exit() -> None:
    guest = run(
        """
        mov $DATA + 0x400, %rdi
        mov $3, %esi
        hypercall multicall
        mov %rax, DATA
        finish
        .macro entry op, a, b
        .quad \\op, 99, \\a, \\b, 0, 0, 0, 0
        .endm
        """
        f"""
        .org {DATA + 0x400 - (BASE + 0x10_0000)}
        entry 17, 0, 0
        entry 63, 0, 0
        entry 13, 0, 0
        """
    )
    with contextlib.closing(guest):
        results = [guest.words(1, DATA + 0x400 + 64 * i + 8)[0] for i in range(3)]
        assert guest.words(1) == [0]
        assert results == [4 << 16 | 19, (1 << 64) - 38, (1 << 64) - EINVAL]
        assert guest.exits["hypercall.multicall"] == 1


def test_a_ring_that_xen_writes_to_never_becomes_a_table() -> None:
    guest = run("finish")
    with contextlib.closing(guest):
        d = guest.domain
        for ring in (d.console, d.store):
            with pytest.raises(Refused):
                d.frames.pin(ring, Kind.L1, d.domid)
            d.frames.release(ring, d.domid)
            assert d.frames.owned(ring, d.domid)  # until domain 0 lets go


def test_a_program_in_32_bit_code_is_bounced_to_a_64_bit_kernel(portable: bool) -> None:
    """Its RIP has 32 bits, so there is nothing where it begins; the kernel finds that in the frame, and goes on."""
    guest = run(
        "mov $after, %r15\n"
        + TO_USER.replace("push $0xe033", "push $0xe023")
        + """
        user:
        nop
        after: mov %cs, %rax
        mov %rax, DATA
        finish
        """,
        portable=portable,
    )
    with contextlib.closing(guest):
        _, _, error, rip, cs = guest.words(5, DATA + 0x100)
        assert (error, rip, cs & 0xFFFF) == (0x14, guest.code.labels["user"] & 0xFFFF_FFFF, 0xE023)
        assert guest.words(1) == [FLAT_RING3_CS64]
        assert guest.exits["guest_page_fault"] == 1


def test_the_console_ring_goes_both_ways_and_a_bad_distance_is_nothing() -> None:
    guest = run("finish")
    with contextlib.closing(guest):
        ring = guest.domain.console << 12
        memory = guest.domain.memory
        memory.write(ring + 1024, b"hello")
        memory.write(ring + 3084, struct.pack("<I", 5))
        guest.domain.events.send(guest.domain.console_port)
        assert guest.console.take() == "hello"
        memory.write(ring + 3084, struct.pack("<I", 5 + 2049))
        guest.domain.events.send(guest.domain.console_port)
        assert guest.console.take() == ""
        end = guest.vm.serial
        assert end.room == 1024
        end.receive(b"abc")
        assert memory.read(ring, 3) == b"abc"
        memory.write(ring + 3072, struct.pack("<I", 77))
        assert end.room == 0


CONTEXT = """
    mov 104(%rbp), %rax         /* mfn_list */
    mov 88(%rbp), %rbx          /* pt_base */
    mov $BASE, %rcx
    sub %rcx, %rbx
    shr $12, %rbx
    mov (%rax,%rbx,8), %rax
    shl $12, %rax
    mov %rax, context + 4984 + 24   /* CR3 */
    movq $0x24, context + 512       /* in the kernel, online */
    movq $second, context + 520 + 128
    movq $0xe033, context + 520 + 136
    movq $0x202, context + 520 + 144
    movq $STACK - 0x400, context + 520 + 152
    movq $0xe02b, context + 520 + 160
    movq $0x5a5a, context + 520 + 13 * 8    /* rsi */
    movq $0x6000, context + 5152            /* the kernel's GS base */
"""


def test_a_second_vcpu_starts_with_its_registers_and_gets_events(portable: bool) -> None:
    guest = PvGuest(
        SETUP
        + CONTEXT
        + """
        xor %edi, %edi              /* initialise vCPU 1 */
        mov $1, %esi
        mov $context, %rdx
        hypercall vcpu_op
        mov %rax, DATA
        mov $1, %edi                /* up */
        mov $1, %esi
        xor %edx, %edx
        hypercall vcpu_op
        mov %rax, DATA + 8
        xor %edi, %edi              /* once more: it is there already */
        mov $1, %esi
        mov $context, %rdx
        hypercall vcpu_op
        mov %rax, DATA + 16
        movl $1, DATA + 0x200       /* an interrupt for vCPU 1 */
        mov $7, %edi
        mov $DATA + 0x200, %rsi
        hypercall event_channel_op
        mov DATA + 0x204, %eax
        mov %eax, DATA + 0x208
        wait: pause
        cmpq $0x5a5a, DATA + 24
        jne wait
        mov $4, %edi
        mov $DATA + 0x208, %rsi
        hypercall event_channel_op
        wait2: pause
        cmpq $0, DATA + 32
        je wait2
        mov $3, %edi
        mov $1, %esi
        hypercall vcpu_op
        mov %rax, DATA + 40
        finish
        second:
        mov %rsi, DATA + 24
        mov $second_event, %rdi
        mov $handler, %rsi
        mov $system_call, %rdx
        hypercall set_callbacks
        mov $1, %edi
        hypercall sched_op
        1: jmp 1b
        second_event:
        incq DATA + 32
        2: jmp 2b
        .balign 64
        context: .skip 5168
        """,
        smp=2,
        portable=portable,
    )
    with contextlib.closing(guest):
        guest.finish()
        assert guest.words(6) == [0, 0, (1 << 64) - EEXIST, 0x5A5A, 1, 1]
