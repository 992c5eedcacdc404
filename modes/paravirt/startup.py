"""How a further vCPU begins: with the registers, tables and entry points of a struct vcpu_guest_context
(public/arch-x86/xen.h), which its domain gives with VCPUOP_initialise and which take effect with VCPUOP_up.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hv.silicon.x86_64.state import RSP
from modes.paravirt.abi import EEXIST, EINVAL, FIRST_RESERVED_GDT_ENTRY, HYPERVISOR_END, HYPERVISOR_START, Refused
from modes.paravirt.frames import Kind
from modes.paravirt.state import Begin, Callback, Trap
from modes.paravirt.vcpu import PvVcpu

# r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi, as numbers of the instruction set
ORDER = (15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7)
USER_REGS = struct.Struct("<15Q8xQH6xQQH38x")  # struct cpu_user_regs: ..., rip, cs, rflags, rsp, ss
TRAP = struct.Struct("<BBH4xQ")
# flags, after the FPU; behind registers and traps: ldt, gdt frames, gdt entries, kernel ss and sp, CR0 to CR7, DR0 to
# DR7, the three callbacks, vm_assist, the bases of FS and of both GS
FLAGS_AT, REGS_AT, TRAPS_AT, REST_AT = 512, 520, 720, 4816
REST = struct.Struct("<2Q16QQ2Q8Q8Q3QQ3Q")
SIZE = REST_AT + REST.size
IN_KERNEL = 1 << 2
FLAG_IF = 1 << 9


class Rest(NamedTuple):
    """What stands behind the traps, cut up."""

    gdt: tuple[int, ...]
    gdt_entries: int
    kernel_sp: int
    control: tuple[int, ...]
    callbacks: tuple[int, ...]
    bases: tuple[int, ...]


def _rest(values: tuple[int, ...]) -> Rest:
    return Rest(values[2:18], values[18], values[20], values[21:29], values[37:40], values[41:44])


def _canonical(*addresses: int) -> None:
    for address in addresses:
        if address >> 47 not in (0, 0x1FFFF) or HYPERVISOR_START <= address < HYPERVISOR_END:
            raise Refused(EINVAL)


def initialise(caller: PvVcpu, v: PvVcpu, at: int) -> None:
    """VCPUOP_initialise: check and take everything, or nothing."""
    if v.s.initialised:
        raise Refused(EEXIST)
    raw = caller.memory.read(at, SIZE)
    (flags,) = struct.unpack_from("<Q", raw, FLAGS_AT)
    *general, rip, cs, rflags, rsp, ss = USER_REGS.unpack_from(raw, REGS_AT)
    rest = _rest(REST.unpack_from(raw, REST_AT))
    traps = {}
    for number in range(256):
        _, trap_flags, selector, address = TRAP.unpack_from(raw, TRAPS_AT + TRAP.size * number)
        if address:
            _canonical(address)
            traps[number] = Trap(trap_flags, selector | 3, address)
    _canonical(rip, *rest.callbacks, *rest.bases)
    if rest.gdt_entries > FIRST_RESERVED_GDT_ENTRY:
        raise Refused(EINVAL)
    _take_memory(v, rest)
    registers = [0] * 16
    for register, value in zip(ORDER, general, strict=True):
        registers[register] = value
    registers[RSP] = rsp
    fs, gs_kernel, gs_user = rest.bases
    s = v.s
    s.kernel_mode = bool(flags & IN_KERNEL)
    s.traps, s.kernel_sp = traps, rest.kernel_sp
    s.event, s.failsafe, s.syscall = (Callback(address, mask=True) for address in rest.callbacks)
    s.other_gs = gs_user if s.kernel_mode else gs_kernel
    gs = gs_kernel if s.kernel_mode else gs_user
    s.begin = Begin(registers, rip, rflags & 0xFD7 | FLAG_IF | 2, cs | 3, ss | 3, fs, gs)
    s.initialised = True


def _take_memory(v: PvVcpu, rest: Rest) -> None:
    """The top-level tables and the descriptor table get their references."""
    d, frames = v.domain, v.domain.frames
    root, user_root = rest.control[3] >> 12, rest.control[1] >> 12
    frames.take_as(root, Kind.L4, d.domid)
    try:
        if user_root:
            frames.take_as(user_root, Kind.L4, d.domid)
        try:
            d.set_gdt(v, list(rest.gdt[: -(-rest.gdt_entries // 512)]), rest.gdt_entries)
        except Refused:
            if user_root:
                frames.drop_as(user_root)
            raise
    except Refused:
        frames.drop_as(root)
        raise
    v.s.root = v.memory.root = root
    v.s.user_root = user_root


def begin(v: PvVcpu) -> None:
    """The first instruction is next. The vCPU's own CPU runs this."""
    b = v.s.begin
    assert b is not None
    v.s.begin = None
    v.first_vmcb()
    vmcb = v.vmcb
    vmcb.rip, vmcb.rsp, vmcb.rax, vmcb.rflags = b.rip, b.registers[RSP], b.registers[0], b.rflags
    vmcb.fs.base, vmcb.gs.base = b.fs_base, b.gs_base
    vmcb.cr3 = (v.s.root if v.s.kernel_mode else v.s.user_root) << 12
    v.cpu.load(vmcb, on_metal=False, deprivileged=True)
    v.cpu.state.regs[:] = b.registers
    v.cpu.halted = False
    v.enter_segments(b.cs, b.ss)
