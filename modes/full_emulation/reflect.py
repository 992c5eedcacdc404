"""Exceptions, interrupts and system calls, delivered into the guest as its own CPU would: IDT, TSS, MSRs, stack.

The real CPU has vectored to the hypervisor. What it would have done without one is done here by hand, with the
guest's tables (APM vol. 2, 8.9 for long mode; 8.2.9 for a fault in the delivery of another).
"""

from __future__ import annotations

from hv.silicon.x86_64.cpu import EVENT_ERROR_VECTORS, Shutdown
from hv.silicon.x86_64.state import RCX
from modes.full_emulation.core import Core
from modes.full_emulation.state import (
    CS,
    FLAG_IF,
    FLAG_IOPL,
    FLAG_NT,
    FLAG_RF,
    FLAG_TF,
    FLAG_VM,
    SS,
)
from modes.shadow.registers import EFER_SCE, GuestFault

DE, DB, UD, DF, TS, NP, SS_VECTOR, GP, PF = 0, 1, 6, 8, 10, 11, 12, 13, 14
CONTRIBUTORY = frozenset((DE, TS, NP, SS_VECTOR, GP))
INTERRUPT_GATE, TRAP_GATE = 0xE, 0xF
PRESENT, CODE, CONFORMING, LONG, DEFAULT_32 = 1 << 47, 1 << 43, 1 << 42, 1 << 53, 1 << 54
R11 = 11


def deliver(core: Core, vector: int, error: int = 0, *, external: bool = False) -> None:
    """Deliver one event, or what becomes of it."""
    rip = core.cpu.rip
    while True:
        try:
            _through_gate(core, vector, error, rip, soft=False, external=external)
            return
        except GuestFault as fault:
            if fault.address is not None:
                core.v.cr2 = fault.address
            if vector == DF and not external:
                raise Shutdown(
                    "triple fault: an exception could not be delivered, and neither could the double fault"
                ) from None
            first = None if external else vector
            doubled = (first in CONTRIBUTORY and fault.vector in CONTRIBUTORY) or (
                first == PF and (fault.vector in CONTRIBUTORY or fault.vector == PF)
            )
            vector, error = (DF, 0) if doubled else (fault.vector, fault.error)
            external = False


def software_interrupt(core: Core, vector: int, length: int) -> None:
    """INT n, INT3: the frame shows the instruction behind it, a refusal the instruction itself."""
    start = core.cpu.rip
    try:
        _through_gate(core, vector, 0, start + length, soft=True, external=False)
        core.cpu.m.retired += 1
    except GuestFault as fault:
        if fault.address is not None:
            core.v.cr2 = fault.address
        deliver(core, fault.vector, fault.error)


def _through_gate(core: Core, vector: int, error: int, rip: int, *, soft: bool, external: bool) -> None:
    """APM vol. 2, 8.9. Nothing has changed when this raises GuestFault."""
    v, cpu = core.v, core.cpu
    if not v.long_mode:
        raise Shutdown(f"vector {vector} before long mode, which hv does not emulate here, at RIP {cpu.rip:#x}")
    base, limit = v.idt
    source = 0 if soft else 1
    if 16 * vector + 15 > limit:
        raise GuestFault(GP, vector * 8 + 2 | source)
    gate = core.read_int(base + 16 * vector, 16, system=True)
    rights = gate >> 40 & 0xFF
    if rights & 0x1F not in (INTERRUPT_GATE, TRAP_GATE) or (soft and rights >> 5 & 3 < v.cpl):
        raise GuestFault(GP, vector * 8 + 2 | source)
    if not rights & 0x80:
        raise GuestFault(NP, vector * 8 + 2 | source)
    selector = gate >> 16 & 0xFFFF
    if not selector & 0xFFFC:
        raise GuestFault(GP)
    descriptor = core.descriptor(selector)
    dpl = descriptor >> 45 & 3
    if not (descriptor >> 44 & 1 and descriptor & CODE) or dpl > v.cpl:
        raise GuestFault(GP, selector & 0xFFFC)
    if not descriptor & PRESENT:
        raise GuestFault(NP, selector & 0xFFFC)
    if not descriptor & LONG or descriptor & DEFAULT_32:
        raise GuestFault(GP, selector & 0xFFFC)
    target = gate & 0xFFFF | gate >> 32 & 0xFFFF_0000 | gate >> 32 & 0xFFFF_FFFF_0000_0000
    inward = dpl < v.cpl and not descriptor & CONFORMING
    ist = gate >> 32 & 7
    cpl = dpl if inward else v.cpl
    stack = cpu.rsp
    if ist:
        stack = core.read_int(v.tr[1] + 0x1C + 8 * ist, 8, system=True)
    elif inward:
        stack = core.read_int(v.tr[1] + 4 + 8 * dpl, 8, system=True)
    stack &= ~0xF
    flags = core.flags
    words = [v.selectors[SS], cpu.rsp, flags, v.selectors[CS], rip]
    if vector in EVENT_ERROR_VECTORS and not soft and not external:
        words.append(error)
    old = v.cpl
    v.cpl = cpl
    try:
        for word in words:
            stack -= 8
            core.push(stack & (1 << 64) - 1, 8, word)
    except GuestFault:
        v.cpl = old
        raise
    if inward or ist:
        v.selectors[SS] = cpl
    cpu.rsp = stack & (1 << 64) - 1
    core.enter_code(selector, descriptor, cpl)
    keep = flags & ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM)
    core.flags = keep & ~FLAG_IF if rights & 1 == 0 else keep
    cpu.rip = target


def system_call(core: Core, length: int) -> None:
    """SYSCALL (APM vol. 3)."""
    v, cpu = core.v, core.cpu
    if not v.efer & EFER_SCE:
        raise GuestFault(UD)
    state = cpu.state
    flags = core.flags
    cpu.regs[RCX] = cpu.rip + length
    cpu.regs[R11] = flags & ~FLAG_RF
    target = state.lstar if v.long_code else state.cstar
    selector = state.star >> 32 & 0xFFFC
    v.selectors[CS], v.selectors[SS] = selector, selector + 8
    v.cpl, v.long_code = 0, True
    core.flags = flags & ~(state.fmask & 0xFFFF_FFFF | FLAG_RF)
    cpu.rip = target
    cpu.m.retired += 1


def system_return(core: Core, *, wide: bool) -> None:
    """SYSRET (APM vol. 3); `wide` returns to 64-bit code."""
    v, cpu = core.v, core.cpu
    if not v.efer & EFER_SCE:
        raise GuestFault(UD)
    if v.cpl:
        raise GuestFault(GP)
    selector = cpu.state.star >> 48 & 0xFFFC
    v.selectors[CS], v.selectors[SS] = (selector + (16 if wide else 0)) | 3, (selector + 8) | 3
    v.cpl, v.long_code = 3, wide
    core.flags = cpu.regs[R11] & 0x3C_7FD7 & ~(FLAG_RF | FLAG_VM) | 2
    cpu.rip = cpu.regs[RCX] if wide else cpu.regs[RCX] & 0xFFFF_FFFF
    cpu.m.retired += 1


def interrupt_return(core: Core, size: int) -> None:
    """IRET with operands of `size` bytes (APM vol. 3). Nothing but `in_nmi` has changed when this raises GuestFault."""
    v, cpu = core.v, core.cpu
    v.in_nmi = False
    flags = core.flags
    if flags & FLAG_NT:
        raise GuestFault(GP)
    stack = cpu.rsp
    rip, selector, new = (core.read_stack(stack + size * i, size) for i in range(3))
    selector &= 0xFFFF
    if not selector & 0xFFFC:
        raise GuestFault(GP)
    descriptor = core.descriptor(selector)
    rpl, dpl = selector & 3, descriptor >> 45 & 3
    if not (descriptor >> 44 & 1 and descriptor & CODE) or rpl < v.cpl:
        raise GuestFault(GP, selector & 0xFFFC)
    if dpl > rpl if descriptor & CONFORMING else dpl != rpl:
        raise GuestFault(GP, selector & 0xFFFC)
    if not descriptor & PRESENT:
        raise GuestFault(NP, selector & 0xFFFC)
    if rpl == v.cpl and not v.long_code:
        rsp, ss = stack + 3 * size, v.selectors[SS]
    else:
        rsp, ss = (core.read_stack(stack + size * i, size) for i in (3, 4))
        ss &= 0xFFFF
        _check_stack_segment(core, ss, rpl, long_target=bool(descriptor & LONG))
    if descriptor & LONG and rip >> 47 not in (0, 0x1FFFF):
        raise GuestFault(GP)
    changeable = 0x24_4DD5 | FLAG_RF  # ID AC NT OF DF TF SF ZF AF PF CF
    if v.cpl == 0:
        changeable |= FLAG_IOPL
    if v.cpl <= v.iopl:
        changeable |= FLAG_IF
    if size == 2:
        changeable &= 0xFFFF
    cpu.rsp = rsp
    v.selectors[SS] = ss
    outward = rpl > v.cpl
    core.enter_code(selector, descriptor, rpl)
    core.flags = flags & ~changeable | new & changeable
    cpu.rip = rip
    if outward:
        _drop_privileged_segments(core)
    cpu.m.retired += 1


def _check_stack_segment(core: Core, ss: int, rpl: int, *, long_target: bool) -> None:
    if not ss & 0xFFFC:
        if not long_target or rpl == 3:
            raise GuestFault(GP)
        return
    descriptor = core.descriptor(ss)
    writable_data = descriptor >> 44 & 1 and not descriptor & CODE and descriptor >> 41 & 1
    if ss & 3 != rpl or not writable_data or descriptor >> 45 & 3 != rpl:
        raise GuestFault(GP, ss & 0xFFFC)
    if not descriptor & PRESENT:
        raise GuestFault(NP, ss & 0xFFFC)


def _drop_privileged_segments(core: Core) -> None:
    """A return to an outer ring makes the inner ring's data segments null."""
    v = core.v
    for index in (0, 3, 4, 5):
        selector = v.selectors[index]
        if selector & 0xFFFC:
            try:
                dpl = core.descriptor(selector) >> 45 & 3
            except GuestFault:
                dpl = 0
            if dpl < v.cpl:
                v.selectors[index] = 0
