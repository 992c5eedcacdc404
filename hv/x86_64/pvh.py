"""The PVH boot protocol (Xen public headers, arch-x86/hvm/start_info.h): what a loader hands to a kernel.

The CPU starts in 32-bit protected mode with paging off, flat segments, and EBX at `struct hvm_start_info`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hv.silicon.x86_64.machine import HOLE, HOLE_END
from hv.silicon.x86_64.svm import Vmcb

START_INFO, MEMORY_MAP, COMMAND_LINE = 0x9000, 0x9100, 0x9200
MAGIC, VERSION = 0x336E_C578, 1
RAM, RESERVED = 1, 2
LOW_END, HIGH_START = 0x9_FC00, 0x10_0000  # below 1 MiB, a PC keeps the end for itself


def write_start_info(write: Callable[[int, bytes], None], ram_size: int, command_line: str) -> int:
    """Write the structures with write(guest-physical, bytes). Returns the address for EBX."""
    ranges = [
        (0, LOW_END, RAM),
        (LOW_END, HIGH_START - LOW_END, RESERVED),
        (HIGH_START, min(ram_size, HOLE) - HIGH_START, RAM),
        (0xFEC0_0000, 0x140_0000, RESERVED),
    ]
    if ram_size > HOLE:
        ranges.append((HOLE_END, ram_size - HOLE, RAM))
    write(MEMORY_MAP, b"".join(struct.pack("<QQII", *entry, 0) for entry in ranges))
    write(COMMAND_LINE, command_line.encode() + b"\0")
    header = struct.pack(
        "<IIIIQQQQII", MAGIC, VERSION, 0, 0, 0, COMMAND_LINE, 0, MEMORY_MAP, len(ranges), 0
    )  # flags, modules, module list, command line, RSDP, memory map
    write(START_INFO, header)
    return START_INFO


def first_state(vmcb: Vmcb, entry: int) -> None:
    """The CPU's state at the entry point. EBX is not in a VMCB and must be set besides."""
    for name in ("ds", "es", "ss", "fs", "gs"):
        segment = getattr(vmcb, name)
        segment.selector, segment.attrib, segment.limit, segment.base = 0x10, 0xC93, 0xFFFF_FFFF, 0
    vmcb.cs.selector, vmcb.cs.attrib, vmcb.cs.limit, vmcb.cs.base = 0x08, 0xC9B, 0xFFFF_FFFF, 0
    vmcb.tr.attrib, vmcb.tr.limit = 0x8B, 0x67
    vmcb.ldtr.attrib = 0x82
    vmcb.cr0, vmcb.rflags, vmcb.rip = 0x11, 2, entry
    vmcb.dr6, vmcb.dr7 = 0xFFFF_0FF0, 0x400
    vmcb.g_pat = 0x0007_0406_0007_0406
