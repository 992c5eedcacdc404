"""What interrupts cost in host time under posted-interrupts, for `hv bench`: small guests that do nothing else."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from hv.costs import CostModel
from hv.loader import Guest, Segment
from hv.mode import Mode
from hv.silicon.posted import Descriptor
from hv.silicon.x86_64.machine import Idle
from hv.silicon.x86_64.pc import LAPIC_BASE
from hv.vm import Vm

CODE, HANDLER, TABLES, STACK = 0x10_0000, 0x10_1000, 0x10_2000, 0x10_4000
CARD, CARD_REGISTERS = 0xE800_0000, 0x50_0000_0000  # guest-physical, and where they really are
VECTOR = 0x40


def store(address: int, value: int) -> bytes:
    """MOV of a constant to memory."""
    return b"\xc7\x05" + struct.pack("<II", address, value)


RING, EOI, PLAIN_STORE = store(CARD, 0), store(LAPIC_BASE + 0xB0, 0), store(STACK, 0)
IRET = bytes.fromhex("9c6a08e80000000083042405cf")  # push flags, CS, the address behind this; iret


class InterruptBench:
    """Costs are seconds of the host's CPU for one round of a loop, less those of a loop that lacks the thing itself.

    Each is the best of `rounds`.
    """

    def __init__(self, modes: Mapping[str, type[Mode]], costs: CostModel, rounds: int) -> None:
        self.rounds = rounds
        self.modes = {"cpu": modes["hw-assist"], "interrupts": modes["posted-interrupts"]}
        self.costs = costs

    def posted_interrupt(self, count: int) -> float:
        """From a card's post while the guest runs to the handler; its EOI and IRET are in both loops."""
        return self._loop(RING, count, posts=True) - self._loop(RING + EOI + IRET, count)

    def virtual_eoi(self, count: int) -> float:
        return self._loop(EOI, count) - self._loop(PLAIN_STORE, count)

    def _loop(self, body: bytes, count: int, *, posts: bool = False) -> float:
        guest = looping(body, count)
        return min(self._once(guest, posts=posts) for _ in range(self.rounds)) / count

    def _once(self, guest: Guest, *, posts: bool) -> float:
        vm = Vm(self.modes, guest, self.costs, smp=1)
        with closing(vm):
            machine = vm.machine
            target = vm.mode.posted(LAPIC_BASE, VECTOR)
            assert target is not None
            descriptor = Descriptor(machine.memory, target[0])

            def ring(*_: int) -> None:
                if posts:
                    machine.post(descriptor, VECTOR)

            machine.engine.map_chip(CARD_REGISTERS, 0x1000, lambda *_: 0, ring)
            vars(vm.board)["assigned_page"] = lambda gpa: CARD_REGISTERS if gpa == CARD else None
            started = time.process_time()
            outcome = vm.run()
            assert isinstance(outcome, Idle), outcome
            return time.process_time() - started


def looping(body: bytes, count: int) -> Guest:
    """A guest at ring 0 in 32-bit mode that does `body` so often. Its handler of VECTOR only ends the interrupt."""
    segments = struct.pack("<3Q", 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
    gate = struct.pack("<HHHH", HANDLER & 0xFFFF, 8, 0x8E00, HANDLER >> 16)
    interrupts = bytes(8 * VECTOR) + gate
    registers = struct.pack("<HIHI", len(segments) - 1, TABLES, len(interrupts) - 1, TABLES + 0x100)
    place = TABLES + 0x800
    code = b"".join((
        b"\x0f\x01\x15" + struct.pack("<I", place), b"\x0f\x01\x1d" + struct.pack("<I", place + 6),  # lgdt, lidt
        b"\xbc" + struct.pack("<I", STACK), store(LAPIC_BASE + 0xF0, 0x1FF),  # mov esp; switch the APIC on
        b"\xb9" + struct.pack("<I", count), b"\xfb", body, b"\x49\x75" + bytes([253 - len(body)]), b"\xfa\xf4",
    ))  # fmt: skip
    parts = {
        CODE: code, HANDLER: EOI + b"\xcf", TABLES: segments, TABLES + 0x100: interrupts, place: registers,
    }  # fmt: skip
    segments_of = [Segment(at, len(data), data) for at, data in sorted(parts.items())]
    return Guest(Path("interrupts"), "", CODE, segments_of, {}, b"")
