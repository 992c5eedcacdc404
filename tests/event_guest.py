"""Guests of Xen's that run a script of events: as a PV domain, and with hardware that virtualizes them.

A script is a list of operations of two bytes: to raise ports of its own, mask and unmask them, open and shut itself to
upcalls, sleep, say something. The upcall handler takes the ports lowest first, each has a script of its own, and all
that happens goes to a log.
"""

from __future__ import annotations

from typing import NamedTuple

from modes.paravirt.abi import BACKEND_DOMID, GUEST_DOMID, VIRQ_TIMER
from modes.paravirt.events import INTERDOMAIN, IPI, MASK, PENDING, SELECTOR, UPCALL_MASK, VIRQ
from modes.paravirt.state import Channel
from tests.guests.test_pv_on_hvm import HELP

# --- the ports --------------------------------------------------------------------------------------------------------

ECHO, WAKE, TIMER, OUTSIDE = 100, 127, 140, 150
ECHO_BACKEND, OUTSIDE_BACKEND = 50, 51  # domain 0's ends
CHANNELS = {
    20: Channel(IPI), 63: Channel(INTERDOMAIN, 0, GUEST_DOMID, 110), 64: Channel(IPI),
    ECHO: Channel(INTERDOMAIN, 0, BACKEND_DOMID, ECHO_BACKEND), 110: Channel(INTERDOMAIN, 0, GUEST_DOMID, 63),
    WAKE: Channel(IPI), TIMER: Channel(VIRQ, virq=VIRQ_TIMER),
    OUTSIDE: Channel(INTERDOMAIN, 0, BACKEND_DOMID, OUTSIDE_BACKEND),
}  # fmt: skip
RAISES = {20: 20, 63: 110, 64: 64, ECHO: ECHO, 110: 63}  # by sending to it: domain 0 answers the echo at once
FROM_OUTSIDE = (TIMER, OUTSIDE)

# --- the guest --------------------------------------------------------------------------------------------------------

BUDGET, NAPPED, LENGTH, ARGUMENT, LOG, MAIN, BODIES = 0, 8, 16, 24, 0x400, 0x2000, 0x2100  # offsets behind DATA
MOST = 24  # sends: handlers that send to each other come to an end
KINDS = "end send mask unmask unmask_by_memory on off blink say spin call alarm nap sleep block note".split()

# Registers: R14 the script's next operation, two bytes each.
INTERPRETER = f"""
    movl ${MOST}, DATA
    sleep_open                      /* until the test begins */
    mov $DATA + {MAIN}, %r14
    call run
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
    xadd %eax, DATA + {LENGTH}
    mov %cl, DATA + {LOG}(%rax)
    jmp run
do_send:
    decl DATA
    js run
    port_op 4
    jmp run
do_mask:
    bts %rcx, SHARED + {MASK}
    jmp run
do_unmask_by_memory:                   /* and Xen is called only if there is something to see */
    btr %rcx, SHARED + {MASK}
    bt %rcx, SHARED + {PENDING}
    jnc run
do_unmask:
    port_op 9
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
do_note:
    incl DATA + {NAPPED}
    jmp run
do_alarm:
    set_alarm
    jmp run
do_nap:                                /* until the timer's event has come */
    movl $0, DATA + {NAPPED}
    set_alarm
    1: shut
    cmpl $0, DATA + {NAPPED}
    jne do_on
    sleep_open
    jmp 1b
do_sleep:                              /* with something that waits */
    shut
    mov ${WAKE}, %ecx
    port_op 4
    sleep_open
    jmp run
do_block:
    shut
    mov ${WAKE}, %ecx
    port_op 4
    mov $1, %edi
    hypercall sched_op
    jmp do_on
.macro port_op number
    mov %ecx, DATA + {ARGUMENT}
    mov $\\number, %edi
    mov $DATA + {ARGUMENT}, %rsi
    hypercall event_channel_op
.endm
.macro set_alarm                    /* ECX times 256 ns from now; the counter has 2.5 GHz */
    rdtsc
    shl $32, %rdx
    lea (%rax,%rdx), %rax
    shl $1, %rax
    xor %edx, %edx
    mov $5, %edi
    div %rdi
    shl $8, %ecx
    lea (%rax,%rcx), %rdi
    hypercall set_timer_op
.endm
.macro upcall                       /* what a handler does: the lowest word, and the lowest port in it, first */
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, r14
    push %\\register
    .endr
    1: movb $0, SHARED
    xor %ebx, %ebx
    xchg %rbx, SHARED + {SELECTOR}
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
    btr %rcx, SHARED + {PENDING}
    mov $1, %eax
    xadd %eax, DATA + {LENGTH}
    mov %cl, DATA + {LOG}(%rax)
    shl $4, %ecx
    lea DATA + {BODIES}(%rcx), %r14
    call run
    jmp 3b
    4: btr %rdx, %rbx
    jmp 2b
    5: cmpb $0, SHARED
    jne 1b
    .irp register, r14, rdi, rsi, rdx, rcx, rbx, rax
    pop %\\register
    .endr
.endm
"""
MACROS, BODY = INTERPRETER[INTERPRETER.index(".macro") :], INTERPRETER[: INTERPRETER.index(".macro")]
PV = f"""
.set SHARED, DATA + 0x1000
.macro let_in                       /* unmask, and look whether something came meanwhile */
    movb $0, SHARED + {UPCALL_MASK}
    cmpb $0, SHARED
    je 7f
    xor %edi, %edi
    hypercall xen_version
    7:
.endm
.macro shut
    movb $1, SHARED + {UPCALL_MASK}
.endm
.macro sleep_open
    mov $1, %edi
    hypercall sched_op
.endm
{MACROS}
    mov %rsi, %rbp
    mov $STACK, %rsp
    mov $event, %rdi
    xor %esi, %esi
    xor %edx, %edx
    hypercall set_callbacks
    mov $SHARED, %rdi
    mov 40(%rbp), %rsi
    or $3, %rsi
    mov $2, %edx
    hypercall update_va_mapping
    xor %edi, %edi
    xor %esi, %esi
{BODY}
do_blink:                           /* as good as shut: between two stores Xen does not look */
    shut
    jmp run
event:
    upcall
    pop %rcx
    pop %r11
    push $0
    jmp BASE + 0x104000 + 32 * 23   /* iret */
"""
HVM = f"""{HELP}
.macro let_in
    sti
    nop
.endm
.macro shut
    cli
.endm
.macro sleep_open
    sti
    hlt
.endm
{MACROS}
    find_xen
    place
    movb $0, SHARED
    callback 0x2000000, VECTOR
    .purgem hypercall
.macro hypercall number
    mov $\\number, %eax
    vmmcall
.endm
{BODY}
do_blink:
    sti
    cli
    jmp run
event:
    upcall
    iretq
"""


class Op(NamedTuple):
    kind: str
    value: int = 0


def script(ops: list[Op]) -> bytes:
    return b"".join(bytes((KINDS.index(kind), value)) for kind, value in [*ops, Op("end")])
