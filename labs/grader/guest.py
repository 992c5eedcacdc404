"""A tiny guest out of machine code: 32-bit protected mode without paging, as the PVH protocol starts a kernel.

    Guest code is a list of (bytes in hexadecimal, what they are). It starts at CODE.

The guest's #GP handler at HANDLER notes error code and RIP at FAULTS and goes on two bytes further.
"""

from __future__ import annotations

import struct
from pathlib import Path

from hv.loader import Guest, Segment

CODE, STACK, HANDLER, TABLES, IDT, RESULTS, FAULTS = (0x10_0000 + 0x1000 * n for n in range(7))
GP = 13

Line = tuple[str, str]


def word(value: int) -> str:
    """32 bits in hexadecimal, as they lie in an instruction."""
    return struct.pack("<I", value).hex()


def save(slot: int) -> list[Line]:
    """Store EAX, EBX, ECX and EDX in four words of RESULTS."""
    at = RESULTS + 16 * slot
    return [
        (f"a3 {word(at)}", f"mov [{at:#x}], eax"),
        (f"89 1d {word(at + 4)}", f"mov [{at + 4:#x}], ebx"),
        (f"89 0d {word(at + 8)}", f"mov [{at + 8:#x}], ecx"),
        (f"89 15 {word(at + 12)}", f"mov [{at + 12:#x}], edx"),
    ]


# A stack, and descriptor tables of the guest's own: it takes exceptions after that.
TAKE_EXCEPTIONS: list[Line] = [
    (f"bc {word(STACK + 0x1000)}", "mov esp, STACK"),
    (f"0f 01 15 {word(TABLES + 0x100)}", "lgdt"),
    (f"0f 01 1d {word(TABLES + 0x110)}", "lidt"),
]
ON_GP: list[Line] = [
    ("60", "pusha"),
    (f"8b 3d {word(FAULTS)}", "mov edi, [FAULTS]: bytes noted so far"),
    ("8b 44 24 20", "mov eax, [esp+32]: the error code"),
    (f"89 87 {word(FAULTS + 4)}", "mov [edi+FAULTS+4], eax"),
    ("8b 44 24 24", "mov eax, [esp+36]: RIP"),
    (f"89 87 {word(FAULTS + 8)}", "mov [edi+FAULTS+8], eax"),
    (f"83 05 {word(FAULTS)} 08", "add dword [FAULTS], 8"),
    ("61", "popa"),
    ("83 c4 04", "add esp, 4: drop the error code"),
    ("83 04 24 02", "add dword [esp], 2: behind the instruction"),
    ("cf", "iret"),
]
FLAT = (0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)  # no segment, code, data (APM vol. 2, 4.7)


def assemble(lines: list[Line]) -> bytes:
    return b"".join(bytes.fromhex(code) for code, _ in lines)


def build(lines: list[Line]) -> Guest:
    """A guest that Vm takes."""
    gate = struct.pack("<HHBBH", HANDLER & 0xFFFF, 8, 0, 0x8E, HANDLER >> 16)
    parts = {
        CODE: assemble(lines),
        HANDLER: assemble(ON_GP),
        TABLES: struct.pack("<3Q", *FLAT),
        TABLES + 0x100: struct.pack("<HI", 8 * len(FLAT) - 1, TABLES),
        TABLES + 0x110: struct.pack("<HI", 8 * (GP + 1) - 1, IDT),
        IDT + 8 * GP: gate,
        FAULTS: bytes(0x1000),
    }
    return Guest(Path("lab"), "", CODE, [Segment(at, len(data), data) for at, data in parts.items()], {}, b"")
