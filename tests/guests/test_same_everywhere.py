"""Random instruction sequences end in the same state on metal, under hw-assist and deprivileged, native and portable.

Each sequence is made of snippets that leave no undefined flag behind. In front of each one R15 is set to the snippet
after it, where the handler of an exception goes on. The time differs between the modes, everything else may not.
"""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest

from modes.full_emulation.translator.mode import FullEmulation
from tests.support import (
    DATA,
    HANDLERS,
    LOG_NEXT,
    NATIVE_HW,
    NATIVE_METAL,
    NATIVE_SHADOW,
    NATIVE_TRANSLATED,
    NATIVE_TRAP,
    PORTABLE_HW,
    PORTABLE_METAL,
    PORTABLE_SHADOW,
    PORTABLE_TRANSLATED,
    PORTABLE_TRAP,
    RawGuest,
    Where,
    assemble,
)

SEQUENCES, SEQUENCES_PORTABLE, LENGTH = 200, 24, 24

ANYWHERE = """
add %rax, %rbx
adc $0x7FFFFFFF, %rcx
sub %rdx, %rsi
sbb %r8, %r9
xor %r10, %rax
and $0xFF00FF, %edx; test %edx, %edx
neg %r11
inc %rsi
shl $3, %rbx; add $1, %rbx
lea 5(%rbx,%rcx,8), %rdx
imul $77, %rcx, %r8; cmp %rax, %rbx
bswap %rdx
xchg %rax, %r9
movzbl %al, %r10d
movslq %ecx, %r11
mov %rbx, DATA+0x20
mov DATA+0x20, %rcx
add %rdx, DATA+0x28
lock xadd %rax, DATA+0x30
mov $DATA+0x100, %edi; mov $9, %ecx; rep stosb
mov $DATA+0x100, %esi; mov $DATA+0x180, %edi; mov $5, %ecx; rep movsq
std; mov $DATA+0x1F0, %edi; mov $3, %ecx; rep stosw; cld
push %rax; pop %rbx
push %rcx; push %rdx; pop %rcx; pop %rdx
pushf; pop %rdx; and $0xCD5, %edx; cmp %edx, %edx
call 8f; jmp 9f; 8: inc %r12; ret; 9:
mov NOT_MAPPED, %rax
mov %rax, NOT_MAPPED+0x123
mov %eax, NOT_MAPPED-2
mov $0x900000000000, %rcx; mov %rcx, (%rcx)
mov $NOT_MAPPED-16, %edi; mov $40, %ecx; rep stosb
xor %ecx, %ecx; div %ecx; cmp %ecx, %ecx
xor %edx, %edx; mov $1000, %eax; mov $7, %ecx; div %ecx; cmp %eax, %edx
mov $5, %edx; mov $2, %ecx; div %ecx; cmp %eax, %edx
ud2
int3
int $0x55
int $0x40
in $0x80, %al
in $0x81, %ax
out %eax, $0x82
mov $0xC0000102, %ecx; rdmsr
mov $0xC0000102, %ecx; mov $0x1234, %eax; xor %edx, %edx; wrmsr
mov $0x12345, %ecx; rdmsr
mov $0xC0000082, %ecx; mov $0x80000000, %edx; wrmsr
mov %cr0, %rax; and $0x7FFFFFFF, %eax; cmp %eax, %eax
mov %cr2, %rax
mov %cr3, %rdx; mov %rdx, %cr3
mov %cr4, %rcx; mov %rcx, %cr4
mov $3, %eax; mov %rax, %cr8; xor %eax, %eax; mov %cr8, %rax; mov %rax, DATA+0x38
invlpg DATA
swapgs; swapgs
clts
cli
hlt_or_fault
vmrun
vmmcall_is_skipped
sysenter
syscall
mov $0x8000, %eax; cpuid; xor %eax, DATA+0x40; xor %ebx, DATA+0x44
rdpmc
mov $0x10, %ecx; mov %ecx, %ds
mov $0x100, %ecx; mov %ecx, %es
mov %ss, %eax
sgdt DATA+0x60; sidt DATA+0x70
str %eax
smsw %eax; and $0xFFFF, %eax; cmp %eax, %eax
lar %ecx, %eax; cmp %eax, %eax
movb $0x90, 8f+1; 8: nop; nop; movb $0x40, 7f; 7: .byte 0x40; nop
incl 8f+1; 8: mov $5, %eax
mov $0x202, %eax; push %rax; popf; cli
""".strip().splitlines()
INSTEAD = {"hlt_or_fault": "invd", "vmmcall_is_skipped": "vmsave", "vmrun": "mov $0x7000, %eax; vmrun"}


def sequence(seed: int, ring: int) -> str:
    """The assembly text of sequence number `seed`."""
    chosen = random.Random(seed)
    lines = [
        f"mov ${chosen.getrandbits(63):#x}, %{name}" for name in "rax rbx rcx rdx rsi rdi r8 r9 r10 r11 r12".split()
    ]
    if ring:
        lines.append("to_user user; user:")
    for number in range(LENGTH):
        snippet = chosen.choice(ANYWHERE)
        snippet = INSTEAD.get(snippet, snippet)
        lines += [f"lea next_{number}(%rip), %r15", snippet, f"next_{number}:"]
    lines.append("int $0x80" if ring else "hlt")
    return "\n".join(lines)


def end_state(seed: int, ring: int, where: Where) -> dict[str, Any]:
    """Registers, memory, counts and the exceptions that came."""

    guest = RawGuest(sequence(seed, ring), where, prepare=lambda vmcb: setattr(vmcb, "efer", 0xD00)).finish()
    state: dict[str, Any] = dict(guest.registers())
    state |= {"retired": guest.retired, "log": guest.log, "data": guest.read(DATA, 0xF000), "low": guest.read(0, 0x9000),  # noqa: E501
              "rest": guest.read(0xA000, 0x36000), "log next": guest.word(LOG_NEXT)}  # fmt: skip
    guest.close()
    return state


@functools.cache
def expected(seed: int, ring: int) -> dict[str, Any]:
    return end_state(seed, ring, NATIVE_METAL)


def comparable(state: dict[str, Any], where: Where) -> dict[str, Any]:
    """What must be equal between this place and metal. The instructions that a translator adds are retired too."""
    return state | {"retired": 0} if where.mode is FullEmulation else state


def check(seed: int, ring: int, where: Where) -> None:
    got, wanted = end_state(seed, ring, where), expected(seed, ring)
    assert comparable(got, where) == comparable(wanted, where), f"seed {seed}"


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize(
    "where",
    [NATIVE_HW, NATIVE_SHADOW, NATIVE_TRAP, NATIVE_TRANSLATED],
    ids=["hw-assist", "hw-shadow", "trap", "translated"],
)
def test_a_guest_of_a_hypervisor_ends_where_metal_ends(where: Where, part: int, ring: int) -> None:
    for seed in range(part, SEQUENCES // 2, 4):
        check(seed, ring, where)


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize(
    "where",
    [PORTABLE_METAL, PORTABLE_HW, PORTABLE_SHADOW, PORTABLE_TRAP, PORTABLE_TRANSLATED],
    ids=["metal", "hw-assist", "hw-shadow", "trap", "translated"],
)
def test_portable_ends_where_native_ends(where: Where, ring: int) -> None:
    for seed in range(SEQUENCES_PORTABLE // 2):
        check(seed, ring, where)


def test_every_snippet_can_be_assembled_and_most_are_used() -> None:
    """The property above is not empty: the sequences contain exceptions of many kinds."""
    vectors = {record.vector for seed in range(40) for record in expected(seed, 0)["log"]}
    assert vectors >= {0, 3, 6, 13, 14, 0x40, 0x55}
    assert assemble("nop", HANDLERS).data == b"\x90"
