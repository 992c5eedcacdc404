"""Guests of a few instructions with Xen beside their PC: where they run, and what they are written in.

The numbers and layouts are those of Xen's public headers, written out here once more.
"""

from __future__ import annotations

from typing import Any

import pytest

from hv.mode import Mode
from modes.hw_assist.mode import HwAssist
from modes.paravirt.abi import HYPERCALLS
from modes.paravirt.mode import Paravirt
from tests.support import RawGuest, Where


class Line(Where):
    """Xen with a device, and without interrupts of its own: its events come by a line of the board's."""

    @property
    def modes(self) -> dict[str, type[Mode]]:
        return {"cpu": HwAssist, "remote": Paravirt}


BY_VECTOR, BY_LINE = Where(HwAssist, interrupts=Paravirt), Line(HwAssist)
BOTH = pytest.mark.parametrize("where", [BY_VECTOR, BY_LINE], ids=["vector", "line"])
CALLS, SHARED, ARGUMENTS, VECTOR = 0x4_6000, 0x4_7000, 0x4_4000, 0xF3
SELF = 0x7FF0
ENOENT, EPERM, EFAULT, EINVAL, ENOSYS, ETIME = 2, 1, 14, 22, 38, 62

HELP = (
    "".join(f".set {name}, {number}\n" for number, name in HYPERCALLS.items())
    + f"""
.set SHARED, {SHARED}
.set VECTOR, {VECTOR}
.set ARGUMENTS, {ARGUMENTS}
.macro find_xen                 /* the page of hypercalls */
    mov $0x40000000, %ecx
    mov ${CALLS}, %eax
    xor %edx, %edx
    wrmsr
.endm
.macro hypercall number, first=0, second=$0
    mov $\\first, %edi
    mov \\second, %rsi
    mov ${CALLS} + 32 * \\number, %rax
    call *%rax
.endm
.macro place                    /* shared_info */
    movl ${SELF}, ARGUMENTS
    movl $0, ARGUMENTS + 4
    movq $0, ARGUMENTS + 8
    movq $SHARED / 4096, ARGUMENTS + 16
    hypercall memory_op, 7, $ARGUMENTS
.endm
.macro callback high, low
    movl ${SELF}, ARGUMENTS
    movl $0, ARGUMENTS + 4
    movl $\\low, ARGUMENTS + 8
    movl $\\high, ARGUMENTS + 12
    hypercall hvm_op, 0, $ARGUMENTS
.endm
.macro bind_ipi vcpu, to        /* the port to `to` */
    movl $\\vcpu, ARGUMENTS
    hypercall event_channel_op, 7, $ARGUMENTS
    mov ARGUMENTS + 4, %eax
    mov %eax, \\to
.endm
.macro bind_timer to
    movq $0, ARGUMENTS
    hypercall event_channel_op, 1, $ARGUMENTS
    mov ARGUMENTS + 8, %eax
    mov %eax, \\to
.endm
.macro set_up                   /* events by vector; pages that a handler uses are there before it runs */
    find_xen
    place
    movb $0, SHARED
    int $VECTOR
    decq DATA
    callback 0x2000000, {VECTOR}
.endm
.macro send port
    mov \\port, %eax
    mov %eax, ARGUMENTS
    hypercall event_channel_op, 4, $ARGUMENTS
.endm
"""
)
# Counts in DATA, and takes the upcall of vCPU 0.
TAKE = "take: incq DATA; movb $0, SHARED; movq $0, SHARED+8; movq $0, SHARED+0x800; iretq\n"
TAKING: dict[int, tuple[str, dict[str, int]]] = {VECTOR: ("take", {})}


def run(code: str, where: Where = BY_VECTOR, **options: Any) -> RawGuest:
    return RawGuest(HELP + code, where, **options).finish()


def signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def result(code: str, where: Where = BY_VECTOR, **options: Any) -> int:
    """What RAX has in the end."""
    return signed(run("find_xen;" + code + "mov %rax, DATA; finish", where, **options).words(1)[0])
