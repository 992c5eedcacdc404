"""Hypercalls about how the guest's kernel is entered, and what of the CPU it may set."""

from __future__ import annotations

import struct

from modes.paravirt.abi import (
    CALLBACK_EVENT,
    CALLBACK_FAILSAFE,
    CALLBACK_MASK_EVENTS,
    CALLBACK_NMI,
    CALLBACK_SYSCALL,
    CALLBACK_SYSCALL32,
    CALLBACK_SYSENTER,
    CALLBACK_SYSENTER_OLD,
    EINVAL,
    ENOSYS,
    EPERM,
    FIRST_RESERVED_GDT_ENTRY,
    HYPERVISOR_END,
    HYPERVISOR_START,
    PHYSDEV_SET_IOBITMAP,
    PHYSDEV_SET_IOPL,
    SEGBASE_FS,
    SEGBASE_GS_KERNEL,
    SEGBASE_GS_USER,
    SEGBASE_GS_USER_SEL,
    Refused,
)
from modes.paravirt.calls.again import MOST_ENTRIES, U32, Again
from modes.paravirt.descriptors import checked
from modes.paravirt.frames import Kind
from modes.paravirt.state import Callback, Trap
from modes.paravirt.vcpu import PvVcpu

TRAP_INFO = struct.Struct("<BBH4xQ")
REGISTER = struct.Struct("<HH4xQ")  # struct callback_register
DR7 = 7


def canonical(address: int) -> bool:
    return address >> 47 in (0, 0x1FFFF)


def _entry_point(address: int) -> int:
    if not canonical(address):
        raise Refused(EINVAL)
    return address


def set_trap_table(v: PvVcpu, a: list[int]) -> int:
    """A list that a zero address ends; a null pointer takes all traps away."""
    at = a[0]
    if not at:
        v.s.traps = {}
        return 0
    while True:
        if v.entries >= MOST_ENTRIES:
            raise Again(at)
        v.entries += 1
        vector, flags, selector, address = v.memory.unpack(TRAP_INFO, at)
        if not address:
            return 0
        v.s.traps[vector] = Trap(flags, selector | 3, _entry_point(address))
        at += TRAP_INFO.size


def set_callbacks(v: PvVcpu, a: list[int]) -> int:
    event, failsafe, syscall = (_entry_point(address) for address in a[:3])
    v.s.event, v.s.failsafe = Callback(event, mask=True), Callback(failsafe, mask=True)
    v.s.syscall = Callback(syscall, mask=True)
    return 0


def callback_op(v: PvVcpu, a: list[int]) -> int:
    command, s = a[0] & 0xFFFF_FFFF, v.s
    if command == 0:
        kind, flags, address = v.memory.unpack(REGISTER, a[1])
        entry = Callback(_entry_point(address), bool(flags & CALLBACK_MASK_EVENTS))
        if kind == CALLBACK_EVENT:
            s.event = entry._replace(mask=True)
        elif kind == CALLBACK_FAILSAFE:
            s.failsafe = entry
        elif kind == CALLBACK_SYSCALL:
            s.syscall = entry
        elif kind not in (CALLBACK_NMI, CALLBACK_SYSENTER, CALLBACK_SYSENTER_OLD, CALLBACK_SYSCALL32):
            raise Refused(ENOSYS)  # the four are accepted, and never happen here
        return 0
    if command == 1:
        (kind,) = struct.unpack("<H", v.memory.read(a[1], 2))
        if kind in (CALLBACK_NMI, CALLBACK_SYSENTER, CALLBACK_SYSENTER_OLD, CALLBACK_SYSCALL32):
            return 0
        raise Refused(EINVAL if kind in (CALLBACK_EVENT, CALLBACK_FAILSAFE, CALLBACK_SYSCALL) else ENOSYS)
    raise Refused(ENOSYS)


def stack_switch(v: PvVcpu, a: list[int]) -> int:
    """The stack on which the kernel is entered from user programs; its segment is always the flat one."""
    v.s.kernel_sp = a[1]
    return 0


def set_gdt(v: PvVcpu, a: list[int]) -> int:
    entries = a[1] & 0xFFFF_FFFF
    if entries > FIRST_RESERVED_GDT_ENTRY:
        raise Refused(EINVAL)
    count = -(-entries // 512)
    frames = struct.unpack(f"<{count}Q", v.memory.read(a[0], 8 * count))
    v.domain.set_gdt(v, list(frames), entries)
    v.flush = True
    return 0


def update_descriptor(v: PvVcpu, a: list[int]) -> int:
    address, descriptor = a[0], a[1]
    d = v.domain
    if address & 7:
        raise Refused(EINVAL)
    descriptor = checked(descriptor)
    mfn = address >> 12
    i = d.frames.index(mfn)
    in_use = i >= 0 and d.frames.types[i] and d.frames.kind[i] == Kind.DESCRIPTORS
    d.frames.take_as(mfn, Kind.DESCRIPTORS if in_use else Kind.WRITABLE, d.domid)
    d.memory.write_u64(address, descriptor)
    d.frames.drop_as(mfn)
    return 0


def set_segment_base(v: PvVcpu, a: list[int]) -> int:
    which, base = a[0] & 0xFFFF_FFFF, a[1]
    if which == SEGBASE_GS_USER_SEL:
        if base & 0xFFFC:
            raise Refused(EINVAL)  # simplified: only the null selector
        v.s.other_gs = 0
        return 0
    if which > SEGBASE_GS_KERNEL or not canonical(base):
        raise Refused(EINVAL)
    if which == SEGBASE_FS:
        v.set_fs_base(base)
    elif which == SEGBASE_GS_USER:
        v.s.other_gs = base
    else:
        v.gs_base = base
    return 0


def fpu_taskswitch(v: PvVcpu, a: list[int]) -> int:
    v.set_task_switched(bool(a[0]))
    return 0


def set_debugreg(v: PvVcpu, a: list[int]) -> int:
    """Kept, but breakpoints never fire (cpu.py). Addresses of Xen's are refused."""
    number, value = a[0] & 0xFFFF_FFFF, a[1]
    if number > DR7 or number in (4, 5):
        raise Refused(EINVAL)
    if number < 4 and HYPERVISOR_START <= value < HYPERVISOR_END:
        raise Refused(EPERM)
    if number >= 6 and value >> 32:
        raise Refused(EPERM)
    v.s.debug[number] = value
    return 0


def get_debugreg(v: PvVcpu, a: list[int]) -> int:
    number = a[0] & 0xFFFF_FFFF
    if number > DR7 or number in (4, 5):
        raise Refused(EINVAL)
    return v.s.debug[number]


def physdev_op(v: PvVcpu, a: list[int]) -> int:
    command = a[0] & 0xFFFF_FFFF
    if command == PHYSDEV_SET_IOPL:
        (iopl,) = v.memory.unpack(U32, a[1])
        if iopl > 3:
            raise Refused(EINVAL)
        v.s.iopl = iopl
        return 0
    if command == PHYSDEV_SET_IOBITMAP:
        return 0  # it could only open ports that the domain has not
    raise Refused(EPERM if command < 32 else ENOSYS)  # the others are for domains with devices
