"""A guest that runs a script of interrupts: to itself, from a card, from a line of the I/O APIC.

A script is machine code, made here from operations: to send and to have a card send, to change the task priority and
the interrupt flag, to sleep, to say something. Each of VECTORS has a handler that logs its vector and runs a script of
its own. Those FROM_CARD come from outside at any instruction, and are only counted.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from tests.support import DATA, IOAPIC, LAPIC

VECTORS = (0x31, 0x3A, 0x52, 0x5F, 0x75, 0x9C, 0xF0)
LINE = 0x75  # the level-triggered one, which nothing else sends
SENT = tuple(vector for vector in VECTORS if vector != LINE)
WAKING = VECTORS[-1]
FROM_CARD = (0x21, 0xE1)  # not while the last one is under way, since requests for one vector merge
COUNTS = DATA + 0x10  # words of 32 bits: how often each of them has come
TEXT = DATA + 0x100  # the log
BUDGET, DONE = DATA, DATA + 4  # interrupts that may still be sent: handlers that send to each other come to an end
MOST = 40
MAIN, BODIES = 0x2_0000, 0x2_1000

# The card: registers in memory, which a guest of posted interrupts reaches without an exit, and ports, which exit. A
# value of SEND is up to four vectors, a byte each; RAISE drives the line's pin for so many interrupts, LOWER is the end
# of one. The rest is what a hypervisor on another CPU does with the descriptor, and has no effect where there is none.
CARD, PORTS = 0xFEF0_0000, 0xC0
SEND, URGENT, SUPPRESS, ALLOW, NOTIFY = range(0, 20, 4)
RAISE, LOWER = 4, 8  # ports; SEND is one too
PIN = 21

HANDLERS = "".join(
    f"""h{vector:x}: movb ${vector}, (%r8); inc %r8; push %rax; push %rbx; push %rcx; push %rdx
    mov ${BODIES + 0x400 * number}, %eax; call *%rax; {f"out %eax, ${PORTS + LOWER}" if vector == LINE else ""}
    pop %rdx; pop %rcx; pop %rbx; pop %rax; movl $0, 0xB0(%rbp); nop; iretq
    """
    for number, vector in enumerate(VECTORS)
)
HANDLERS += "".join(
    f"h{vector:x}: incl {COUNTS + 4 * number}; movl $0, 0xB0(%rbp); nop; iretq\n"
    for number, vector in enumerate(FROM_CARD)
)
FRAME = f"""mov ${TEXT}, %r8; lapic 0xF0, 0x1FF; movl ${MOST}, {BUDGET}
    mov ${IOAPIC}, %ebx; movl ${0x10 + 2 * PIN}, (%rbx); movl ${0x8000 | LINE}, 0x10(%rbx)
    sti; hlt; cli; mov ${MAIN}, %eax; call *%rax
    movl $0, 0x80(%rbp); movl $1, {DONE}; 1: sti; hlt; jmp 1b
    {HANDLERS}"""
GATES: Mapping[int, tuple[str, Mapping[str, int]]] = {vector: (f"h{vector:x}", {}) for vector in (*VECTORS, *FROM_CARD)}


class Op(NamedTuple):
    """What a guest does: a kind, and a vector, several, a priority class, a letter or a count."""

    kind: str
    value: int = 0


def code(op: Op) -> bytes:
    """RBP is the local APIC's address, R8 the end of the log."""
    match op.kind:
        case "send":
            return limited(store(LAPIC + 0x300, 0x4_4000 | op.value))  # to oneself
        case "card":
            return limited(store(CARD + SEND, op.value))
        case "urgent":
            return limited(store(CARD + URGENT, op.value))
        case "device":
            return limited(out(SEND, op.value))
        case "raise":
            return limited(out(RAISE, op.value))
        case "suppress":
            return store(CARD + SUPPRESS)
        case "allow":
            return store(CARD + ALLOW)
        case "notify":
            return store(CARD + NOTIFY)
        case "tpr":
            return store(LAPIC + 0x80, op.value << 4)
        case "cr8":
            return b"\xb8" + struct.pack("<I", op.value) + b"\x44\x0f\x22\xc0"
        case "on":
            return b"\xfb\x90"  # STI, and one instruction more before it counts
        case "popf":
            return b"\x68" + struct.pack("<I", 0x202) + b"\x9d"
        case "off":
            return b"\xfa"
        case "blink":
            return b"\xfb\xfa"
        case "say":
            return b"\x41\xc6\x00" + bytes([op.value]) + b"\x49\xff\xc0"
        case "sleep":  # with an interrupt that waits, and is not let in before HLT
            return b"\xfa" + store(LAPIC + 0x300, 0x4_4000 | WAKING) + b"\xfb\xf4"
        case "doze":  # until somebody wakes it, which must not be held back
            return b"\xfa" + store(CARD + ALLOW) + b"\xfb\xf4"
        case "exit":
            return b"\x0f\xa2"  # CPUID, which is an exit under a hypervisor
        case _:
            return b"\xb9" + struct.pack("<I", op.value) + b"\xff\xc9\x75\xfc"  # a loop


def store(address: int, value: int = 0) -> bytes:
    """MOVL of a constant to a register of the local APIC or the card."""
    return b"\xc7\x85" + struct.pack("<II", address - LAPIC, value)


def out(offset: int, value: int) -> bytes:
    """OUT of 32 bits to a port of the card."""
    return b"\xb8" + struct.pack("<I", value) + b"\xe7" + bytes([PORTS + offset])


def limited(instructions: bytes) -> bytes:
    """DECL of the budget, and JS over them."""
    return b"\xff\x0c\x25" + struct.pack("<I", BUDGET) + b"\x78" + bytes([len(instructions)]) + instructions


def handler_body(ops: list[Op]) -> bytes:
    """A handler gives the task priority back as it was."""
    save, restore = b"\x44\x0f\x20\xc0\x50", b"\x58\x44\x0f\x22\xc0"
    return save + b"".join(map(code, ops)) + restore + b"\xc3"


def memory_of(main: list[Op], bodies: list[list[Op]]) -> dict[int, bytes]:
    """Where the scripts of the main program and of the handlers are."""
    memory = {MAIN: b"".join(map(code, main)) + b"\xc3"}
    return memory | {BODIES + 0x400 * number: handler_body(ops) for number, ops in enumerate(bodies)}
