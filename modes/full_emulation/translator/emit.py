"""The few instructions that translated code is made of, as bytes. None of them touches the flags unless it says so.

Registers are numbers, RAX 0 to R15 15; slots are linear addresses in the window, which 32 sign-extended bits hold.
AMD64 Architecture Programmer's Manual, vol. 3, has the encodings.
"""

from __future__ import annotations

import struct

RCX, RDX = 1, 2
LOAD, STORE, LOAD_BYTE, STORE_BYTE = b"\x8b", b"\x89", b"\x8a", b"\x88"
ZERO_EXTEND_BYTE = b"\x0f\xb6"
CALL_OUT = b"\xcd\x20"  # INT: vectors to the hypervisor
JUMP = b"\xe9"  # JMP rel32; the 4 bytes follow
JUMP_SIZE = 5
RCX_IS_ZERO = b"\xe3"  # JRCXZ rel8
OVER_JUMP = RCX_IS_ZERO + b"\x05"  # if RCX is 0, skip the jump that follows
PUSH_FLAGS, POP_FLAGS = b"\x9c", b"\x9d"


def signed(value: int) -> int:
    """A 64-bit number as a signed one."""
    return value - (1 << 64) if value >> 63 else value


def fits(value: int) -> bool:
    """Does a signed number fit in 32 bits?"""
    return -(1 << 31) <= value < 1 << 31


def rel32(at: int, target: int) -> bytes:
    """A displacement whose 4 bytes lie at `at` and end the instruction."""
    return struct.pack("<i", signed(target - at - 4 & (1 << 64) - 1))


def slot(opcode: bytes, register: int, address: int, *, wide: bool = True) -> bytes:
    """An instruction with a register and the memory at an absolute address; 64 bits if `wide`."""
    rex = 0x40 | wide << 3 | (register >> 3) << 2
    prefix = bytes((rex,)) if rex != 0x40 else b""
    return prefix + opcode + bytes((register << 3 & 0x38 | 4, 0x25)) + struct.pack("<i", signed(address))


def keep(register: int, address: int) -> bytes:
    return slot(STORE, register, address)


def load(register: int, address: int) -> bytes:
    return slot(LOAD, register, address)


def load_ch(address: int) -> bytes:
    """MOV CH, [address]: bits 15:8 of RCX."""
    return b"\x8a\x2c\x25" + struct.pack("<i", signed(address))


def store_constant_byte(address: int, value: int) -> bytes:
    return b"\xc6\x04\x25" + struct.pack("<iB", signed(address), value)


def constant(register: int, value: int) -> bytes:
    """MOV register, imm64."""
    return bytes((0x48 | register >> 3, 0xB8 | register & 7)) + struct.pack("<Q", value & (1 << 64) - 1)


def push_slot(address: int) -> bytes:
    return b"\xff\x34\x25" + struct.pack("<i", signed(address))


def push_near(at: int, literal: int) -> bytes:
    """PUSH of the 8 bytes at `literal`, near this instruction at `at`."""
    return b"\xff\x35" + rel32(at + 2, literal)


def push_constant(value: int) -> bytes:
    """PUSH imm32, sign-extended to 8 bytes."""
    return b"\x68" + struct.pack("<i", signed(value))


POP_RCX = b"\x59"
LOAD_RCX_FROM_STACK = b"\x48\x8b\x0c\x24"  # MOV RCX, [RSP]


def copy_to_rcx(register: int) -> bytes:
    """MOV RCX, register."""
    return bytes((0x48 | register >> 3, 0x8B, 0xC0 | RCX << 3 | register & 7))


def load_near_rcx(displacement: int) -> bytes:
    """MOV RCX, [RCX + displacement]."""
    return b"\x48\x8b\x89" + struct.pack("<i", displacement)


LOAD_AT_RCX_PLUS_RDX = b"\x48\x8b\x0c\x11"  # MOV RCX, [RCX + RDX]


def drop_stack(size: int) -> bytes:
    """LEA RSP, [RSP + size]."""
    return b"\x48\x8d\xa4\x24" + struct.pack("<i", size)


def index_byte(register: int, table: int) -> bytes:
    """MOVZX register, byte [table + register], 32 bits; `register` below 8, not RSP."""
    return bytes((0x0F, 0xB6, 0x80 | register << 3 | register)) + struct.pack("<i", signed(table))


def jump_through(table: int) -> bytes:
    """JMP [table + RCX * 8]."""
    return b"\xff\x24\xcd" + struct.pack("<i", signed(table))
