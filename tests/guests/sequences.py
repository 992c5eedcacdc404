"""Random sequences without an assembler at run time: pieces of code that may stand anywhere, in any order.

A sequence sets R15 to what follows in front of each piece; the handler of an exception goes on there. No piece leaves
an undefined flag behind, or anything that depends on time. What counts at the end is the guest's state: registers,
memory with page tables and stacks, and the records that its handlers wrote.
"""

from __future__ import annotations

import functools
import itertools
import random
import struct
from typing import Any

from hv.silicon.x86_64.machine import Idle
from modes.full_emulation.translator.window import PLACES, SIZE
from tests.support import CODE, DATA, LOG_NEXT, PRELUDE, PT, RawGuest, Where, assemble

LENGTH = 40  # pieces in a sequence
LIMIT = 100_000_000  # virtual cycles; translating code that changes all the time takes many
ROOM = 0x4000  # bytes that a sequence may have
COPY, OTHER, ALIAS = 0x6_0000, 0x6_1000, 0x6_2000  # pages for code that is copied, changed and mapped elsewhere

# ruff: noqa: E501 - a piece a line
ANYWHERE = """
jc 1f; inc %rax; 1: jnz 2f; dec %rbx; 2: js 3f; not %rcx; 3: jp 4f; neg %r8; cmp %r8, %r8; 4:
mov $7, %ecx; 1: add %rcx, %rdx; loop 1b
mov $5, %ecx; 1: dec %rdx; loopne 1b; cmp %rdx, %rdx
xor %ecx, %ecx; jrcxz 1f; inc %rbx; 1: add $1, %rbx
mov $40, %ecx; 1: lea 3(%rbx,%rcx,2), %rbx; dec %ecx; jnz 1b
lea 1f(%rip), %rax; jmp *%rax; ud2; 1:
lea 1f(%rip), %rax; mov %rax, DATA+0x100; mov $DATA, %ebx; jmp *0x100(%rbx); ud2; 1:
lea 1f(%rip), %rcx; mov %rcx, 2f(%rip); jmp *2f(%rip); 2: .quad 0; 1:
call 1f; jmp 2f; 1: add $3, %rdx; ret; 2:
lea 1f(%rip), %rcx; call *%rcx; jmp 2f; 1: inc %rcx; ret; 2:
lea 1f(%rip), %rax; push %rax; call *(%rsp); pop %rbx; jmp 2f; 1: mov (%rsp), %rdx; ret; 2:
push $11; push $22; call 1f; jmp 2f; 1: add 8(%rsp), %rsi; ret $16; 2:
mov $6, %eax; call 1f; jmp 2f; 1: dec %eax; jz 3f; call 1b; inc %r9; 3: ret; 2:
mov $200, %r10d; lea 1f(%rip), %rbx; lea 3f(%rip), %rcx; 3: dec %r10d; jz 2f; call *%rbx; jmp *%rcx; 1: inc %r11; ret; 2:
mov $0x900000000000, %rax; jmp *%rax
mov $0x900000000000, %rax; push %rax; ret
lea 1f(%rip), %rax; btc $61, %rax; push %rax; ret; 1: inc %r9
call 1f; jmp 2f; 1: pop %rax; push %rax; btc $63, %rax; jmp *%rax; 2:
lea 1f(%rip), %rax; mov %rax, DATA+0x100; mov $SLOT_IN_DATA, %eax; push %rax; ret; 1: inc %r9
mov $NOT_MAPPED, %eax; call *%rax
mov NOT_MAPPED, %rcx
jmp *NOT_MAPPED
call *NOT_MAPPED
movabs $0x7F0000000000, %rcx; mov %rcx, (%rcx)
mov $NOT_MAPPED-4, %eax; mov %rdx, (%rax)
lea 1f(%rip), %rax; mov %rax, NOT_MAPPED-8; mov %rsp, %rbx; mov $NOT_MAPPED-8, %esp; ret; 1: mov %rbx, %rsp
pushf; pop %rdx; mov %rdx, DATA+0x108; xor %edx, %edx
push $0xCD7; popf; pushf; pop DATA+0x110; push $2; popf
push $0x40002; popf; pushf; pop %rax; push $2; popf
pushfw; popw %ax; cmp %ax, %ax
pushw $0xCD7; popfw; cmp %eax, %eax
sti; nop; cli
cli; cli; sti; nop; pushf; pop %rax; mov %rax, DATA+0x118; cli; cmp %eax, %eax
push $0x202; popf; nop; pushf; pop %rcx; mov %rcx, DATA+0x120; cli
push $0x3002; popf; pushf; pop %rcx; cli; sti; in $0x80, %al; push $2; popf
mov $9, %eax; mov %rax, %cr8; mov %cr8, %rcx; mov %rcx, DATA+0x128; xor %eax, %eax; mov %rax, %cr8
mov $16, %eax; mov %rax, %cr8
mov $5, %r10d; mov %r10, %cr8; mov %cr8, %r11; xor %r10d, %r10d; mov %r10, %cr8
mov %rsp, %rcx; mov $3, %esp; mov %rsp, %cr8; mov $0, %esp; mov %rsp, %cr8; mov %rcx, %rsp
mov %cr0, %r9; mov %cr2, %r10; mov %cr3, %r11; mov %cr4, %rdx
mov %cr0, %rax; mov %rax, %cr0
sgdt DATA+0x130; sidt 0x140+DATA; sgdt 1f(%rip); jmp 2f; 1: .fill 10; 2: mov 1b+2(%rip), %rax
mov $DATA+0x150, %ecx; mov $2, %edx; sgdt -8(%rcx,%rdx,4); sidt 0x10(%rcx)
sgdt NOT_MAPPED-4
sidt NOT_MAPPED
mov $DATA+0x180, %esi; str (%rsi); sldt 2(%rsi); smsw 4(%rsi); mov %cs, 6(%rsi); mov %ss, 8(%rsi); mov %ds, 10(%rsi)
str %ecx; sldt %r10; smsw %edx; smsw %ax; mov %cs, %r11; mov %ds, %bx; mov %gs, %eax
smsw NOT_MAPPED
push %fs; push %gs; pop %rax; pop %rbx
push %fs; pop %fs
rdtsc; xor %eax, %eax; xor %edx, %edx
rdtscp; xor %eax, %eax; xor %edx, %edx
in $0x80, %al; in $0x81, %ax; in $0x82, %eax
mov $0x80, %edx; in %dx, %al; in %dx, %eax
out %al, $0x80
xor %ecx, %ecx; mov $1, %edx; mov $2, %eax; div %ecx; cmp %ecx, %ecx
int $0x55
int3
ud2
hlt_is_no_option
syscall
sysretq
swapgs; swapgs
wbinvd
clts
mov %cr3, %rax; mov %rax, %cr3
invlpg DATA
mov $0x10, %eax; mov %eax, %ss; nop
mov $0x10, %eax; push %rax; mov $0x10, %eax; mov %eax, %es
mov $0xC0000102, %ecx; mov $0x77, %eax; xor %edx, %edx; wrmsr; swapgs; rdmsr; swapgs
xor %eax, %eax; cpuid; xor %eax, %eax; xor %ebx, %ebx; xor %ecx, %ecx; xor %edx, %edx
mov $8, %eax; lar %eax, %ecx; lsl %eax, %edx; verr %ax; cmp %eax, %eax
incl 1f+1(%rip); 1: mov $5, %eax
movb $0x43, 1f+2(%rip); nop; 1: inc %r10
mov $0xC3C0FF48, %eax; mov %eax, COPY; mov $COPY, %ebx; call *%rbx; mov $0xC3C8FF48, %eax; mov %eax, COPY; call *%rbx; cmp %eax, %eax
mov $0xC39C9090, %eax; mov %eax, OTHER-2; mov $OTHER-2, %ebx; call *%rbx; nop
movl $0xC3C0FF48, COPY; movl $0xC3C3FF48, OTHER; movq $COPY+7, ALIAS_ENTRY; invlpg ALIAS; mov $ALIAS, %ecx; call *%rcx; movq $OTHER+7, ALIAS_ENTRY; invlpg ALIAS; call *%rcx
movq $0, ALIAS_ENTRY; invlpg ALIAS; mov $ALIAS, %ecx; call *%rcx
movabs $0x8000000000060007, %rax; mov %rax, ALIAS_ENTRY; invlpg ALIAS; mov $ALIAS, %ecx; jmp *%rcx
mov %cr0, %rax; btr $16, %rax; mov %rax, %cr0; bts $16, %rax; mov %rax, %cr0; cmp %eax, %eax
andb $0xDF, ALIAS_ENTRY; andb $0xDF, CODE_ENTRY; invlpg ALIAS; mov %cr3, %rax; mov %rax, %cr3
mov $12, %ecx; lea ALIAS_ENTRY, %rdi; 1: mov %rcx, (%rdi); mov %rdx, 8(%rdi); loop 1b
mov $DATA+0x200, %edi; mov $9, %ecx; rep stosq
mov $DATA+0x200, %esi; mov $DATA+0x300, %edi; mov $77, %ecx; rep movsb
mov $DATA+0x200, %ebx; mov $3, %eax; xlat
lock addq $5, DATA+0x28; lock xadd %rax, DATA+0x30; xchg %rbx, DATA+0x38
mov 1f(%rip), %rax; addq $1, 1f(%rip); push 1f(%rip); pop %rcx; jmp 2f; 1: .quad 0x1234; 2:
cmpq $3, 1f(%rip); movb $7, 1f(%rip); jmp 2f; 1: .quad 3; 2: lea 1b(%rip), %rdx
mov %ah, %bl; mov %bh, DATA+0x48; movzbl %ch, %edx
enter $16, $0; leave
mov %rsp, %rax; push %rsp; pop %rcx; mov %rax, %rsp
.byte 0x66, 0x90; .byte 0xF3, 0x90; .byte 0x0F, 0x1F, 0x44, 0, 0
.byte 0x0F, 0xFF
.byte 0x62
lock ud2
""".strip().splitlines()
INSTEAD = {"hlt_is_no_option": ".byte 0x0F, 0x22, 0xE8"}  # MOV CR5, RAX
# code -> 64-bit forms with ModRM: ADD OR ADC SBB AND SUB XOR CMP TEST MOV XCHG LEA-like MOVs between registers
REGISTER_OPCODES = (0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85, 0x89, 0x87)
REGISTERS = (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)  # not RSP, and not R15

DEFINITIONS = (
    PRELUDE
    + f"""
.set COPY, {COPY}
.set OTHER, {OTHER}
.set ALIAS, {ALIAS}
.set ALIAS_ENTRY, {PT + 8 * (ALIAS >> 12)}
.set CODE_ENTRY, {PT + 8 * (CODE >> 12)}
.set SLOT_IN_DATA, {DATA + 0x100 - PLACES[0] - SIZE >> 3 & (1 << 61) - 1} /* nothing, but the translator looks in DATA */
"""
)


@functools.cache
def pieces() -> list[bytes]:
    """All of them, assembled together once."""
    text = "\n".join(f"piece_{n}: {INSTEAD.get(piece, piece)}" for n, piece in enumerate(ANYWHERE))
    code = assemble(f"{DEFINITIONS}\n{text}\npiece_{len(ANYWHERE)}:", CODE)
    bounds = [code.labels[f"piece_{n}"] - CODE for n in range(len(ANYWHERE) + 1)]
    return [code.data[start:end] for start, end in itertools.pairwise(bounds)]


def random_operations(chosen: random.Random) -> bytes:
    """A few instructions between registers and with memory at an absolute address."""
    out = b""
    for _ in range(chosen.randrange(1, 6)):
        opcode, one, other = chosen.choice(REGISTER_OPCODES), chosen.choice(REGISTERS), chosen.choice(REGISTERS)
        rex = 0x48 | (one >> 3) << 2
        if chosen.random() < 0.7:
            out += bytes((rex | other >> 3, opcode, 0xC0 | (one & 7) << 3 | other & 7))
        else:
            at = DATA + 0x400 + 8 * chosen.randrange(16)
            out += bytes((rex, opcode, (one & 7) << 3 | 4, 0x25)) + struct.pack("<i", at)
    return out


def code_of(seed: int) -> tuple[bytes, int]:
    """Machine code of sequence number `seed`, and its ring."""
    chosen = random.Random(seed)
    ring = chosen.choice((0, 0, 3))
    out = assemble(DEFINITIONS + "to_user user; user:", CODE).data if ring else b""
    out += b"".join(bytes((0x48 | r >> 3, 0xB8 | r & 7)) + chosen.randbytes(8) for r in REGISTERS)
    for _ in range(LENGTH):
        piece = random_operations(chosen) if chosen.random() < 0.25 else chosen.choice(pieces())
        out += b"\x4c\x8d\x3d" + struct.pack("<i", len(piece)) + piece  # LEA R15, the next one
    return out + (b"\xcd\x80" if ring else b"\xf4"), ring


class Stand:
    """A raw guest that runs one sequence after the other, from the same state each time."""

    def __init__(self, where: Where) -> None:
        self.guest = RawGuest(b"\xf4" * ROOM, where, prepare=lambda vmcb: setattr(vmcb, "efer", 0xD00))
        self.start = self.guest.vm.snapshot()

    def run(self, code: bytes) -> dict[str, Any]:
        """The state in which it ends."""
        vm = self.guest.vm
        vm.restore(self.start)
        vm.write(CODE, code)
        vm.mode.memory_written(CODE, len(code))
        outcome = self.guest.run(LIMIT)
        assert isinstance(outcome, Idle), outcome
        state: dict[str, Any] = dict(self.guest.registers())
        return state | {
            "log": self.guest.log, "tables": _settled(self.guest.read(0, 0x9000)), "code": self.guest.read(0xA000, ROOM + 0xA000),
            "data": self.guest.read(0x3_0000, 0x4_0000), "log next": self.guest.word(LOG_NEXT),
        }  # fmt: skip


def _settled(tables: bytes) -> bytes:
    """Without accessed and dirty bits: a TLB, and a walk that fails, leave a CPU some freedom there."""
    words = struct.unpack(f"<{len(tables) // 8}Q", tables)
    return struct.pack(f"<{len(words)}Q", *(word & ~0x60 for word in words))


@functools.cache
def stand(where: Where) -> Stand:
    return Stand(where)


def difference(seed: int, where: Where, reference: Where) -> str:
    """What is different at the end of a sequence under two modes; nothing, if all is well."""
    code, _ = code_of(seed)
    got, wanted = stand(where).run(code), stand(reference).run(code)
    return "; ".join(f"{name}: {_first(got[name], wanted[name])}" for name in wanted if got[name] != wanted[name])


def _first(got: Any, wanted: Any) -> str:
    """The first difference in a value of the end state."""
    if isinstance(wanted, bytes):
        at = next(at for at in range(0, len(wanted), 8) if got[at : at + 8] != wanted[at : at + 8])
        return f"{got[at : at + 8].hex()} at {at:#x} is not {wanted[at : at + 8].hex()}"
    if isinstance(wanted, list):
        pairs = enumerate(zip(got, wanted, strict=False))
        return next((f"record {n}: {a} is not {b}" for n, (a, b) in pairs if a != b), f"{len(got)}, not {len(wanted)}")
    return f"{got!r} is not {wanted!r}"
