"""The hw-assist mode: start a guest under SVM and handle its exits. interrupts.py delivers its interrupts.

Each vCPU has a VMCB; the nested tables and the permission maps they share. Simplified: the permission maps intercept
everything that is not a plain register of the guest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from hv.loader import Guest
from hv.mode import Mode
from hv.silicon.memory import BusError
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import GP, UD, Cpu, Exit, Shutdown
from hv.silicon.x86_64.msr import (
    CSTAR,
    FS_BASE,
    GS_BASE,
    KERNEL_GS_BASE,
    LSTAR,
    SFMASK,
    STAR,
    SYSENTER_CS,
    SYSENTER_EIP,
    SYSENTER_ESP,
    BadMsr,
    read_msr,
    write_msr,
)
from hv.silicon.x86_64.state import RAX, RBX, RCX, RDX
from hv.silicon.x86_64.svm import Vmcb, intercepts
from hv.vcpu import Vcpu
from hv.vm import Vm
from hv.x86_64.board import Board
from hv.x86_64.decode import decode_here
from hv.x86_64.guest_cpuid import answer_cpuid
from hv.x86_64.pool import HypervisorMemory
from hv.x86_64.ports import port_access
from hv.x86_64.pvh import first_state
from modes.hw_assist.interrupts import EmulatedApics
from modes.hw_assist.npt import NestedTables

NO_SUCH_HYPERCALL = (1 << 64) - 1000  # -KVM_ENOSYS
# MSRs that are plain registers of the guest: reading and writing them does not exit.
PASS_THROUGH = (
    SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, STAR, LSTAR, CSTAR, SFMASK, FS_BASE, GS_BASE, KERNEL_GS_BASE,
)  # fmt: skip
INTERCEPTS = intercepts(
    svm.INTR, svm.CPUID, svm.HLT, svm.IOIO, svm.MSR, svm.SHUTDOWN, svm.VMRUN, svm.VMMCALL, svm.VMLOAD, svm.VMSAVE,
    svm.STGI, svm.CLGI, svm.SKINIT,
)  # fmt: skip


Handler = Callable[[Any, Cpu, Exit], str]


class HwAssistState(msgspec.Struct):
    """What the mode remembers besides the VMCB and the tables, which are in memory."""

    used: int
    interrupts: Any


class HwAssist(Mode):
    id = "hw-assist"
    summary = "AMD SVM: a VMCB, nested paging, intercepts and event injection"
    cells = {"cpu": "VH"}
    reasons = frozenset("cpuid hlt invalid_opcode ioio mmio msr npf vmmcall".split()) | EmulatedApics.reasons
    most_cpus = 8
    ram_base = 0x4_0000_0000  # so that no guest-physical address is a host-physical one
    nested = True  # paging
    cr_writes = 0  # control registers whose writes exit, CR8 apart
    handlers: Mapping[int, Handler]

    def __init__(self, vm: Vm) -> None:
        super().__init__(vm)
        self.pool = HypervisorMemory(vm.machine.memory)
        assert isinstance(vm.board, Board)
        self.board = vm.board
        self.interrupts = EmulatedApics(vm.board, len(vm.machine.cpus))  # the interrupts column may replace it

    def start(self, guest: Guest) -> None:
        machine, memory = self.vm.machine, self.vm.machine.memory
        cpus = len(machine.cpus)
        pages, msrpm, iopm = self.pool.alloc(cpus), self.pool.alloc(2), self.pool.alloc(3)
        memory.write(iopm, b"\xff" * 0x2001)
        memory.write(msrpm, _msr_map())
        region, at = memory.find(pages, 0x1000)
        self.vmcbs = [Vmcb.from_buffer(region.data, at + 0x1000 * index) for index in range(cpus)]
        for vmcb in self.vmcbs:
            vmcb.intercept = INTERCEPTS
            vmcb.msrpm_base_pa, vmcb.iopm_base_pa = msrpm, iopm
            vmcb.asid, vmcb.int_ctl = 1, svm.V_INTR_MASKING
            vmcb.intercept_cr_write = self.cr_writes
        self.vmcb = self.vmcbs[0]
        first_state(self.vmcb, guest.entry)
        self.prepare_memory()
        self.interrupts.start(self.vmcbs, self.cr_writes)
        self.interrupt_handlers = self.interrupts.handlers()
        for cpu, vmcb in zip(machine.cpus, self.vmcbs, strict=True):
            cpu.load(vmcb, on_metal=False)
        machine.engine.state.regs[RBX] = self.vm.start_info

    def prepare_memory(self) -> None:
        """Give the guest its memory. The VMCB of CPU 0 holds its first state."""
        self.npt = NestedTables(self.pool)
        for vmcb in self.vmcbs:
            vmcb.np_enable, vmcb.n_cr3 = 1, self.npt.root

    def state(self) -> HwAssistState:
        return HwAssistState(self.pool.used, self.interrupts.state())

    def set_state(self, state: HwAssistState) -> None:
        self.pool.used = state.used
        self.interrupts.set_state(state.interrupts)

    # --- exits ------------------------------------------------------------------------------------------------

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        cpu = vcpu.cpu
        platform = self.board.platform
        if platform.watches_exits:
            platform.exit_begins()
        handler = self.handlers.get(exit.code)
        if handler is not None:
            reason = handler(self, cpu, exit)
        elif exit.code in self.interrupt_handlers:
            reason = self.interrupt_handlers[exit.code](cpu, exit)
        else:
            raise Shutdown(f"exit {exit.code:#x} that nobody asked for")
        if exit.int_info:
            # The exit cut the delivery of an event short: deliver it again (APM vol. 2, 15.20).
            cpu.inject(exit.int_info, exit.int_error)
        if self.interrupts.due(cpu, exit):
            self.deliver(cpu)
        else:
            cpu.host_timer = None
        return reason

    def wake(self, vcpu: Vcpu) -> None:
        self.deliver(vcpu.cpu)

    def deliver(self, cpu: Cpu) -> None:
        """Interrupts, at the end of an exit or for a CPU that sleeps."""
        self.interrupts.deliver(cpu)

    def _cpuid(self, cpu: Cpu, exit: Exit) -> str:
        answer_cpuid(cpu, self.board.platform)
        cpu.skip(2)
        return "cpuid"

    def _hlt(self, cpu: Cpu, exit: Exit) -> str:
        cpu.skip(1)
        cpu.halted = True
        return "hlt"

    def _ioio(self, cpu: Cpu, exit: Exit) -> str:
        try:
            port_access(cpu, exit, self.board.ports, cpu.read_mapped, cpu.write_mapped)
        except BusError:
            where = f"RIP {cpu.state.eip:#x}"
            raise Shutdown(f"a string port transfer at {where} touches memory that is not backed") from None
        return "ioio"

    def _msr(self, cpu: Cpu, exit: Exit) -> str:
        regs = cpu.regs
        number = regs[RCX] & 0xFFFF_FFFF
        try:
            if cpu.cpl:
                raise BadMsr
            platform = self.board.platform
            if exit.info1:
                value = (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF
                if not platform.write_msr(number, value):
                    write_msr(cpu, number, value)
            else:
                own = platform.read_msr(number)
                value = read_msr(cpu, number) if own is None else own
                regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
        except BadMsr:
            cpu.fault(GP)
        else:
            cpu.skip(2)
        return "msr"

    def _npf(self, cpu: Cpu, exit: Exit) -> str:
        gpa, fetch = exit.info2, bool(exit.info1 & svm.NPF_FETCH)
        page = self.board.page(gpa, fetch=fetch)
        if page is not None:
            self.npt.map(gpa, page)
            cpu.charge(cpu.walk_cost)
            return "npf"
        self.device_access(cpu, gpa, fetch=fetch)
        return "mmio"

    def paging(self, cpu: Cpu) -> tuple[int, int]:
        """CR0 and CR3 as the guest has them."""
        return cpu.control_registers()[:2]

    def map_chip(self, gpa: int, page: int) -> None:
        """Let the guest reach a page of the silicon's own registers without an exit."""
        self.npt.map(gpa, page)

    def forget_mapping(self, address: int, size: int) -> None:
        self.npt.unmap(address, size)
        self.vm.machine.engine.flush_tlb()

    def posted(self, address: int, data: int) -> tuple[int, int] | None:
        return self.interrupts.posted(address, data)

    def device_access(self, cpu: Cpu, gpa: int, *, fetch: bool = False) -> None:
        """An access outside RAM: an APIC's registers, or nobody."""
        instruction = None if fetch else decode_here(cpu)
        self.board.access(cpu, gpa, instruction, lambda address, write: cpu.linear(address))

    def _vmmcall(self, cpu: Cpu, exit: Exit) -> str:
        reason = self.board.platform.hypercall(cpu)
        if reason is None:
            cpu.regs[RAX] = NO_SUCH_HYPERCALL
            cpu.skip(3)
        return reason or "vmmcall"

    def _invalid_opcode(self, cpu: Cpu, exit: Exit) -> str:
        """SVM is not offered to the guest, so its instructions are not there."""
        cpu.fault(UD)
        return "invalid_opcode"

    def _shutdown(self, cpu: Cpu, exit: Exit) -> str:
        raise Shutdown("triple fault: an exception could not be delivered, and neither could the double fault")


def _msr_map() -> bytes:
    """The MSR permission map: everything exits but the pass-through registers (APM vol. 2, 15.11)."""
    bits = bytearray(b"\xff" * 0x2000)
    for number in PASS_THROUGH:
        at = number * 2 if number < 0x2000 else 0x800 * 8 + (number - 0xC000_0000) * 2
        bits[at // 8] &= ~(3 << at % 8)
    return bytes(bits)


HANDLERS: dict[int, Handler] = {
    svm.CPUID: HwAssist._cpuid,
    svm.HLT: HwAssist._hlt,
    svm.IOIO: HwAssist._ioio,
    svm.MSR: HwAssist._msr,
    svm.NPF: HwAssist._npf,
    svm.VMMCALL: HwAssist._vmmcall,
    svm.SHUTDOWN: HwAssist._shutdown,
    **dict.fromkeys((svm.VMRUN, svm.VMLOAD, svm.VMSAVE, svm.STGI, svm.CLGI, svm.SKINIT), HwAssist._invalid_opcode),
}
HwAssist.handlers = HANDLERS
