"""Scripts of events, and the assembly that runs them on a vCPU of a guest of Xen's.

A script is a list of operations of two bytes: to raise ports of its own, mask and unmask them, bind them elsewhere,
open and shut itself to upcalls, sleep, say something. The upcall handler takes the ports lowest first, each has a
script of its own, and all that happens goes to a log. How often each port has come is counted.

A guest (event_guest.py) supplies the macros let_in, shut, sleep_open, end_of_interrupt and hypercall.
"""

from __future__ import annotations

from typing import NamedTuple

from modes.paravirt.events import MASK, PENDING, SELECTOR

# Offsets behind DATA. A vCPU's own words, at BLOCK times its number; then what all have.
BLOCK = 0x80
BUDGET, ARMED, NOTED, EARLY, DEADLINE, ARGUMENT = 0, 4, 8, 12, 16, 24
DONE, LATE, SENT_AT, LINGERS, STRAY = 64, 68, 72, 80, 88
LENGTH, CAME, SENT, LOG, LIST = 0x100, 0x110, 0x510, 0x910, 0xF00  # CAME and SENT: 4 bytes a port
MAIN, BODIES = (0x2000, 0x2F00), 0x2100
MOST = 24  # sends: handlers that send to each other come to an end
KINDS = (
    "end send send_at_alarm ring ring_other mask unmask unmask_by_memory bind_to_0 bind_to_1 on off blink say spin "
    "call alarm nap poll sleep block doze note hasten linger in_time here"
).split()
POLL_NS = 20_000  # how long a poll waits
LINGER = 60_000  # rounds of a loop
PROMPT_NS = 24_000  # an event comes within this time to a vCPU that lingers: three quanta

# Registers: R13 the vCPU's vcpu_info, R14 the script's next operation, R15 the vCPU's own words.
INTERPRETER = f"""
begin:                                  /* R14 is the script */
    movl ${MOST}, {BUDGET}(%r15)
    sleep_open                          /* until the test begins */
    call run
    movl $1, {DONE}(%r15)
    1: sleep_open
    jmp 1b
operations: .quad {", ".join("do_" + kind for kind in KINDS)}
run:
    movzbl (%r14), %eax
    movzbl 1(%r14), %ecx
    add $2, %r14
    jmp *operations(,%rax,8)
do_end:
    ret
do_say:
    mov $1, %eax
    lock xadd %eax, DATA + {LENGTH}
    mov %cl, DATA + {LOG}(%rax)
    jmp run
do_send:
    decl {BUDGET}(%r15)
    js run
    port_op 4
    jmp run
do_send_at_alarm:                       /* both in one exit, if none is set */
    decl {BUDGET}(%r15)
    js run
    mov $DATA + {LIST}, %rdi            /* of two struct multicall_entry: op, result, arguments */
    mov %ecx, {ARGUMENT}(%r15)
    movq $event_channel_op, (%rdi)
    movq $4, 16(%rdi)
    lea {ARGUMENT}(%r15), %rax
    mov %rax, 24(%rdi)
    mov $1, %esi
    mov {ARMED}(%r15), %eax
    cmp %eax, {NOTED}(%r15)
    jne 1f
    incl {ARMED}(%r15)
    movq $set_timer_op, 64(%rdi)
    movq $1, 80(%rdi)
    movq $1, {DEADLINE}(%r15)
    inc %esi
    1: hypercall multicall
    jmp run
do_ring_other:                          /* the next port is its other end */
    mov %ecx, %edx
    xor $1, %edx
    jmp 1f
do_ring:                                /* unless the last one is under way */
    mov %ecx, %edx
    1: mov DATA + {SENT}(,%rcx,4), %eax
    cmp %eax, DATA + {CAME}(,%rdx,4)
    jne run
    incl DATA + {SENT}(,%rcx,4)
    port_op 4
    jmp run
do_mask:
    lock bts %rcx, SHARED + {MASK}
    jmp run
do_unmask_by_memory:                    /* and Xen is called only if there is something to see */
    lock btr %rcx, SHARED + {MASK}
    bt %rcx, SHARED + {PENDING}
    jnc run
do_unmask:
    port_op 9
    jmp run
do_bind_to_0:
    movl $0, {ARGUMENT + 4}(%r15)
    port_op 8
    jmp run
do_bind_to_1:
    movl $1, {ARGUMENT + 4}(%r15)
    port_op 8
    jmp run
do_on: let_in
    jmp run
do_off: shut
    jmp run
do_spin:
    imul $20, %ecx
    1: dec %ecx
    jnz 1b
    jmp run
do_call:
    xor %edi, %edi
    hypercall xen_version
    jmp run
do_note:                                /* the timer's event */
    push %rdx
    incl {NOTED}(%r15)
    now
    cmp {DEADLINE}(%r15), %rax
    adcl $0, {EARLY}(%r15)
    pop %rdx
    jmp run
do_linger:                              /* open, and without an exit */
    let_in
    now
    mov %rax, {LINGERS}(%r15)
    mov ${LINGER}, %ecx
    1: dec %ecx
    jnz 1b
    xor %edi, %edi
    hypercall xen_version               /* now at the latest, but that is too late */
    movq $0, {LINGERS}(%r15)
    jmp run
do_hasten:                              /* a port whose event is in_time on the other vCPU, if that one lingers */
    now
    mov DATA + {SENT}(,%rcx,4), %edx
    cmp %edx, DATA + {CAME}(,%rcx,4)
    jne run
    incl DATA + {SENT}(,%rcx,4)
    mov %rax, {SENT_AT}(%r15)
    port_op 4
    jmp run
do_in_time:
    push %rdx
    now
    mov {LINGERS}(%r15), %rdx
    test %rdx, %rdx
    jz 1f
    mov %r15, %rsi
    xor ${BLOCK}, %rsi
    cmp {SENT_AT}(%rsi), %rdx
    cmovl {SENT_AT}(%rsi), %rdx         /* whichever was later: it lingers, or the event */
    sub %rdx, %rax
    cmp ${PROMPT_NS}, %rax
    jle 1f
    incl {LATE}(%r15)
    1: pop %rdx
    jmp run
do_here:                                /* on this vCPU */
    imul ${BLOCK}, %ecx
    add $DATA, %rcx
    cmp %rcx, %r15
    je run
    incl {STRAY}(%r15)
    jmp run
do_alarm:
    arm
    jmp run
do_nap:                                 /* until the timer's event has come */
    arm
    1: shut
    mov {ARMED}(%r15), %eax
    cmp %eax, {NOTED}(%r15)
    je do_on
    sleep_open
    jmp 1b
do_poll:
    lea {ARGUMENT + 24}(%r15), %rax
    mov %ecx, (%rax)
    mov %rax, {ARGUMENT}(%r15)
    movq $1, {ARGUMENT + 8}(%r15)
    now
    add ${POLL_NS}, %rax
    mov %rax, {ARGUMENT + 16}(%r15)
    mov $3, %edi
    lea {ARGUMENT}(%r15), %rsi
    hypercall sched_op
    jmp run
do_sleep:                               /* with something that waits: the script's port is the vCPU's own */
    shut
    port_op 4
    sleep_open
    jmp run
do_block:
    shut
    port_op 4
do_doze:                                /* until something comes, interrupts off or on */
    shut
    mov $1, %edi
    hypercall sched_op
    jmp do_on
"""
MACROS = f"""
.macro port_op number
    mov %ecx, {ARGUMENT}(%r15)
    mov $\\number, %edi
    lea {ARGUMENT}(%r15), %rsi
    hypercall event_channel_op
.endm
.macro now                          /* RAX: system time in ns; the counter has 2.5 GHz */
    rdtsc
    shl $32, %rdx
    lea (%rax,%rdx), %rax
    shl $1, %rax
    xor %edx, %edx
    mov $5, %edi
    div %rdi
.endm
.macro arm                          /* ECX times 256 ns from now, unless it is armed */
    mov {ARMED}(%r15), %eax
    cmp %eax, {NOTED}(%r15)
    jne 7f
    incl {ARMED}(%r15)
    now
    shl $8, %ecx
    lea (%rax,%rcx), %rdi
    mov %rdi, {DEADLINE}(%r15)
    hypercall set_timer_op
    7:
.endm
.macro upcall                       /* what a handler does: the lowest word, and the lowest port in it, first */
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, r14
    push %\\register
    .endr
    movb $0, (%r13)
    end_of_interrupt
    1: movb $0, (%r13)
    xor %ebx, %ebx
    xchg %rbx, {SELECTOR}(%r13)
    2: bsf %rbx, %rdx
    jz 5f
    3: mov SHARED + {MASK}(,%rdx,8), %rax
    not %rax
    and SHARED + {PENDING}(,%rdx,8), %rax
    bsf %rax, %rax
    jz 4f
    mov %edx, %ecx
    shl $6, %ecx
    add %eax, %ecx
    lock btr %rcx, SHARED + {PENDING}
    jnc 3b                          /* the other vCPU has taken it */
    lock incl DATA + {CAME}(,%rcx,4)
    mov $1, %eax
    lock xadd %eax, DATA + {LENGTH}
    mov %cl, DATA + {LOG}(%rax)
    shl $4, %ecx
    lea DATA + {BODIES}(%rcx), %r14
    call run
    jmp 3b
    4: btr %rdx, %rbx
    jmp 2b
    5: cmpb $0, (%r13)
    jne 1b
    .irp register, r14, rdi, rsi, rdx, rcx, rbx, rax
    pop %\\register
    .endr
.endm
"""


class Op(NamedTuple):
    kind: str
    value: int = 0


def script(ops: list[Op]) -> bytes:
    return b"".join(bytes((KINDS.index(kind), value)) for kind, value in [*ops, Op("end")])
