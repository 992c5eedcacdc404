"""The model-specific registers of the silicon (APM vol. 2, appendix A). An unknown one is a #GP, as on hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hv.silicon.x86_64.cpu import Cpu

TSC, APIC_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT = 0x10, 0x1B, 0x174, 0x175, 0x176, 0x277
MTRR_CAP, MTRR_DEFAULT = 0xFE, 0x2FF
EFER, STAR, LSTAR, CSTAR, SFMASK = 0xC000_0080, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX = 0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103

APIC_BASE_VALUE = 0xFEE0_0000 | 1 << 11  # enabled; bit 8 (bootstrap processor) on CPU 0
PAT_VALUE = 0x0007_0406_0007_0406
EFER_WRITABLE = 1 | 1 << 8 | 1 << 11  # SCE LME NXE; SVM is not offered to a guest
EFER_LMA = 1 << 10

_FIELDS = {STAR: "star", LSTAR: "lstar", CSTAR: "cstar", SFMASK: "fmask", KERNEL_GS_BASE: "kernelgsbase"}
_CANONICAL = frozenset((LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE))
_STORED = frozenset((SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT, TSC_AUX, MTRR_DEFAULT))


class BadMsr(Exception):
    """#GP(0): no such MSR, or a value that it does not take."""


def canonical(address: int) -> bool:
    """Bits 63:47 are equal (APM vol. 2, 5.3.1)."""
    return address >> 47 in (0, 0x1FFFF)


def read_msr(cpu: Cpu, number: int) -> int:
    """The value that RDMSR gives."""
    state = cpu.state
    if number in _FIELDS:
        value: int = getattr(state, _FIELDS[number])
        return value
    if number in (FS_BASE, GS_BASE):
        return state.segs[4 + number - FS_BASE].base
    if number == EFER:
        return state.efer & ~(1 << 12)
    if number == TSC:
        return (cpu.tsc() + cpu.vmcb.tsc_offset) & 0xFFFF_FFFF_FFFF_FFFF
    if number == APIC_BASE:
        return APIC_BASE_VALUE | (1 << 8 if cpu.index == 0 else 0)
    if number == MTRR_CAP:
        return 0
    if number in _STORED:
        return cpu.msrs.get(number, PAT_VALUE if number == PAT else 0)
    raise BadMsr


def write_msr(cpu: Cpu, number: int, value: int) -> None:
    """WRMSR. A write to EFER needs the whole world switch, because Unicorn derives hidden state from it."""
    state = cpu.state
    if number in _CANONICAL and not canonical(value):
        raise BadMsr
    if number in _FIELDS:
        setattr(state, _FIELDS[number], value)
    elif number in (FS_BASE, GS_BASE):
        state.segs[4 + number - FS_BASE].base = value
    elif number == EFER:
        if value & ~(EFER_WRITABLE | EFER_LMA):
            raise BadMsr
        paging = state.cr[0] >> 31
        if paging and (value ^ state.efer) >> 8 & 1:
            raise BadMsr  # LME may not change while paging is on
        kept = state.efer & EFER_LMA
        cpu.leave()
        cpu.vmcb.efer = value & EFER_WRITABLE | kept
    elif number == APIC_BASE:
        if value != APIC_BASE_VALUE | (1 << 8 if cpu.index == 0 else 0):
            raise BadMsr  # simplified: the local APIC can be neither moved nor switched off
    elif number == TSC:
        cpu.vmcb.tsc_offset = (value - cpu.tsc()) & 0xFFFF_FFFF_FFFF_FFFF
    elif number in _STORED:
        cpu.msrs[number] = value
    else:
        raise BadMsr
