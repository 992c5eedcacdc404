"""What INIT and a start-up message leave of a CPU (APM vol. 2, 14.1.3 and table 14-1): real mode, at the page it names.

General registers are not in a VMCB: Cpu.start_over() sets them. The FPU and the MSRs keep what they had, EFER does not.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.silicon.x86_64.cpu import Cpu, Shutdown
from hv.silicon.x86_64.lapic import Lapic
from hv.silicon.x86_64.svm import Vmcb

CODE_16, DATA_16, LDT, BUSY_TSS = 0x09B, 0x093, 0x082, 0x08B
CR0_AFTER_INIT = 0x6000_0010  # caches off, ET
REAL_MODE_LIMIT = 0xFFFF


def startup_state(vmcb: Vmcb, page: int) -> None:
    """The save area of a CPU that begins at physical address `page` * 4096."""
    for name in ("es", "ss", "ds", "fs", "gs"):
        segment = getattr(vmcb, name)
        segment.selector, segment.attrib, segment.limit, segment.base = 0, DATA_16, REAL_MODE_LIMIT, 0
    vmcb.cs.selector, vmcb.cs.attrib, vmcb.cs.limit, vmcb.cs.base = page << 8, CODE_16, REAL_MODE_LIMIT, page << 12
    for table in (vmcb.gdtr, vmcb.idtr, vmcb.ldtr, vmcb.tr):
        table.selector, table.attrib, table.limit, table.base = 0, 0, REAL_MODE_LIMIT, 0
    vmcb.ldtr.attrib, vmcb.tr.attrib = LDT, BUSY_TSS
    vmcb.cr0, vmcb.cr2, vmcb.cr3, vmcb.cr4, vmcb.efer, vmcb.cpl = CR0_AFTER_INIT, 0, 0, 0, 0, 0
    vmcb.dr6, vmcb.dr7 = 0xFFFF_0FF0, 0x400
    vmcb.rflags, vmcb.rip, vmcb.rsp, vmcb.rax = 2, 0, 0, 0
    vmcb.g_pat = 0x0007_0406_0007_0406
    vmcb.eventinj, vmcb.int_state = 0, 0
    vmcb.int_ctl &= ~0xF


def take_startup(cpu: Cpu, lapic: Lapic, start: Callable[[int], None]) -> None:
    """INIT and start-up messages that the local APIC has for its CPU. `start` begins at a page, with the CPU reset.

    Raises Shutdown for CPU 0: its INIT is a reset of the machine. A start-up message that nobody waits for is lost.
    """
    page, lapic.state.startup = lapic.state.startup, None
    if lapic.state.init:
        if not cpu.index:
            raise Shutdown("INIT reached CPU 0: a reset, after which there is nobody who could start it again")
        lapic.reset()
        cpu.wait_for_startup()
    if cpu.waits and page is not None:
        start(page)
