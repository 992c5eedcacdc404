"""What calls and returns cost in translated code, for `hv bench`: a guest that is one recursive function."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from hv.costs import CostModel
from hv.loader import Guest, Segment
from hv.mode import Mode
from hv.silicon.x86_64.machine import Idle
from hv.silicon.x86_64.paging import PRESENT, WRITABLE
from hv.vm import Vm

CODE, GDT, TABLES, STACK = 0x10_0000, 0x10_1000, 0x10_2000, 0x10_6000  # TABLES: one of each of the four levels
DEPTH = 24  # Fibonacci's: some 150,000 calls


def _word(value: int) -> bytes:
    return struct.pack("<I", value)


TO_LONG_MODE = b"".join((
    b"\xb8" + _word(0x20) + b"\x0f\x22\xe0",  # CR4 = PAE
    b"\xb8" + _word(TABLES) + b"\x0f\x22\xd8",  # CR3
    b"\xb9" + _word(0xC000_0080) + b"\x31\xd2\xb8" + _word(0x900) + b"\x0f\x30",  # EFER = NXE LME
    b"\xb8" + _word(0x8001_0011) + b"\x0f\x22\xc0",  # CR0 = PG WP ET PE
    b"\x0f\x01\x15" + _word(GDT + 0x20),  # LGDT
))  # fmt: skip
# mov edi, DEPTH; call fibonacci; cli; hlt
# fibonacci: cmp edi, 2; jae 1f; mov eax, edi; ret
# 1: push rdi; dec edi; call fibonacci; pop rdi; push rax; sub edi, 2; call fibonacci; pop rdi; add rax, rdi; ret
FIBONACCI = b"\xbf" + _word(DEPTH) + bytes.fromhex("e802000000faf4 83ff02730389f8c3")
FIBONACCI += bytes.fromhex("57ffcfe8f0ffffff5f5083ef02e8e6ffffff5f4801f8c3")


def guest() -> Guest:
    """From 32-bit mode, where a PVH guest begins, to 64-bit mode at ring 0 with the first 2 MiB mapped."""
    start = CODE + len(TO_LONG_MODE) + 7
    code = TO_LONG_MODE + b"\xea" + _word(start) + b"\x08\x00" + b"\xbc" + _word(STACK) + FIBONACCI  # ljmp; mov esp
    rights = PRESENT | WRITABLE
    levels = [struct.pack("<Q", TABLES + 0x1000 * level | rights) for level in (1, 2, 3)]
    pages = struct.pack("<512Q", *(page << 12 | rights for page in range(512)))
    tables = b"".join(level.ljust(0x1000, b"\0") for level in levels) + pages
    segments = struct.pack("<4Q", 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0)
    parts = ((CODE, code), (GDT, segments + struct.pack("<HI", 23, GDT)), (TABLES, tables))
    return Guest(Path("recursion"), "", CODE, [Segment(at, len(data), data) for at, data in parts], {}, b"")


def recursion(modes: Mapping[str, type[Mode]], costs: CostModel, rounds: int) -> float:
    """How fast it runs from the translation cache, at its own address being 1; the best of `rounds` of both."""
    program = guest()

    def once(mode: str) -> float:
        with closing(Vm({"cpu": modes[mode]}, program, costs, smp=1)) as vm:
            started = time.process_time()
            outcome = vm.run()
            assert isinstance(outcome, Idle), outcome
            return time.process_time() - started

    pairs = [(once("trap-and-emulate"), once("full-emulation")) for _ in range(rounds)]
    return min(direct for direct, _ in pairs) / min(translated for _, translated in pairs)
