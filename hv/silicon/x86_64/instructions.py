"""Instructions that Unicorn lacks, does differently or cannot time: the CPU does them here, for any guest, as assists.

Each runs at the intercept that the CPU has added to the hypervisor's (cpu.py), after the page of its instruction in the
manual (APM vol. 3), and ends in front of the next instruction or with a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpuid import cpuid
from hv.silicon.x86_64.microcode import NOWHERE
from hv.silicon.x86_64.msr import BadMsr, read_msr, write_msr
from hv.silicon.x86_64.operand import place_of
from hv.silicon.x86_64.state import FS, HF_CS64, HF_LMA, RAX, RCX, RDX
from hv.silicon.x86_64.virtual_apic import X2APIC, X2APIC_MSRS

if TYPE_CHECKING:
    from hv.silicon.x86_64.cpu import Cpu, Exit

UD, GP = 6, 13
CR4_WRITABLE = 0x7FF  # VME to OSXMMEXCPT; what CPUID does not offer is reserved


def rdtsc(cpu: Cpu, exit: Exit) -> None:
    rdtscp = cpu.instruction_bytes(3)[1:3] == b"\x01\xf9"
    cpu.assist("rdtsc", cpu.timing.rdtsc)
    cpu.skip(3 if rdtscp else 2)
    value = (cpu.tsc() + cpu.vmcb.tsc_offset) & 0xFFFF_FFFF_FFFF_FFFF
    cpu.regs[RAX], cpu.regs[RDX] = value & 0xFFFF_FFFF, value >> 32
    if rdtscp:
        cpu.regs[RCX] = read_msr(cpu, 0xC000_0103) & 0xFFFF_FFFF


def answer_cpuid(cpu: Cpu, exit: Exit) -> None:
    cpu.assist("cpuid", cpu.timing.cpuid)
    cpu.regs[0:4] = _cpuid_in_register_order(cpu)
    cpu.skip(2)


def _cpuid_in_register_order(cpu: Cpu) -> list[int]:
    regs = cpu.regs
    leaf, subleaf = regs[RAX] & 0xFFFF_FFFF, regs[RCX] & 0xFFFF_FFFF
    eax, ebx, ecx, edx = cpuid(leaf, cpu.index, cpu.timing, cpu.cpus, subleaf)
    return [eax, ecx, edx, ebx]


def msr(cpu: Cpu, exit: Exit) -> None:
    cpu.assist("msr", cpu.timing.msr)
    regs = cpu.regs
    number = regs[RCX] & 0xFFFF_FFFF
    if cpu.cpl:
        cpu.fault(GP)
        return
    if number in X2APIC_MSRS and cpu.vmcb.apic_controls & X2APIC:
        _x2apic(cpu, number, write=bool(exit.info1))
        return
    try:
        if exit.info1:
            write_msr(cpu, number, (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF)
        else:
            value = read_msr(cpu, number)
            regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
    except BadMsr:
        cpu.fault(GP)
    else:
        cpu.skip(2)


def _x2apic(cpu: Cpu, number: int, *, write: bool) -> None:
    """A register of the virtual APIC, behind an MSR."""
    regs, apic = cpu.regs, cpu.apic
    assert apic is not None
    if not write:
        value = apic.read_msr(number)
        regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
    elif not apic.write_msr(number, (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF):
        cpu.fault(GP)
        return
    cpu.skip(2)


def hlt(cpu: Cpu, exit: Exit) -> None:
    cpu.assist("hlt", 0)
    cpu.skip(1)
    cpu.halted = True


def undefined(cpu: Cpu, exit: Exit) -> None:
    cpu.assist("reserved", 0)
    cpu.fault(UD)


def rdpmc(cpu: Cpu, exit: Exit) -> None:
    cpu.assist("reserved", 0)
    cpu.fault(GP)


def ltr(cpu: Cpu, exit: Exit) -> None:
    """Unicorn takes a null selector here and would abort at the next stack switch (APM vol. 3, LTR)."""
    selector = _ltr_selector(cpu)
    if selector is not None and selector & 0xFFFC == 0:
        cpu.assist("reserved", 0)
        cpu.fault(GP)
        return
    cpu.step()


def _ltr_selector(cpu: Cpu) -> int | None:
    """The operand of the LTR at RIP. None if reading it faults, as the CPU will find out itself.

    Simplified: 0, so #GP, for an address of 16 bits, and when the page of the instruction has gone.
    """
    state, long_code = cpu.state, bool(cpu.state.hflags & HF_CS64)
    place = place_of(cpu.instruction_bytes(cpu.m.length), cpu.regs, state.eip, long_code=long_code)
    if place is None:
        return 0
    if place.register >= 0:
        return cpu.regs[place.register] & 0xFFFF
    flat = long_code and place.segment < FS
    address = place.offset + (0 if flat else state.segs[place.segment].base)
    word = cpu.read_linear(address & (NOWHERE if long_code else 0xFFFF_FFFF), 2)
    return int.from_bytes(word, "little") if len(word) == 2 else None


def cr_write(cpu: Cpu, exit: Exit) -> None:
    """MOV to CR0 or CR4: the checks that Unicorn does not make (APM vol. 2, 3.1.1 and 3.1.3)."""
    cpu.charge(cpu.timing.cr_access)
    value = cpu.moved_value()
    bad = _bad_cr0 if exit.code == svm.CR0_WRITE else _bad_cr4
    if value is not None and bad(cpu, value):  # CLTS and LMSW come here too, and cannot do wrong
        cpu.assist("reserved", 0)
        cpu.fault(GP)
        return
    cpu.step()


def cr8_write(cpu: Cpu, exit: Exit) -> None:
    """MOV to CR8: Unicorn would drop the bits that must be zero (APM vol. 2, 3.1.5)."""
    cpu.charge(cpu.timing.cr8_access)
    value = cpu.moved_value()
    if value is None or value >> 4:
        cpu.assist("reserved", 0)
        cpu.fault(GP)
        return
    cpu.tpr = value
    cpu.skip(cpu.m.length)
    if cpu.apic is not None:
        cpu.apic.set_tpr(value << 4)
    if cpu.m.watch_tpr:
        cpu.m.deadline = 0


def _bad_cr0(cpu: Cpu, value: int) -> bool:
    paging, protected, pae = value >> 31 & 1, value & 1, cpu.state.cr[4] >> 5 & 1
    long_mode_wanted = cpu.state.efer >> 8 & 1
    return bool(
        value >> 32 or (paging and not protected) or (value >> 29 & 3) == 1
        or (paging and long_mode_wanted and not pae) or (not paging and cpu.state.hflags & HF_CS64)
    )  # fmt: skip


def _bad_cr4(cpu: Cpu, value: int) -> bool:
    return bool(value & ~CR4_WRITABLE or (cpu.state.hflags & HF_LMA and not value >> 5 & 1))


def dr7_write(cpu: Cpu, exit: Exit) -> None:
    """Simplified: DR7 keeps its value, but hardware breakpoints never fire."""
    cpu.assist("reserved", 0)
    cpu.state.dr[7] = (cpu.moved_value() or 0) & 0xFFFF_2300 | 0x400
    cpu.skip(cpu.m.length)


_NOT_OFFERED = (
    svm.INVLPGA, svm.VMRUN, svm.VMMCALL, svm.VMLOAD, svm.VMSAVE, svm.STGI, svm.CLGI, svm.SKINIT, svm.MONITOR, svm.MWAIT,
)  # fmt: skip
INSTRUCTIONS: dict[int, Callable[[Cpu, Exit], None]] = {
    svm.RDTSC: rdtsc,
    svm.RDTSCP: rdtsc,
    svm.CPUID: answer_cpuid,
    svm.MSR: msr,
    svm.HLT: hlt,
    svm.TR_WRITE: ltr,
    svm.CR0_WRITE: cr_write,
    svm.CR0_WRITE + 4: cr_write,
    svm.CR0_WRITE + 8: cr8_write,
    svm.RDPMC: rdpmc,
    svm.DR0_WRITE + 7: dr7_write,
    **dict.fromkeys(_NOT_OFFERED, undefined),
}
