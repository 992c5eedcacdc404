"""The hw-shadow mode: SVM without nested paging, as the first processors with it were (2006).

The CPU runs the guest at its own privilege levels, but under page tables that the hypervisor makes (modes/shadow). So
page faults, MOV CR and INVLPG exit; system calls, interrupt flags and the guest's own exceptions do not. One set of
tables serves kernel and user, because the shadow carries the guest's own U bits (guest_rights.py), and one serves all
vCPUs. Whatever changes there is seen by a CPU that does not run now when its turn comes.

Simplified: the shadow of a guest that has paging off is in PAE format, and its root lies above 4 GiB, where no real CR3
could point outside long mode.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import DF, PF, Cpu, Exit, Shutdown
from hv.silicon.x86_64.msr import EFER
from hv.silicon.x86_64.state import RAX, RCX, RDX, TF
from hv.silicon.x86_64.svm import Vmcb
from hv.vcpu import Vcpu
from hv.x86_64.decode import address_of, decode_here
from hv.x86_64.ports import port_access
from modes.hw_assist.control_registers import CR0, CR3, CR4, access
from modes.hw_assist.guest_rights import GuestRightsPager
from modes.hw_assist.mode import HANDLERS, Handler, HwAssist, HwAssistState
from modes.shadow.faults import FaultHandler, Opened
from modes.shadow.guest_tables import PF_USER
from modes.shadow.pager import PagerState
from modes.shadow.registers import (
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    EFER_SVME,
    GuestFault,
    PagingRegisters,
)

DB = 1
CR_WRITES = 1 << CR0 | 1 << CR3 | 1 << CR4
EVERY_EXCEPTION = 0xFFFF_FFFF


class ShadowedCpu(msgspec.Struct):
    """What this mode remembers of one vCPU."""

    registers: PagingRegisters = msgspec.field(default_factory=PagingRegisters)
    root: int = 0  # what the real CPU has
    stepping: bool = False  # TF is set by us
    own_trap_flag: bool = False  # and the guest had set it before
    opened: list[Opened] = msgspec.field(default_factory=list)  # as the fault handler has it; in snapshots only


class HwShadowState(msgspec.Struct):
    """What this mode remembers besides what hw-assist does."""

    shared: HwAssistState
    vcpus: list[ShadowedCpu]
    turn: int
    pager: PagerState


class HwShadow(HwAssist):
    id = "hw-shadow"
    summary = "AMD SVM as of 2006, without nested paging: shadow page tables under a guest that keeps its rings"
    reasons = HwAssist.reasons - {"npf"} | set(
        "cr_access exception_bounce guest_page_fault invlpg page_table_write shadow_page_fault single_step".split()
    )
    nested = False
    cr_writes = CR_WRITES

    def prepare_memory(self) -> None:
        self.vcpus = [ShadowedCpu() for _ in self.vmcbs]
        self.pager = GuestRightsPager(self.vm.machine, self.pool, self.vcpus[0].registers, self.board)
        self.pager.flush, self.pager.dropped = self._flush, self._load_other_roots
        self.fault_handlers = [FaultHandler(self.pager, self.board, decode_here, self._step) for _ in self.vmcbs]
        for vmcb in self.vmcbs:
            vmcb.intercept_exceptions = 1 << PF
            vmcb.intercept |= svm.intercepts(svm.INVLPG)
        self.interrupts.started = self._started
        self._sit(0)
        self.adopt(self.vmcb)

    def _sit(self, index: int) -> None:
        """From now on it is about this vCPU."""
        self.turn, self.s, self.faults = index, self.vcpus[index], self.fault_handlers[index]
        self.here, self.registers = self.vmcbs[index], self.s.registers
        self.pager.v = self.registers

    def _started(self, cpu: Cpu) -> None:
        """A start-up message has put the first state of a CPU into its VMCB."""
        self.s.stepping = False
        self.faults.stepped()
        self.here.intercept_exceptions = 1 << PF
        self.adopt(self.here)

    def adopt(self, first: Vmcb) -> None:
        """The VMCB holds the guest's first state: keep it, and give the real CPU its own."""
        r = self.registers
        r.cr0, r.cr3, r.cr4, r.efer = first.cr0, first.cr3, first.cr4, first.efer & ~EFER_SVME
        self._load_registers()

    def state(self) -> Any:
        for s, faults in zip(self.vcpus, self.fault_handlers, strict=True):
            s.opened = faults.opened
        return HwShadowState(super().state(), self.vcpus, self.turn, self.pager.s)

    def set_state(self, state: Any) -> None:
        super().set_state(state.shared)
        self.vcpus, self.pager.s = state.vcpus, state.pager
        for s, faults in zip(self.vcpus, self.fault_handlers, strict=True):
            faults.opened = s.opened
        self._sit(state.turn)

    def guest_registers(self, cpu: Cpu) -> dict[str, int]:
        r = self.vcpus[cpu.index].registers
        return {"cr0": r.cr0, "cr3": r.cr3, "cr4": r.cr4, "efer": r.efer}

    def paging(self, cpu: Cpu) -> tuple[int, int]:
        r = self.vcpus[cpu.index].registers
        return r.cr0, r.cr3

    def map_chip(self, gpa: int, page: int) -> None:
        self.pager.chips[gpa] = page

    def forget_mapping(self, address: int, size: int) -> None:
        self.pager.forget_frames(address, size)

    def memory_written(self, address: int, size: int) -> None:
        self.pager.written_outside(address, size)

    # --- the real CPU -----------------------------------------------------------------------------------------

    def _load_registers(self) -> None:
        """Bring the real control registers in line with the guest's: paging on, in the format of the shadow.

        Real mode goes on as real mode with paging, which SVM has for this (APM vol. 2, 15.19).
        """
        r, vmcb, cpu = self.registers, self.here, self.vm.machine.cpus[self.turn]
        cpu.leave()
        vmcb.cr0, vmcb.cr4 = r.cr0 | CR0_PG | CR0_WP, r.cr4 | CR4_PAE
        vmcb.efer = r.efer & EFER_SCE | EFER_NXE | (EFER_LME | EFER_LMA if r.long_mode else 0)
        vmcb.intercept_cr_read = 1 << CR3 | (vmcb.cr0 != r.cr0) << CR0 | (vmcb.cr4 != r.cr4) << CR4
        vmcb.cr3 = self.s.root = self.pager.root()

    def _load_root(self, cpu: Cpu) -> None:
        root = self.pager.root()
        if root != self.s.root:
            self.s.root = root
            cpu.load_root(root)

    def _load_other_roots(self) -> None:
        """All shadow tables are gone: no CPU may walk them any longer."""
        for s, cpu in zip(self.vcpus, self.vm.machine.cpus, strict=True):
            if s is not self.s and not cpu.waits:
                self.pager.v = s.registers
                s.root = self.pager.root()
                cpu.load_root(s.root)
        self.pager.v = self.registers

    def _flush(self) -> None:
        """Empty the TLB of the CPU that runs. The silicon empties another one's when its turn comes."""
        cpu = self.vm.machine.running
        if self.vcpus[cpu.index].root:
            cpu.load_root(self.vcpus[cpu.index].root)

    # --- exits ------------------------------------------------------------------------------------------------

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        if vcpu.index != self.turn:
            self._sit(vcpu.index)
        if self.s.stepping and exit.code != svm.INTR:
            self._end_step(vcpu.cpu, exit)
        return super().handle(vcpu, exit)

    def wake(self, vcpu: Vcpu) -> None:
        self._sit(vcpu.index)
        super().wake(vcpu)

    def deliver(self, cpu: Cpu) -> None:
        """Not while an instruction is stepped: its #DB comes next."""
        if not self.s.stepping:
            super().deliver(cpu)

    def _page_fault(self, cpu: Cpu, exit: Exit) -> str:
        user = bool(exit.info1 & PF_USER)
        try:
            reason = self.faults.handle(cpu, exit.info2, exit.info1, user=user, delivering=bool(exit.int_info))
        except GuestFault as fault:
            self._reflect(cpu, exit, fault)
            return "guest_page_fault"
        if reason == "shadow_page_fault":
            cpu.charge(cpu.walk_cost)
        self._load_root(cpu)
        return reason

    def _reflect(self, cpu: Cpu, exit: Exit, fault: GuestFault) -> None:
        """Give the guest its own page fault, or what becomes of it in the delivery of another (APM vol. 2, 8.2.9)."""
        first, exit.int_info = exit.int_info, 0
        if fault.address is not None:
            self._set_cr2(cpu, fault.address)
        if first & svm.EVENT_TYPE == svm.EVENT_EXCEPTION and first & 0xFF == DF:
            raise Shutdown("triple fault: an exception could not be delivered, and neither could the double fault")
        if first & svm.EVENT_TYPE == svm.EVENT_EXCEPTION and first & 0xFF == PF:
            cpu.fault(DF)
        else:
            cpu.fault(fault.vector, fault.error)

    def _set_cr2(self, cpu: Cpu, address: int) -> None:
        if cpu.entered:
            cpu.state.cr[2] = address
        else:
            self.here.cr2 = address

    def _invlpg(self, cpu: Cpu, exit: Exit) -> str:
        instruction = decode_here(cpu)
        assert instruction is not None
        self.pager.synchronise_page(address_of(cpu, instruction, instruction.operands[0]))
        cpu.skip(instruction.size)
        cpu.charge(cpu.walk_cost)
        return "invlpg"

    def _cr_access(self, cpu: Cpu, exit: Exit) -> str:
        i = decode_here(cpu)
        assert i is not None
        number, write = exit.code % svm.CR0_WRITE, exit.code >= svm.CR0_WRITE
        try:
            access(cpu, i, number, self.registers, self.pager, write=write)
        except GuestFault as fault:
            self._reflect(cpu, exit, fault)
            return "cr_access"
        cpu.skip(i.size)
        if write:
            self.pager.synchronise()
        if write and number == CR3:
            cpu.charge(cpu.walk_cost)
            self._load_root(cpu)
        elif write:
            self._load_registers()
        return "cr_access"

    def _msr(self, cpu: Cpu, exit: Exit) -> str:
        """EFER is the guest's own; the other registers are in the CPU."""
        regs, r = cpu.regs, self.registers
        if regs[RCX] & 0xFFFF_FFFF != EFER or cpu.cpl:
            return super()._msr(cpu, exit)
        if not exit.info1:
            regs[RAX], regs[RDX] = r.efer, 0
            cpu.skip(2)
            return "msr"
        try:
            r.write_efer((regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF)
        except GuestFault as fault:
            cpu.fault(fault.vector, fault.error)
            return "msr"
        cpu.skip(2)
        self.pager.drop_all()  # EFER.NXE decides what an entry means
        self._load_registers()
        return "msr"

    def device_access(self, cpu: Cpu, gpa: int, *, fetch: bool = False) -> None:
        """An access that the silicon has stopped, to its local APIC. The real CPU's tables are not the guest's."""
        user = cpu.cpl == 3
        self.board.access(
            cpu, gpa, decode_here(cpu), lambda address, write: self.pager.walk(address, write=write, user=user).gpa
        )

    def _ioio(self, cpu: Cpu, exit: Exit) -> str:
        user = cpu.cpl == 3
        try:
            port_access(
                cpu, exit, self.board.ports,
                lambda address, size: self.pager.read_linear(address, size, user=user),
                lambda address, data: self.pager.write_linear(address, data, user=user),
            )  # fmt: skip
        except GuestFault as fault:
            self._reflect(cpu, exit, fault)
        return "ioio"

    # --- one instruction let through --------------------------------------------------------------------------

    def _step(self, cpu: Cpu) -> None:
        """Let one instruction run, and hear of whatever comes after it."""
        self.s.own_trap_flag = bool(cpu.rflags & TF)
        cpu.rflags |= TF
        self.s.stepping = True
        self.here.intercept_exceptions = EVERY_EXCEPTION

    def _end_step(self, cpu: Cpu, exit: Exit) -> None:
        self.s.stepping = False
        if not self.s.own_trap_flag:
            cpu.rflags &= ~TF
        self.here.intercept_exceptions = 1 << PF
        self.faults.stepped(cut=exit.code == svm.EXCEPTION + PF)

    def _exception(self, cpu: Cpu, exit: Exit) -> str:
        """Only while stepping."""
        vector = exit.code - svm.EXCEPTION
        if vector == DB and not self.s.own_trap_flag:
            return "single_step"
        cpu.fault(vector, exit.info1)
        return "exception_bounce"

    handlers: dict[int, Handler] = {
        **HANDLERS,
        **dict.fromkeys(range(svm.EXCEPTION, svm.EXCEPTION + 32), _exception),
        svm.EXCEPTION + PF: _page_fault,
        svm.INVLPG: _invlpg,
        svm.MSR: _msr,
        svm.IOIO: _ioio,
        **dict.fromkeys((CR0, CR3, CR4, svm.CR0_WRITE + CR0, svm.CR0_WRITE + CR3, svm.CR0_WRITE + CR4), _cr_access),
    }
    del handlers[svm.NPF]
