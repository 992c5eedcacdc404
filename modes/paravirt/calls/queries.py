"""Hypercalls that ask for something, or that hv has in part: xen_version, console_io, vm_assist."""

from __future__ import annotations

import struct

from modes.paravirt.abi import (
    EINVAL,
    ENOSYS,
    EPERM,
    HYPERVISOR_START,
    VMASSISTS,
    XEN_VERSION,
    Refused,
)
from modes.paravirt.common import XenVcpu

# xen_version's answers that are text: command -> (size of the buffer, text)
TEXTS = {1: (16, b".0-hv"), 3: (1024, b"xen-3.0-x86_64"), 4: (64, b"hv"), 9: (1024, b"")}
MOST_CONSOLE = 1024


def xen_version(v: XenVcpu, a: list[int]) -> int:
    command, at = a[0] & 0xFFFF_FFFF, a[1]
    if command == 0:
        return XEN_VERSION
    if command == 2:  # struct xen_compile_info
        v.memory.write(at, struct.pack("<64s16s32s32s", b"zig cc", b"hv", b"example.org", b"2017-11-29"))
    elif command in TEXTS:
        size, text = TEXTS[command]
        v.memory.write(at, text.ljust(size, b"\0"))
    elif command == 5:
        v.memory.write(at, struct.pack("<Q", HYPERVISOR_START))
    elif command == 6:  # struct xen_feature_info
        (submap,) = struct.unpack("<I", v.memory.read(at, 4))
        if submap:
            raise Refused(EINVAL)
        v.memory.write(at + 4, struct.pack("<I", v.domain.features))
    elif command == 7:
        return 0x1000
    elif command == 8:
        v.memory.write(at, bytes(15) + b"\1")  # the domain's UUID
    else:
        raise Refused(ENOSYS)
    return 0


def console_io(v: XenVcpu, a: list[int]) -> int:
    """Text for the hypervisor's console, of which hv has one with the domain's."""
    command, count, at = a[0] & 0xFFFF_FFFF, a[1] & 0xFFFF_FFFF, a[2]
    if command == 1:
        raise Refused(EPERM)  # reading is domain 0's
    if command:
        raise Refused(ENOSYS)
    count = min(count, MOST_CONSOLE)
    v.domain.console_output(v.memory.read(at, count))
    return 0


def vm_assist(v: XenVcpu, a: list[int]) -> int:
    command, kind = a[0] & 0xFFFF_FFFF, a[1] & 0xFFFF_FFFF
    if kind > 63 or not VMASSISTS >> kind & 1:
        raise Refused(EINVAL)
    if command == 0:
        v.domain.assists |= 1 << kind
    elif command == 1:
        v.domain.assists &= ~(1 << kind)
    else:
        raise Refused(ENOSYS)
    return 0


def not_yours(v: XenVcpu, a: list[int]) -> int:
    """Calls of domain 0's."""
    raise Refused(EPERM)


def not_here(v: XenVcpu, a: list[int]) -> int:
    raise Refused(ENOSYS)
