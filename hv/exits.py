"""The one table of exit reasons. The ledger, the command line, the docs and the tests all read it.

An exit is every transfer of control from a guest to hypervisor software. Each has exactly one reason.
"""

from __future__ import annotations

import msgspec


class Reason(msgspec.Struct, frozen=True):
    id: str
    amd: str  # what AMD calls the event
    intel: str  # the Intel equivalent
    meaning: str


REASONS: dict[str, Reason] = {
    reason.id: reason
    for reason in (
        Reason("cpuid", "VMEXIT_CPUID", "CPUID exit", "the guest asked what CPU it has"),
        Reason("cr8_write", "VMEXIT_CR8_WRITE", "TPR below threshold", "an interrupt waited for a lower task priority"),
        Reason("external_interrupt", "VMEXIT_INTR", "external interrupt", "a physical interrupt, while the guest ran"),
        Reason("hlt", "VMEXIT_HLT", "HLT exit", "the guest has nothing to do"),
        Reason("interrupt_window", "VMEXIT_VINTR", "interrupt window", "the guest takes interrupts again, one waits"),
        Reason("invalid_opcode", "VMEXIT_VMRUN and the like", "VMX instruction", "an SVM instruction in a guest"),
        Reason("ioio", "VMEXIT_IOIO", "I/O instruction", "an access to an emulated port"),
        Reason("mmio", "VMEXIT_NPF", "EPT misconfiguration", "an access to an emulated device's registers in memory"),
        Reason("msr", "VMEXIT_MSR", "RDMSR, WRMSR", "a model-specific register that the hypervisor keeps"),
        Reason("npf", "VMEXIT_NPF", "EPT violation", "the first touch of a guest-physical page: it is backed now"),
        Reason("shutdown", "VMEXIT_SHUTDOWN", "triple fault", "the guest's CPU gave up"),
        Reason("vmmcall", "VMEXIT_VMMCALL", "VMCALL", "a hypercall"),
    )
}
