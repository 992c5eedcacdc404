"""The virtual CPU: what the guest believes its CPU to be, where that differs from the real one.

The real CPU runs the guest at ring 3 all the time. General registers, RIP, the arithmetic flags, the bases of FS and
GS and the MSRs of SYSCALL are in the real CPU (SYSCALL itself is off there, so the guest's values do no harm).
Everything that has to do with privilege is here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from modes.shadow.registers import PagingRegisters

ES, CS, SS, DS, FS, GS = range(6)
# Bits that the real CPU has as the guest wants them, so that FPU instructions fault by themselves:
CR0_REAL = 0x2E  # MP, EM, TS and NE
CR4_REAL = 0x600  # OSFXSR and OSXMMEXCPT
FLAG_TF, FLAG_IF, FLAG_NT, FLAG_RF, FLAG_VM = 1 << 8, 1 << 9, 1 << 14, 1 << 16, 1 << 17
FLAG_IOPL = 3 << 12


class VirtualCpu(PagingRegisters):
    """A plain record, so that a snapshot holds it."""

    cr2: int = 0
    dr: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400])
    cpl: int = 0
    interrupts: bool = False  # IF
    iopl: int = 0
    shadow: int = -1  # RIP of the instruction before which no interrupt may come (after STI, MOV SS)
    selectors: list[int] = msgspec.field(default_factory=lambda: [0] * 6)
    long_code: bool = False  # CS.L
    in_nmi: bool = False  # until IRET no other NMI comes
    gdt: tuple[int, int] = (0, 0)  # base, limit
    idt: tuple[int, int] = (0, 0)
    ldt: tuple[int, int, int] = (0, 0, 0)  # selector, base, limit
    tr: tuple[int, int, int] = (0, 0, 0)

    def adopt(self, vmcb: Any) -> None:
        """Take the state that a VMCB's save area describes."""
        self.cr0, self.cr2, self.cr3, self.cr4, self.efer = (
            vmcb.cr0,
            vmcb.cr2,
            vmcb.cr3,
            vmcb.cr4,
            vmcb.efer & ~(1 << 12),
        )
        self.dr[6], self.dr[7] = vmcb.dr6, vmcb.dr7
        self.cpl, self.interrupts, self.iopl = vmcb.cpl, bool(vmcb.rflags & FLAG_IF), vmcb.rflags >> 12 & 3
        self.selectors = [getattr(vmcb, name).selector for name in ("es", "cs", "ss", "ds", "fs", "gs")]
        self.long_code = bool(vmcb.cs.attrib & 0x200)
        self.gdt, self.idt = (vmcb.gdtr.base, vmcb.gdtr.limit), (vmcb.idtr.base, vmcb.idtr.limit)
        self.ldt = vmcb.ldtr.selector, vmcb.ldtr.base, vmcb.ldtr.limit
        self.tr = vmcb.tr.selector, vmcb.tr.base, vmcb.tr.limit
