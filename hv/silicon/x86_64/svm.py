"""AMD's Secure Virtual Machine: the VMCB and its codes (AMD64 APM vol. 2, chapter 15 and appendices B and C).

Only the fields that Unicorn's SVM knows are named. Offsets are the manual's; the names too, in lower case.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from typing import Any


class VmcbSegment(ctypes.LittleEndianStructure):
    """One segment register in the save area: 16 bytes (APM vol. 2, appendix B, table B-2)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("selector", c_uint16), ("attrib", c_uint16), ("limit", c_uint32), ("base", c_uint64))
    selector: int
    attrib: int
    limit: int
    base: int


# (offset, name, type): control area, table B-1, then state-save area, table B-2.
_VMCB: tuple[tuple[int, str, Any], ...] = (
    (0x000, "intercept_cr_read", c_uint16),
    (0x002, "intercept_cr_write", c_uint16),
    (0x004, "intercept_dr_read", c_uint16),
    (0x006, "intercept_dr_write", c_uint16),
    (0x008, "intercept_exceptions", c_uint32),
    (0x00C, "intercept", c_uint64),
    (0x040, "iopm_base_pa", c_uint64),
    (0x048, "msrpm_base_pa", c_uint64),
    (0x050, "tsc_offset", c_uint64),
    (0x058, "asid", c_uint32),
    (0x05C, "tlb_control", c_uint32),
    (0x060, "int_ctl", c_uint32),
    (0x064, "int_vector", c_uint32),
    (0x068, "int_state", c_uint64),
    (0x070, "exitcode", c_uint64),
    (0x078, "exitinfo1", c_uint64),
    (0x080, "exitinfo2", c_uint64),
    (0x088, "exitintinfo", c_uint32),
    (0x08C, "exitintinfo_err", c_uint32),
    (0x090, "np_enable", c_uint64),
    (0x0A8, "eventinj", c_uint32),
    (0x0AC, "eventinj_err", c_uint32),
    (0x0B0, "n_cr3", c_uint64),
    (0x0E0, "avic_backing_page", c_uint64),
    (0x0F0, "avic_logical_table", c_uint64),
    (0x0F8, "avic_physical_table", c_uint64),
    # Not AMD's: what an Intel VMCS has for virtual and posted interrupts (virtual_apic.py), in a reserved place.
    (0x380, "rvi", c_uint8),
    (0x381, "svi", c_uint8),
    (0x382, "notification_vector", c_uint16),
    (0x384, "apic_controls", c_uint32),
    (0x388, "eoi_exit_bitmap", c_uint64 * 4),
    (0x3A8, "posted_descriptor", c_uint64),
    (0x400, "es", VmcbSegment),
    (0x410, "cs", VmcbSegment),
    (0x420, "ss", VmcbSegment),
    (0x430, "ds", VmcbSegment),
    (0x440, "fs", VmcbSegment),
    (0x450, "gs", VmcbSegment),
    (0x460, "gdtr", VmcbSegment),
    (0x470, "ldtr", VmcbSegment),
    (0x480, "idtr", VmcbSegment),
    (0x490, "tr", VmcbSegment),
    (0x4CB, "cpl", c_uint8),
    (0x4D0, "efer", c_uint64),
    (0x548, "cr4", c_uint64),
    (0x550, "cr3", c_uint64),
    (0x558, "cr0", c_uint64),
    (0x560, "dr7", c_uint64),
    (0x568, "dr6", c_uint64),
    (0x570, "rflags", c_uint64),
    (0x578, "rip", c_uint64),
    (0x5D8, "rsp", c_uint64),
    (0x5F8, "rax", c_uint64),
    (0x600, "star", c_uint64),
    (0x608, "lstar", c_uint64),
    (0x610, "cstar", c_uint64),
    (0x618, "sfmask", c_uint64),
    (0x620, "kernel_gs_base", c_uint64),
    (0x628, "sysenter_cs", c_uint64),
    (0x630, "sysenter_esp", c_uint64),
    (0x638, "sysenter_eip", c_uint64),
    (0x640, "cr2", c_uint64),
    (0x668, "g_pat", c_uint64),
)


def _with_padding() -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = []
    at = 0
    for offset, name, kind in _VMCB:
        if offset > at:
            fields.append((f"_reserved_{at:x}", c_uint8 * (offset - at)))
        fields.append((name, kind))
        at = offset + ctypes.sizeof(kind)
    fields.append((f"_reserved_{at:x}", c_uint8 * (0x1000 - at)))
    return fields


class Vmcb(ctypes.LittleEndianStructure):
    """A virtual machine control block: one 4 KiB page, lying in physical memory.

    The save area is written by a #VMEXIT and read by VMRUN. FS, GS, TR, LDTR and the SYSCALL MSRs are read from it by
    the first VMRUN only (VMLOAD); afterwards they stay in the CPU, as KVM leaves them there too.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = _with_padding()
    intercept_cr_read: int
    intercept_cr_write: int
    intercept_dr_read: int
    intercept_dr_write: int
    intercept_exceptions: int
    intercept: int
    iopm_base_pa: int
    msrpm_base_pa: int
    tsc_offset: int
    asid: int
    tlb_control: int
    int_ctl: int
    int_vector: int
    int_state: int
    exitcode: int
    exitinfo1: int
    exitinfo2: int
    exitintinfo: int
    exitintinfo_err: int
    np_enable: int
    eventinj: Any  # an int; of the class, its descriptor
    eventinj_err: int
    n_cr3: int
    avic_backing_page: int
    avic_logical_table: int
    avic_physical_table: int
    rvi: int
    svi: int
    notification_vector: int
    apic_controls: int
    eoi_exit_bitmap: ctypes.Array[c_uint64]
    posted_descriptor: int
    es: VmcbSegment
    cs: VmcbSegment
    ss: VmcbSegment
    ds: VmcbSegment
    fs: VmcbSegment
    gs: VmcbSegment
    gdtr: VmcbSegment
    ldtr: VmcbSegment
    idtr: VmcbSegment
    tr: VmcbSegment
    cpl: int
    efer: int
    cr4: int
    cr3: int
    cr0: int
    dr7: int
    dr6: int
    rflags: int
    rip: int
    rsp: int
    rax: int
    star: int
    lstar: int
    cstar: int
    sfmask: int
    kernel_gs_base: int
    sysenter_cs: int
    sysenter_esp: int
    sysenter_eip: int
    cr2: int
    g_pat: int


# Exit codes (APM vol. 2, appendix C). The intercept vector's bit i belongs to code 0x60 + i.
CR0_WRITE = 0x010
DR0_READ, DR0_WRITE = 0x020, 0x030
EXCEPTION = 0x040
INTR, NMI, SMI, INIT, VINTR = 0x060, 0x061, 0x062, 0x063, 0x064
TR_WRITE = 0x06D
RDTSC, RDPMC = 0x06E, 0x06F
CPUID, IRET, SWINT = 0x072, 0x074, 0x075
INVD, HLT, INVLPG, INVLPGA, IOIO, MSR, TASK_SWITCH = 0x076, 0x078, 0x079, 0x07A, 0x07B, 0x07C, 0x07D
SHUTDOWN = 0x07F
VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT = 0x080, 0x081, 0x082, 0x083, 0x084, 0x085, 0x086
RDTSCP, ICEBP, WBINVD, MONITOR, MWAIT, MWAIT_ARMED, XSETBV = 0x087, 0x088, 0x089, 0x08A, 0x08B, 0x08C, 0x08D
NPF, INCOMPLETE_IPI, APIC_ACCESS = 0x400, 0x401, 0x402  # the last is AMD's AVIC_NOACCEL
# Not AMD's: an address breakpoint (breakpoints.py); exits of the virtual APIC that come behind an instruction.
BREAKPOINT, APIC_WRITE, VIRTUAL_EOI = 0x500, 0x501, 0x502

# EVENTINJ and EXITINTINFO (APM vol. 2, 15.20): vector in bits 7:0.
EVENT_INTR, EVENT_NMI, EVENT_EXCEPTION, EVENT_SOFT = 0 << 8, 2 << 8, 3 << 8, 4 << 8
EVENT_TYPE, EVENT_HAS_ERROR, EVENT_VALID = 7 << 8, 1 << 11, 1 << 31

# int_ctl (APM vol. 2, 15.21)
V_TPR, V_IRQ, V_IGN_TPR, V_INTR_MASKING = 0xFF, 1 << 8, 1 << 20, 1 << 24

# EXITINFO1 of NPF (APM vol. 2, 15.25.6): a page-fault error code, cut to 32 bits by Unicorn.
NPF_PRESENT, NPF_WRITE, NPF_USER, NPF_FETCH = 1 << 0, 1 << 1, 1 << 2, 1 << 4


def intercepts(*codes: int) -> int:
    """The intercept vector with the bits of these exit codes."""
    value = 0
    for code in codes:
        value |= 1 << (code - INTR)
    return value
