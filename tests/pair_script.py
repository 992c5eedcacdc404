"""Scripts of interrupts between two CPUs, and the guest that runs them.

A script is a list of operations of two bytes. Each vector has one sender and one receiver, and is sent only when its
last one has come; a handler counts it, lets others in for a moment, and checks that it exceeds what it interrupts. A
CPU that lingers does nothing else, so what is sent to it must come soon.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.support import LAPIC

# Offsets behind DATA. A CPU's own words, at BLOCK times its number; then arrays by vector.
BLOCK = 0x80
ARMED, NOTED, DISORDER, LATE, DONE, LINGERS, OTHER_ID, OTHER_BIT = 0, 4, 8, 12, 16, 24, 32, 36
CAME, SENT, SENT_AT, SCRIPTS = 0x200, 0x600, 0xA00, (0x2000, 0x2800)
LINGER, PROMPT = 150_000, 80_000  # rounds of a loop of two instructions; cycles
CARD, PORTS = 0xFEF0_0000, 0xC0  # a register and a port a CPU: what is written there is a vector for it

TIMER = (0x7A, 0x7B)
OUTSIDE = (0xEC, 0xED)


class Line(NamedTuple):
    """How a vector is sent, from which CPU to which."""

    kind: str
    sender: int
    receiver: int


LINES = {
    0x41: Line("physical", 0, 1), 0x92: Line("logical", 0, 1), 0xD3: Line("others", 0, 1), 0x54: Line("self", 0, 0),
    0x45: Line("physical", 1, 0), 0x96: Line("logical", 1, 0), 0xD7: Line("others", 1, 0), 0x58: Line("self", 1, 1),
    0x62: Line("card", 0, 0), 0xA3: Line("card", 1, 0), 0x66: Line("card", 0, 1), 0xA7: Line("card", 1, 1),
    0x33: Line("device", 0, 0), 0xB4: Line("device", 1, 0), 0x37: Line("device", 0, 1), 0xB8: Line("device", 1, 1),
}  # fmt: skip
SENDS = ("physical", "logical", "others", "self", "card0", "card1", "device0", "device1")
KINDS = ("end", *SENDS, "tpr", "cr8", "on", "off", "spin", "alarm", "nap", "doze", "linger", "exit")

# Registers: RBP the local APIC, R10 the task priority class, R12 the class in service, R14 the script's next operation,
# R15 the CPU's own words. A handler leaves all of them as they were.
CODE = f"""
    start_other
    movl $0x1000000, DATA + {OTHER_ID}
    movl $0x2000000, DATA + {OTHER_BIT}
    movl $0x1000000, DATA + {BLOCK + OTHER_BIT}
    mov $DATA, %r15
    mov $DATA + {SCRIPTS[0]}, %r14
    movl $0x1000000, 0xD0(%rbp)
    movl ${TIMER[0]}, 0x320(%rbp)
    jmp begin
other:
    mov $DATA + {BLOCK}, %r15
    mov $DATA + {SCRIPTS[1]}, %r14
    movl $0x2000000, 0xD0(%rbp)
    movl ${TIMER[1]}, 0x320(%rbp)
begin:
    xor %r10d, %r10d
    xor %r12d, %r12d
    movl $0xB, 0x3E0(%rbp)
    sti
    hlt                                 /* until the test begins */
    call run
    movl $1, {DONE}(%r15)
    1: sti
    hlt
    jmp 1b
operations: .quad {", ".join("do_" + kind for kind in KINDS)}
run:
    movzbl (%r14), %eax
    movzbl 1(%r14), %ecx
    add $2, %r14
    test %eax, %eax                     /* after its last linger it is asleep, and still does nothing else */
    jz do_end
    movq $0, {LINGERS}(%r15)
    jmp *operations(,%rax,8)
do_end:
    ret
do_physical:
    note_sending
    mov {OTHER_ID}(%r15), %eax
    mov %eax, 0x310(%rbp)
    or $0x4000, %ecx
    mov %ecx, 0x300(%rbp)
    jmp run
do_logical:
    note_sending
    mov {OTHER_BIT}(%r15), %eax
    mov %eax, 0x310(%rbp)
    or $0x4800, %ecx
    mov %ecx, 0x300(%rbp)
    jmp run
do_others:
    note_sending
    or $0xC4000, %ecx
    mov %ecx, 0x300(%rbp)
    jmp run
do_self:
    note_sending
    or $0x44000, %ecx
    mov %ecx, 0x300(%rbp)
    jmp run
do_card0:
    note_sending
    mov %ecx, {CARD - LAPIC}(%rbp)
    jmp run
do_card1:
    note_sending
    mov %ecx, {CARD - LAPIC + 4}(%rbp)
    jmp run
do_device0:
    note_sending
    mov %ecx, %eax
    out %eax, ${PORTS}
    jmp run
do_device1:
    note_sending
    mov %ecx, %eax
    out %eax, ${PORTS + 4}
    jmp run
do_tpr:                                 /* R10 is never above the real one */
    cmp %ecx, %r10d
    cmova %ecx, %r10d
    mov %ecx, %eax
    shl $4, %eax
    mov %eax, 0x80(%rbp)
    mov %ecx, %r10d
    jmp run
do_cr8:
    cmp %ecx, %r10d
    cmova %ecx, %r10d
    mov %rcx, %cr8
    mov %ecx, %r10d
    jmp run
do_on:
    sti
    jmp run
do_off:
    cli
    jmp run
do_spin:
    imul $20, %ecx
    1: dec %ecx
    jnz 1b
    jmp run
do_exit:
    cpuid
    jmp run
do_alarm:
    arm
    jmp run
do_nap:                                 /* until the timer's interrupt has come */
    take_all
    arm
    1: cli
    mov {ARMED}(%r15), %eax
    cmp %eax, {NOTED}(%r15)
    je do_on
    sti
    hlt
    jmp 1b
do_doze:                                /* until something comes */
    take_all
    sti
    hlt
    jmp run
do_linger:
    take_all
    sti
    time
    mov %rdx, {LINGERS}(%r15)
    mov ${LINGER}, %ecx
    1: dec %ecx
    jnz 1b
    cpuid                               /* now at the latest, but that is too late */
    jmp run
handler:                                /* EAX is the vector; what it was is on the stack */
    push %rcx
    push %rdx
    push %r12
    mov %eax, %ecx
    shr $4, %ecx
    cmp %r12d, %ecx
    jbe 1f
    cmp %r10d, %ecx
    ja 2f
    1: incl {DISORDER}(%r15)
    2: mov %ecx, %r12d
    mov %eax, %ecx
    and $0xFE, %ecx
    cmp ${TIMER[0]}, %ecx
    jne 3f
    incl {NOTED}(%r15)
    jmp 4f
    3: mov {LINGERS}(%r15), %rcx
    test %rcx, %rcx
    jz 4f
    cmpq $0, DATA + {SENT_AT}(,%rax,8)  /* from outside: at no known time */
    je 4f
    cmp DATA + {SENT_AT}(,%rax,8), %rcx
    cmovb DATA + {SENT_AT}(,%rax,8), %rcx /* whichever was later: it lingers, or the interrupt */
    push %rax
    time
    pop %rax
    sub %rcx, %rdx
    cmp ${PROMPT}, %rdx
    jle 4f
    incl {LATE}(%r15)
    4: lock incl DATA + {CAME}(,%rax,4)
    sti
    mov $5, %ecx
    5: dec %ecx
    jnz 5b
    cli
    movl $0, 0xB0(%rbp)
    pop %r12
    pop %rdx
    pop %rcx
    pop %rax
    iretq
"""
MACROS = f"""
.macro time                             /* RDX: the counter */
    rdtsc
    shl $32, %rdx
    or %rax, %rdx
.endm
.macro note_sending                     /* vector ECX, unless the last one is under way */
    mov DATA + {SENT}(,%rcx,4), %eax
    cmp %eax, DATA + {CAME}(,%rcx,4)
    jne run
    incl DATA + {SENT}(,%rcx,4)
    time
    mov %rdx, DATA + {SENT_AT}(,%rcx,8)
.endm
.macro arm
    mov {ARMED}(%r15), %eax
    cmp %eax, {NOTED}(%r15)
    jne 7f
    incl {ARMED}(%r15)
    shl $6, %ecx
    inc %ecx
    mov %ecx, 0x380(%rbp)
    7:
.endm
.macro take_all                         /* the lowest task priority */
    xor %r10d, %r10d
    movl $0, 0x80(%rbp)
.endm
"""
VECTORS = (*LINES, *TIMER, *OUTSIDE)
STUBS = "".join(f"h{vector:x}: push %rax; mov ${vector}, %eax; jmp handler\n" for vector in VECTORS)


class Op(NamedTuple):
    kind: str
    value: int = 0


def send(vector: int) -> Op:
    """What sends a vector."""
    kind, _, receiver = LINES[vector]
    return Op(f"{kind}{receiver}" if kind in ("card", "device") else kind, vector)


def script(ops: list[Op]) -> bytes:
    return b"".join(bytes((KINDS.index(kind), value)) for kind, value in [*ops, Op("end")])
