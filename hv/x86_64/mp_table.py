"""The MP configuration table (Intel MultiProcessor Specification 1.4): which CPUs and interrupt controllers there are.

A PC's firmware writes it, and a kernel finds it by its signature. Here the boot loader does, for a kernel that is
started without firmware. Simplified: all IRQs are edge-triggered and active high, as on ISA.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hv.silicon.x86_64.cpuid import SIGNATURE
from hv.silicon.x86_64.pc import IOAPIC_BASE, IRQS, LAPIC_BASE, PIT_IRQ, PIT_PIN

POINTER, TABLE = 0xF_0000, 0xF_0010  # in the BIOS area, where the specification has it searched
PROCESSOR, BUS, IO_APIC, IO_INTERRUPT, LOCAL_INTERRUPT = range(5)
ENABLED, BOOT_CPU = 1, 2
INT, NMI, EXTINT = 0, 1, 3
LAPIC_VERSION, IOAPIC_VERSION = 0x10, 0x11
FPU_AND_APIC = 1 << 0 | 1 << 9
ISA, ALL_LAPICS = 0, 0xFF
CASCADE = 2  # the IRQ that the second 8259 has at the first


def write_mp_table(write: Callable[[int, bytes], None], cpus: int) -> None:
    """Write the floating pointer and the table with write(guest-physical, bytes)."""
    entries = [
        struct.pack(
            "<BBBBIIQ", PROCESSOR, index, LAPIC_VERSION, ENABLED | (BOOT_CPU if not index else 0), SIGNATURE,
            FPU_AND_APIC, 0,
        )
        for index in range(cpus)
    ]  # fmt: skip
    entries.append(struct.pack("<BB6s", BUS, ISA, b"ISA   "))
    entries.append(struct.pack("<BBBBI", IO_APIC, cpus, IOAPIC_VERSION, ENABLED, IOAPIC_BASE))
    entries += [
        struct.pack("<BBHBBBB", IO_INTERRUPT, INT, 0, ISA, irq, cpus, PIT_PIN if irq == PIT_IRQ else irq)
        for irq in range(IRQS)
        if irq != CASCADE
    ]
    entries += [
        struct.pack("<BBHBBBB", LOCAL_INTERRUPT, kind, 0, ISA, 0, ALL_LAPICS, pin)
        for kind, pin in ((EXTINT, 0), (NMI, 1))
    ]
    body = b"".join(entries)
    header = struct.pack(
        "<4sHBB8s12sIHHIHBB", b"PCMP", 44 + len(body), 4, 0, b"HVLADDER", b"PC          ", 0, 0, len(entries),
        LAPIC_BASE, 0, 0, 0,
    )  # fmt: skip
    write(TABLE, _sum_to_zero(header + body, 7))
    write(POINTER, _sum_to_zero(struct.pack("<4sIBBB5x", b"_MP_", TABLE, 1, 4, 0), 10))


def _sum_to_zero(data: bytes, at: int) -> bytes:
    """With the byte at `at` such that all bytes add up to 0 modulo 256."""
    return data[:at] + bytes((-sum(data) & 0xFF,)) + data[at + 1 :]
