"""Descriptor tables of a PV guest: a descriptor may open nothing that ring 3 does not have.

The CPU uses the guest's own frames, mapped in Xen's part of the address space, so each descriptor is checked before.
What is not present is harmless. Code and data segments get privilege level 3 if they ask for more; of the system
segments only call gates may stay, and Xen makes those fault (arch/x86/pv/descriptor-tables.c).
Simplified: no call gates and no local descriptor table.
"""

from __future__ import annotations

import struct

from hv.silicon.memory import Memory
from modes.paravirt.abi import EINVAL, Refused

DESCRIPTOR_PRESENT, NOT_SYSTEM = 1 << 47, 1 << 44
TYPE, DPL = 0xF << 40, 3 << 45
WRITABLE_OR_READABLE, CODE, LONG, BIG = 1 << 41, 1 << 43, 1 << 53, 1 << 54
# Page 14 of every GDT, Xen's own: descriptors 4 to 6 are the flat segments 0xE023, 0xE02B and 0xE033.
XEN_PAGE = struct.pack("<7Q", 0, 0, 0, 0, 0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF)


def checked(descriptor: int) -> int:
    """The descriptor as it may stand in a table, or Refused(EINVAL)."""
    if not descriptor & DESCRIPTOR_PRESENT:
        return descriptor
    if descriptor & NOT_SYSTEM:
        return descriptor | DPL if descriptor & DPL != DPL else descriptor
    if descriptor & TYPE:
        raise Refused(EINVAL)
    return descriptor


def check_page(memory: Memory, mfn: int) -> None:
    """A frame becomes a page of descriptors."""
    page = memory.read(mfn << 12, 0x1000)
    fixed = struct.pack("<512Q", *(checked(value) for value in struct.unpack("<512Q", page)))
    if fixed != page:
        memory.write(mfn << 12, fixed)
