"""The start-up self-test: does this Unicorn do what hv builds on? Takes a few milliseconds.

A guest of a dozen instructions runs as on metal: CPUID must reach the silicon, #UD and a page fault must go through the
guest's own IDT, an I/O write must arrive, and code that is written from outside must be seen.
"""

from __future__ import annotations

import functools
import struct

from hv.silicon.memory import PAGE
from hv.silicon.timing import Timing
from hv.silicon.x86_64.cpu import Shutdown
from hv.silicon.x86_64.cpuid import VENDOR
from hv.silicon.x86_64.layout import SiliconError
from hv.silicon.x86_64.machine import Ended, Machine
from hv.silicon.x86_64.svm import Vmcb

PML4, PDPT, PD, GDT, IDT, TSS, CODE, HANDLERS, STACK = (PAGE * n for n in range(1, 10))
MISSING = 0x40_0000  # a linear address that is not mapped

# xor eax,eax; cpuid; mov esi,ebx; ud2; mov al,[MISSING]; mov edi,0x11111111; mov edx,0x604; mov eax,0x2000; out dx,ax
PROGRAM = (
    bytes.fromhex("31c0 0fa2 89de 0f0b 8a0425")
    + struct.pack("<I", MISSING)
    + bytes.fromhex("bf11111111 ba04060000 b800200000 66ef")
)
PATCH = PROGRAM.index(b"\x11\x11\x11\x11")
# The #UD handler counts in r8 and skips 2 bytes; the #PF handler counts in r9, drops the error code and skips 7.
ON_UD = bytes.fromhex("49ffc0 4883042402 48cf")
ON_PF = bytes.fromhex("49ffc1 4883c408 4883042407 48cf")


def gate(handler: int) -> bytes:
    """A 64-bit interrupt gate to ring 0 (APM vol. 2, 4.8.4)."""
    return struct.pack("<HHBBHII", handler & 0xFFFF, 8, 0, 0x8E, handler >> 16 & 0xFFFF, handler >> 32, 0)


def long_mode(vmcb: Vmcb, entry: int) -> None:
    """Ring 0 in 64-bit mode with the tables above."""
    vmcb.cs.selector, vmcb.cs.attrib, vmcb.cs.limit = 8, 0xA9B, 0xFFFF_FFFF
    for name in ("ss", "ds", "es"):
        segment = getattr(vmcb, name)
        segment.selector, segment.attrib, segment.limit = 16, 0xC93, 0xFFFF_FFFF
    vmcb.tr.attrib, vmcb.tr.limit, vmcb.tr.base = 0x8B, 0x67, TSS
    vmcb.gdtr.base, vmcb.gdtr.limit = GDT, 23
    vmcb.idtr.base, vmcb.idtr.limit = IDT, 0xFFF
    vmcb.cr0, vmcb.cr3, vmcb.cr4, vmcb.efer = 0x8001_0033, PML4, 0x620, 0xD01
    vmcb.rflags, vmcb.rip, vmcb.rsp, vmcb.dr6, vmcb.dr7 = 2, entry, STACK, 0xFFFF_0FF0, 0x400


def write_tables(machine: Machine) -> None:
    """Identity page tables for the first 2 MiB, a GDT, and gates for #UD and #PF."""
    write = machine.memory.write
    for at, value in ((PML4, PDPT | 7), (PDPT, PD | 7), (PD, 0xE7)):
        write(at, struct.pack("<Q", value))
    write(GDT, struct.pack("<QQQ", 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
    write(IDT + 6 * 16, gate(HANDLERS))
    write(IDT + 14 * 16, gate(HANDLERS + 0x100))
    write(HANDLERS, ON_UD)
    write(HANDLERS + 0x100, ON_PF)


@functools.cache
def self_test(timing: Timing, *, portable: bool) -> None:
    """Raises SiliconError with one line when something is not as it must be. Once a process is enough."""
    machine = Machine(timing, 2 << 20, portable=portable)
    machine.build_board(lambda byte: None)
    write_tables(machine)
    cpu = machine.cpus[0]
    for value in (0x11111111, 0x22222222):
        machine.memory.write(CODE, PROGRAM[:PATCH] + struct.pack("<I", value) + PROGRAM[PATCH + 4 :])
        machine.ended = None
        machine.start_on_metal(cpu, lambda vmcb: long_mode(vmcb, CODE))
        regs = machine.engine.state.regs
        regs[8] = regs[9] = 0
        try:
            outcome = machine.run(cpu.now + 10_000_000 * timing.cpi)
        except Shutdown as crash:
            raise SiliconError(f"self-test: {crash}") from None
        regs = machine.engine.state.regs
        seen = (isinstance(outcome, Ended) and outcome.cause, regs[8], regs[9], regs[7], regs[6])
        wanted = ("power-off", 1, 1, value, int.from_bytes(VENDOR[:4], "little"))
        if seen != wanted:
            raise SiliconError(f"self-test of the silicon failed: {seen} instead of {wanted}")
    machine.close()
