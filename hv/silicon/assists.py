"""The closed table of assists: what real silicon does by itself, and C or Python code does here because Unicorn cannot.

An assist may read and write only what that hardware could. Everything else that acts on a guest is hypervisor code,
runs outside hv/silicon, and only inside one counted exit. The manual is AMD64 Architecture Programmer's Manual (APM)
unless the line says otherwise.
"""

from __future__ import annotations

import msgspec


class Assist(msgspec.Struct, frozen=True):
    id: str
    unit: str  # the hardware unit
    manual: str  # the section that says that the hardware does it
    why: str  # what Unicorn lacks


ASSISTS: dict[str, Assist] = {
    assist.id: assist
    for assist in (
        Assist("syscall", "instruction unit", "APM vol. 3, SYSCALL", "Unicorn calls a hook and does nothing else"),
        Assist("exception", "exception delivery", "APM vol. 2, 8.9 and 8.10", "Unicorn never reads the guest's IDT"),
        Assist("interrupt", "interrupt delivery", "APM vol. 2, 8.9 and 16.6.3", "Unicorn has no interrupt pin"),
        Assist("port_io", "I/O bus", "APM vol. 1, 3.8", "Unicorn has no ports and skips the permission checks"),
        Assist("rdtsc", "time-stamp counter", "APM vol. 3, RDTSC, RDTSCP", "Unicorn returns the host's clock"),
        Assist("cpuid", "instruction unit", "APM vol. 3, CPUID, appendix E", "Unicorn reports features it lacks"),
        Assist("msr", "model-specific registers", "APM vol. 3, RDMSR, WRMSR", "Unicorn ignores unknown MSRs"),
        Assist("hlt", "instruction unit", "APM vol. 3, HLT", "Unicorn ends the emulation instead of waiting"),
        Assist("mmio", "APICs, cards", "APM vol. 2, 16.3; Intel 82093AA", "Unicorn has no chips"),
        Assist("reserved", "instruction unit", "APM vol. 3, the instruction's #UD or #GP", "Unicorn runs it or aborts"),
        Assist("apic_access", "APIC virtualization", "Intel SDM vol. 3, 30.1, 30.4, 30.5", "Unicorn has no local APIC"),
        Assist("virtual_interrupt", "APIC virtualization", "Intel SDM vol. 3, 30.2.2", "nor one for guests"),
        Assist("posted_interrupt", "APIC virtualization", "Intel SDM vol. 3, 30.6", "nor posted interrupts"),
        Assist("timer", "local APIC timer", "APM vol. 2, 16.4.1", "Unicorn has no timers"),
    )
}
