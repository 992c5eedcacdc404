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


def _hypercall(name: str, meaning: str) -> Reason:
    """A hypercall of a PV domain: SYSCALL from a kernel at ring 3 (Xen public headers, xen.h)."""
    return Reason(f"hypercall.{name}", "SYSCALL", "SYSCALL", meaning)


REASONS: dict[str, Reason] = {
    reason.id: reason
    for reason in (
        Reason("apic_access", "VMEXIT_AVIC_NOACCEL", "APIC access", "a register of the APIC that is not virtualized"),
        Reason("apic_write", "VMEXIT_AVIC_NOACCEL", "APIC write", "an APIC register with an effect: timer, command"),
        Reason("cli", "#GP of CLI", "#GP of CLI", "a deprivileged kernel switched interrupts off"),
        Reason("code_write", "#PF of a write", "#PF of a write", "a write to code that had been searched"),
        Reason("cr_access", "VMEXIT_CR3_WRITE, #GP", "MOV CR, #GP", "a control register that the hypervisor keeps"),
        Reason("cpuid", "VMEXIT_CPUID", "CPUID exit", "the guest asked what CPU it has"),
        Reason("cr8_write", "VMEXIT_CR8_WRITE", "TPR below threshold", "an interrupt waited for a lower task priority"),
        Reason(
            "descriptor_table",
            "#GP of LGDT and the like",
            "#GP of LGDT",
            "GDTR, IDTR, LDTR or TR, deprivileged",
        ),
        Reason("exception_bounce", "an exception", "an exception", "an exception that the guest's kernel must handle"),
        Reason("external_interrupt", "VMEXIT_INTR", "external interrupt", "a physical interrupt, while the guest ran"),
        Reason("false_trap", "address breakpoint", "address breakpoint", "it was no sensitive instruction"),
        Reason("guest_page_fault", "#PF", "#PF", "a page fault that the guest's kernel must handle"),
        Reason("hlt", "VMEXIT_HLT", "HLT exit", "the guest has nothing to do"),
        _hypercall("callback_op", "an entry point of the guest's kernel is registered"),
        _hypercall("console_io", "text for the hypervisor's console"),
        _hypercall("event_channel_op", "an event is sent, or a channel made or closed"),
        _hypercall("fpu_taskswitch", "the FPU is to fault at its next use, or not"),
        _hypercall("get_debugreg", "a debug register is read"),
        _hypercall("grant_table_op", "where the grant table is, or a copy or mapping by a grant"),
        _hypercall("hvm_op", "for guests that are no PV domain"),
        _hypercall("iret", "the guest's kernel goes back to what it was entered from"),
        _hypercall("memory_op", "frames are given back or asked for"),
        _hypercall("mmu_update", "page-table entries, checked and written"),
        _hypercall("mmuext_op", "tables are pinned or loaded, the TLB is flushed"),
        _hypercall("multicall", "several hypercalls in one exit"),
        _hypercall("nmi_op", "an entry point for NMIs"),
        _hypercall("physdev_op", "the I/O privilege level"),
        _hypercall("platform_op", "for domain 0"),
        _hypercall("sched_op", "the vCPU waits, or the domain ends"),
        _hypercall("set_callbacks", "the entry points for events and system calls"),
        _hypercall("set_debugreg", "a debug register is written"),
        _hypercall("set_gdt", "frames become the descriptor table, checked"),
        _hypercall("set_segment_base", "the base of FS or GS"),
        _hypercall("set_timer_op", "the time of the next timer event"),
        _hypercall("set_trap_table", "the entry points for exceptions"),
        _hypercall("stack_switch", "the stack on which the kernel is entered"),
        _hypercall("unknown", "a number that is no hypercall"),
        _hypercall("update_descriptor", "one descriptor, checked and written"),
        _hypercall("update_va_mapping", "the page-table entry of an address, checked and written"),
        _hypercall("update_va_mapping_otherdomain", "the same for another domain, if it may"),
        _hypercall("vcpu_op", "a vCPU is started, stopped or asked about"),
        _hypercall("vm_assist", "a compatibility mode is switched"),
        _hypercall("xen_version", "what hypervisor this is"),
        Reason(
            "incomplete_ipi", "VMEXIT_AVIC_INCOMPLETE_IPI", "APIC write", "an interrupt to a vCPU that does not run"
        ),
        Reason("int_bounce", "VMEXIT_SWINT", "INT n", "a software interrupt of a deprivileged guest"),
        Reason("interrupt_window", "VMEXIT_VINTR", "interrupt window", "the guest takes interrupts again, one waits"),
        Reason("invalid_opcode", "VMEXIT_VMRUN and the like", "VMX instruction", "an SVM instruction in a guest"),
        Reason("invlpg", "VMEXIT_INVLPG, #GP", "INVLPG, #GP", "the guest flushed a shadowed page from the TLB"),
        Reason("ioio", "VMEXIT_IOIO", "I/O instruction", "an access to an emulated port"),
        Reason("iret", "#GP of IRET", "#GP of IRET", "a deprivileged kernel returned from a trap"),
        Reason("lookup_miss", "call-out", "call-out", "translated code jumped to what its table of targets lacks"),
        Reason("mmio", "VMEXIT_NPF, #PF", "EPT misconfiguration", "an access to the registers of an emulated device"),
        Reason("msr", "VMEXIT_MSR", "RDMSR, WRMSR", "a model-specific register that the hypervisor keeps"),
        Reason("nmi_window", "VMEXIT_IRET", "NMI-window exiting", "the guest's handler of an NMI is over"),
        Reason("npf", "VMEXIT_NPF", "EPT violation", "the first touch of a guest-physical page: it is backed now"),
        Reason("page_table_write", "#PF of a write", "#PF of a write", "a write to a page table that is shadowed"),
        Reason("popf", "address breakpoint", "address breakpoint", "POPF, which does not trap by itself"),
        Reason("privileged", "#GP", "#GP", "a rare privileged instruction of a deprivileged kernel"),
        Reason("pushf", "address breakpoint", "address breakpoint", "PUSHF, which does not trap by itself"),
        Reason("rdtsc", "#GP of RDTSC", "#GP of RDTSC", "a deprivileged guest read the time-stamp counter"),
        Reason("segment", "#GP", "#GP", "a segment register, a selector or a far transfer of a deprivileged guest"),
        Reason("shadow_page_fault", "#PF", "#PF", "hidden from the guest: the shadow tables lacked a page"),
        Reason("shutdown", "VMEXIT_SHUTDOWN", "triple fault", "the guest's CPU gave up"),
        Reason("single_step", "#DB", "#DB", "one instruction was let through and is over"),
        Reason("sti", "#GP of STI", "#GP of STI", "a deprivileged kernel switched interrupts on"),
        Reason("swapgs", "#GP of SWAPGS", "#GP of SWAPGS", "a deprivileged kernel changed GS"),
        Reason("syscall_bounce", "#UD of SYSCALL", "#UD of SYSCALL", "a system call, for the guest's kernel"),
        Reason("sysret", "#UD of SYSRET", "#UD of SYSRET", "a deprivileged kernel returned from a system call"),
        Reason("witness", "address breakpoint", "address breakpoint", "the naive variant looked at an instruction"),
        Reason("table_callout", "call-out", "call-out", "a store that keeps hitting page tables, translated again"),
        Reason("translate", "call-out", "call-out", "translated code came to a jump that was not linked"),
        Reason("untranslated", "call-out", "call-out", "one instruction that runs at its own address"),
        Reason("virtual_eoi", "VMEXIT_AVIC_NOACCEL", "virtualized EOI", "the end of a level-triggered interrupt"),
        Reason("vmmcall", "VMEXIT_VMMCALL", "VMCALL", "a hypercall"),
    )
}
