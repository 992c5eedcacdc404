"""The arithmetic flags after random instructions, seen after an event that interrupts them, against a model in Python.

Unicorn computes flags late, from operands that it keeps. A fault, a #VMEXIT, HLT and a store into the running block of
code each leave its translated code in the middle; the flags must be right afterwards, in the frame of an exception too.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import CODE, EVERYWHERE, NOT_MAPPED, UNDER_TRAP, RawGuest, Where

CF, PF, AF, ZF, SF, OF = 1 << 0, 1 << 2, 1 << 4, 1 << 6, 1 << 7, 1 << 11
ARITHMETIC = CF | PF | AF | ZF | SF | OF
FRESH = 0x6_0000  # a page that nobody has touched: under a hypervisor the first store exits

BINARY = {"add": 0x00, "or": 0x08, "adc": 0x10, "sbb": 0x18, "and": 0x20, "sub": 0x28, "xor": 0x30, "cmp": 0x38}
UNARY = {"inc": (0xFE, 0), "dec": (0xFE, 1), "neg": (0xF6, 3)}
LOGIC = frozenset(("or", "and", "xor"))


class Operation(NamedTuple):
    """`name` on registers 0 to 3 (RAX, RCX, RDX, RBX), `size` bytes wide."""

    name: str
    size: int
    target: int
    source: int

    def encode(self) -> bytes:
        prefix = {1: b"", 2: b"\x66", 4: b"", 8: b"\x48"}[self.size]
        opcode, field = UNARY.get(self.name) or (BINARY[self.name], self.source)
        return prefix + bytes((opcode | (self.size > 1), 0xC0 | field << 3 | self.target))


class Model:
    """Four registers and the flags (APM vol. 1, 3.1.4). AF is undefined after OR, AND and XOR."""

    def __init__(self, registers: list[int]) -> None:
        self.registers, self.flags, self.defined = list(registers), 0, ARITHMETIC

    def run(self, op: Operation) -> None:
        bits = 8 * op.size
        mask, sign = (1 << bits) - 1, 1 << (bits - 1)
        a, b, carry = self.registers[op.target] & mask, self.registers[op.source] & mask, self.flags & CF
        kept = 0
        if op.name in UNARY:
            kept = 0 if op.name == "neg" else carry
            a, b, carry = (0, a, 0) if op.name == "neg" else (a, 1, 0)
        elif op.name not in ("adc", "sbb"):
            carry = 0
        if op.name in LOGIC:
            result, flags = {"or": a | b, "and": a & b, "xor": a ^ b}[op.name], 0
        elif op.name in ("add", "adc", "inc"):
            result = a + b + carry
            flags = CF * (result > mask) | OF * bool(~(a ^ b) & (a ^ result) & sign) | AF & (a ^ b ^ result)
        else:
            result = a - b - carry
            flags = CF * (result < 0) | OF * bool((a ^ b) & (a ^ result) & sign) | AF & (a ^ b ^ result)
        result &= mask
        if op.name in ("inc", "dec"):
            flags = flags & ~CF | kept
        even = (result & 0xFF).bit_count() % 2 == 0
        self.flags = flags | ZF * (result == 0) | SF * bool(result & sign) | PF * even
        self.defined = ARITHMETIC & ~AF if op.name in LOGIC else ARITHMETIC
        if op.name != "cmp":
            old = self.registers[op.target]
            self.registers[op.target] = result if op.size >= 4 else old & ~mask | result


# What comes after the operations, in front of an HLT. R15 is where the handler of a fault goes on.
EVENTS = {
    "hlt": b"",
    "ud2": b"\x0f\x0b",
    "int $0x55": b"\xcd\x55",
    "a load that faults": b"\x4c\x8b\x04\x25" + struct.pack("<I", NOT_MAPPED),
    "a store to a fresh page": b"\x4c\x89\x04\x25" + struct.pack("<I", FRESH),
    "in": b"\xe4\x80",
    "mov %cr3": b"\x41\x0f\x20\xd8",
    "sgdt": b"\x0f\x01\x04\x25" + struct.pack("<I", FRESH),
    "pushf": b"\x9c",
    "a store into its own block": b"\xc6\x04\x25" + struct.pack("<I", CODE + 0xFFF) + b"\x90",
}

values = st.one_of(
    st.integers(0, (1 << 64) - 1), st.sampled_from((0, 1, 0x7F, 0x80, 0xFF, 1 << 31, 1 << 63, (1 << 64) - 1))
)
operations = st.builds(
    Operation, st.sampled_from([*BINARY, *UNARY]), st.sampled_from((1, 2, 4, 8)), st.integers(0, 3), st.integers(0, 3)
)


@pytest.mark.parametrize("where", EVERYWHERE + UNDER_TRAP)
@pytest.mark.parametrize("event", EVENTS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(values, min_size=4, max_size=4), st.lists(operations, min_size=1, max_size=6))
def test_flags_survive_an_event(where: Where, event: str, registers: list[int], chosen: list[Operation]) -> None:
    """PUSHF to R8 directly behind it, RFLAGS of the ended guest, and the frame of an exception all show them."""
    model = Model(registers)
    body = b""
    for op in chosen:
        model.run(op)
        body += op.encode()
    body += EVENTS[event]
    load = b"".join(bytes((0x48, 0xB8 | i)) + struct.pack("<Q", value) for i, value in enumerate(registers))
    end = bytes.fromhex("9c4158 f4")  # pushf; pop %r8; hlt
    entry = CODE + 0xFFF + 1 - len(body)  # the block ends with the page
    handler = b"\x49\xbf" + struct.pack("<Q", entry + len(body))
    start = load + b"\x31\xf6" + handler  # xor %esi, %esi: no flags but ZF and PF
    code = start + b"\x9c\x48\x83\x24\x24\x00\x9d"  # pushf; andq $0, (%rsp); popf: none at all
    code += b"\xe9" + struct.pack("<i", entry - (CODE + len(code) + 5))
    guest = RawGuest(code.ljust(entry - CODE, b"\x90") + body + end, where)
    guest.finish()
    seen = [guest.registers()["r8"], guest.registers()["rflags"], *(record.rflags for record in guest.log)]
    assert [flags & model.defined for flags in seen] == [model.flags & model.defined] * len(seen)
    assert bool(guest.log) == (event in ("ud2", "int $0x55", "a load that faults"))
    guest.close()
