"""Privileged instructions that Xen executes for a guest's kernel, because old kernels use them (pv/emul-priv-op.c).

They fault at ring 3; Xen decodes them. What is not here, or not allowed, is a general-protection fault for the guest.
Simplified: ports are never there (reads give all ones), and string forms of IN and OUT are not emulated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capstone import x86

from hv.silicon.x86_64.msr import CSTAR, EFER, FS_BASE, GS_BASE, KERNEL_GS_BASE, LSTAR, PAT, PAT_VALUE, SFMASK, STAR
from hv.silicon.x86_64.state import RAX, RCX, RDX
from hv.x86_64.decode import read_register, write_register
from modes.paravirt.abi import VMASST_ARCHITECTURAL_IOPL, Refused
from modes.paravirt.calls.entry import canonical
from modes.paravirt.calls.memory import new_base
from modes.paravirt.calls.scheduling import block
from modes.paravirt.calls.table import hypercall_page
from modes.paravirt.events import CR2
from modes.paravirt.frames import Kind
from modes.paravirt.vcpu import CR0, CR0_TS, CR4, PvVcpu

if TYPE_CHECKING:
    import capstone

HYPERCALL_PAGE_MSR = 0x4000_0000
CONTROL = {x86.X86_REG_CR0: 0, x86.X86_REG_CR2: 2, x86.X86_REG_CR3: 3, x86.X86_REG_CR4: 4}
IO = frozenset((x86.X86_INS_IN, x86.X86_INS_OUT))


def io_allowed(v: PvVcpu) -> bool:
    """May the guest use IN, OUT, CLI and STI, in the mode that it is in?"""
    if v.s.kernel_mode:
        return v.s.iopl >= (0 if v.domain.assists >> VMASST_ARCHITECTURAL_IOPL & 1 else 1)
    return v.s.iopl == 3


def emulate(v: PvVcpu, instruction: capstone.CsInsn) -> str | None:
    """Execute it and return the exit's reason; None: it faults."""
    kind = instruction.id
    reason = _port(v, instruction) if kind in IO else _KERNEL[kind](v, instruction) if _known(v, kind) else None
    if reason is not None:
        v.cpu.skip(instruction.size)
    return reason


def _known(v: PvVcpu, kind: int) -> bool:
    return v.s.kernel_mode and kind in _KERNEL


def _port(v: PvVcpu, instruction: capstone.CsInsn) -> str | None:
    """No port is there for a domain without devices."""
    if not io_allowed(v):
        return None
    if instruction.id == x86.X86_INS_IN:
        write_register(v.cpu, instruction.reg_name(instruction.operands[0].reg), 0xFFFF_FFFF)
    return "ioio"


def _interrupt_flag(v: PvVcpu, instruction: capstone.CsInsn) -> str | None:
    """CLI and STI are allowed and do nothing: the mask is in vcpu_info."""
    return "privileged" if io_allowed(v) else None


def _hlt(v: PvVcpu, instruction: capstone.CsInsn) -> str:
    block(v)
    return "hlt"


def _nothing(v: PvVcpu, instruction: capstone.CsInsn) -> str:
    return "privileged"


def _invlpg(v: PvVcpu, instruction: capstone.CsInsn) -> str:
    v.flush_tlb(one_page=True)
    return "invlpg"


def _clts(v: PvVcpu, instruction: capstone.CsInsn) -> str:
    v.set_task_switched(False)
    return "cr_access"


def _move(v: PvVcpu, instruction: capstone.CsInsn) -> str | None:
    """MOV from and to CR0, CR2, CR3, CR4."""
    target, source = instruction.operands
    if x86.X86_OP_REG not in (target.type, source.type):
        return None
    if source.reg in CONTROL:
        write_register(v.cpu, instruction.reg_name(target.reg), _read_control(v, CONTROL[source.reg]))
        return "cr_access"
    if target.reg in CONTROL:
        value = read_register(v.cpu, instruction.reg_name(source.reg))
        return "cr_access" if _write_control(v, CONTROL[target.reg], value) else None
    return None


def _read_control(v: PvVcpu, number: int) -> int:
    return {
        0: CR0 | (CR0_TS if v.s.task_switched else 0),
        2: v.domain.memory.read_u64(v.s.info + CR2),
        3: v.s.root << 12,
        4: CR4,
    }[number]


def _write_control(v: PvVcpu, number: int, value: int) -> bool:
    """CR0 may change in TS only, CR4 not at all; CR3 takes a checked table. False: it faults."""
    if number == 0:
        if (value ^ CR0) & ~CR0_TS:
            return False
        v.set_task_switched(bool(value & CR0_TS))
    elif number == 2:
        v.domain.memory.write_u64(v.s.info + CR2, value)
    elif number == 3:
        try:
            new_base(v, value >> 12 & 0xFF_FFFF_FFFF)
        except Refused:
            return False
    else:
        return value == CR4
    return True


def _rdmsr(v: PvVcpu, instruction: capstone.CsInsn) -> str | None:
    number = v.cpu.regs[RCX] & 0xFFFF_FFFF
    values = {
        FS_BASE: v.cpu.state.segs[4].base, GS_BASE: v.gs_base, KERNEL_GS_BASE: v.s.other_gs, EFER: 0xD01,
        PAT: PAT_VALUE, STAR: 0, LSTAR: 0, CSTAR: 0, SFMASK: 0,
    }  # fmt: skip
    if number not in values:
        return None
    v.cpu.regs[RAX], v.cpu.regs[RDX] = values[number] & 0xFFFF_FFFF, values[number] >> 32
    return "msr"


def _wrmsr(v: PvVcpu, instruction: capstone.CsInsn) -> str | None:
    regs = v.cpu.regs
    number, value = regs[RCX] & 0xFFFF_FFFF, (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF
    if number == HYPERCALL_PAGE_MSR:
        frames, mfn = v.domain.frames, value >> 12
        try:
            frames.take_as(mfn, Kind.WRITABLE, v.domain.domid)
        except Refused:
            return None
        v.domain.memory.write(mfn << 12, hypercall_page())
        frames.drop_as(mfn)
        return "msr"
    if not canonical(value):
        return None
    if number == FS_BASE:
        v.set_fs_base(value)
    elif number == GS_BASE:
        v.gs_base = value
    elif number == KERNEL_GS_BASE:
        v.s.other_gs = value
    else:
        return None
    return "msr"


_KERNEL = {
    x86.X86_INS_CLI: _interrupt_flag,
    x86.X86_INS_STI: _interrupt_flag,
    x86.X86_INS_HLT: _hlt,
    x86.X86_INS_WBINVD: _nothing,
    x86.X86_INS_INVLPG: _invlpg,
    x86.X86_INS_CLTS: _clts,
    x86.X86_INS_MOV: _move,
    x86.X86_INS_RDMSR: _rdmsr,
    x86.X86_INS_WRMSR: _wrmsr,
}
