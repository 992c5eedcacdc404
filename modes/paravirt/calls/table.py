"""The table of hypercalls, and multicall, which does several in one exit."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from modes.paravirt.abi import EINVAL, ENOSYS, HYPERCALLS, MULTICALL, STUB_SIZE, Refused
from modes.paravirt.abi import IRET as IRET_NUMBER
from modes.paravirt.calls import entry, events, grant_maps, memory, queries, scheduling
from modes.paravirt.calls.again import MOST_ENTRIES, Again
from modes.paravirt.common import XenVcpu

Call = Callable[[Any, list[int]], int]
ENTRY = struct.Struct("<Q8x5Q8x")  # struct multicall_entry: op, result, arguments
MASK = (1 << 64) - 1

CALLS: dict[str, Call] = {
    "set_trap_table": entry.set_trap_table,
    "mmu_update": memory.mmu_update,
    "set_gdt": entry.set_gdt,
    "stack_switch": entry.stack_switch,
    "set_callbacks": entry.set_callbacks,
    "fpu_taskswitch": entry.fpu_taskswitch,
    "platform_op": queries.not_yours,
    "set_debugreg": entry.set_debugreg,
    "get_debugreg": entry.get_debugreg,
    "update_descriptor": entry.update_descriptor,
    "memory_op": memory.memory_op,
    "update_va_mapping": memory.update_va_mapping,
    "set_timer_op": scheduling.set_timer_op,
    "xen_version": queries.xen_version,
    "console_io": queries.console_io,
    "grant_table_op": grant_maps.pv_grant_table_op,
    "vm_assist": queries.vm_assist,
    "update_va_mapping_otherdomain": memory.update_va_mapping_otherdomain,
    "vcpu_op": scheduling.vcpu_op,
    "set_segment_base": entry.set_segment_base,
    "mmuext_op": memory.mmuext_op,
    "nmi_op": queries.not_here,
    "sched_op": scheduling.sched_op,
    "callback_op": entry.callback_op,
    "event_channel_op": events.event_channel_op,
    "physdev_op": entry.physdev_op,
    "hvm_op": queries.not_here,
}


def call(v: XenVcpu, number: int, arguments: list[int], calls: Mapping[str, Call] = CALLS) -> int:
    """One hypercall: its result, or the negative of its error. `calls` are those of this kind of guest."""
    function = calls.get(HYPERCALLS.get(number, ""))
    try:
        if number == MULTICALL:
            return multicall(v, arguments, calls)
        return -ENOSYS if function is None else function(v, arguments)
    except Refused as refused:
        return -refused.errno


def multicall(v: XenVcpu, arguments: list[int], calls: Mapping[str, Call]) -> int:
    """A list of hypercalls, each with a place for its result. An entry that is refused does not stop the others."""
    at, count = arguments[0], arguments[1] & 0xFFFF_FFFF
    for done in range(count):
        here = at + 64 * done
        if v.entries >= MOST_ENTRIES:
            raise Again(here, count - done)
        v.entries += 1
        number, *rest = v.memory.unpack(ENTRY, here)
        if number == MULTICALL:
            result = -EINVAL
        elif number == IRET_NUMBER:
            result = -ENOSYS
        else:
            v.bill(HYPERCALLS.get(number, "unknown"))
            try:
                result = call(v, number, rest, calls)
            except Again as again:  # the entry goes on first thing next time
                v.memory.write(here + 16, struct.pack(f"<{len(again.arguments)}Q", *again.arguments))
                raise Again(here, count - done) from None
        v.memory.write(here + 8, struct.pack("<Q", result & MASK))
    return 0


def hypercall_page() -> bytes:
    """The stubs that the guest calls. Iret is jumped at, and finds a frame on the stack instead of arguments."""
    page = bytearray()
    for number in range(0x1000 // STUB_SIZE):
        if number == IRET_NUMBER:  # push %rcx; push %r11; push %rax; mov $number,%eax; syscall
            stub = b"\x51\x41\x53\x50\xb8" + struct.pack("<I", number) + b"\x0f\x05"
        else:  # push %rcx; push %r11; mov $number,%eax; syscall; pop %r11; pop %rcx; ret
            stub = b"\x51\x41\x53\xb8" + struct.pack("<I", number) + b"\x0f\x05\x41\x5b\x59\xc3"
        page += stub.ljust(STUB_SIZE, b"\xcc")
    return bytes(page)
