"""Guests of Xen's that run scripts of events, on one or two vCPUs: as a PV domain, and with hardware that virtualizes
them.
"""

from __future__ import annotations

from modes.paravirt.events import UPCALL_MASK
from tests.event_script import BLOCK, INTERPRETER, MACROS, MAIN
from tests.guests.test_paravirt import CONTEXT
from tests.hvm_rig import HELP


def own(vcpu: int) -> str:
    """The registers that a vCPU keeps."""
    return f"mov $DATA + {BLOCK * vcpu}, %r15; mov $SHARED + {64 * vcpu}, %r13; mov $DATA + {MAIN[vcpu]}, %r14\n"


PV = f"""
.set SHARED, DATA + 0x1000
.macro let_in                       /* unmask, and look whether something came meanwhile */
    movb $0, {UPCALL_MASK}(%r13)
    cmpb $0, (%r13)
    je 7f
    xor %edi, %edi
    hypercall xen_version
    7:
.endm
.macro shut
    movb $1, {UPCALL_MASK}(%r13)
.endm
.macro sleep_open
    mov $1, %edi
    hypercall sched_op
.endm
.macro end_of_interrupt
.endm
.macro callbacks
    mov $event, %rdi
    xor %esi, %esi
    xor %edx, %edx
    hypercall set_callbacks
.endm
{MACROS}
    mov %rsi, %rbp
    mov $STACK, %rsp
    callbacks
    mov $SHARED, %rdi
    mov 40(%rbp), %rsi
    or $3, %rsi
    mov $2, %edx
    hypercall update_va_mapping
    {CONTEXT}
    xor %edi, %edi                  /* vCPU 1, if there is one */
    mov $1, %esi
    mov $context, %rdx
    hypercall vcpu_op
    mov $1, %edi
    mov $1, %esi
    xor %edx, %edx
    hypercall vcpu_op
    {own(0)}
    xor %edi, %edi
    xor %esi, %esi
    jmp begin
second:
    mov $STACK - 0x800, %rsp
    callbacks
    {own(1)}
{INTERPRETER}
do_blink:                           /* as good as shut: between two stores Xen does not look */
    shut
    jmp run
event:
    upcall
    pop %rcx
    pop %r11
    push $0
    jmp BASE + 0x104000 + 32 * 23   /* iret */
    .balign 64
context: .skip 5168
"""
LINE = 11
FORMS = {  # in which upcalls come
    "vector": "callback 0x2000000, VECTOR",
    "own vector": "hypercall hvm_op, 23, $ARGUMENTS + 64; hypercall hvm_op, 23, $ARGUMENTS + 72",
    "line": f"""mov $IOAPIC, %ebx; movl $0x10 + 2 * {LINE}, (%rbx); movl $0xA000 + VECTOR, 0x10(%rbx)
        callback 0, {LINE}""",
}
END_OF_INTERRUPT = "mov $LAPIC, %eax; movl $0, 0xB0(%rax)"


def hvm(form: str, *, cpus: int) -> str:
    """The guest whose upcalls come in one of FORMS."""
    return f"""{HELP}
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
.macro end_of_interrupt
    {"" if form == "vector" else END_OF_INTERRUPT}
.endm
{MACROS}
    find_xen
    place
    movb $0, SHARED
    movb $0, SHARED + 64
    lapic 0xF0, 0x1FF
    {FORMS[form]}
    .purgem hypercall
.macro hypercall number
    mov $\\number, %eax
    vmmcall
.endm
    {"start_other" if cpus > 1 else ""}
    {own(0)}
    jmp begin
other:
    {own(1)}
{INTERPRETER}
do_blink:
    sti
    cli
    jmp run
event:
    upcall
    iretq
"""
