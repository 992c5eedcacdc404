"""The trap-and-emulate mode: the unmodified kernel runs at ring 3, and does not notice.

Every exception, `int n`, SYSCALL (it is switched off, so it faults) and privileged instruction of the guest vectors to
the hypervisor: an exit. What becomes of it is decided here; emulate.py executes instructions, reflect.py gives the
guest what is the guest's, modes/shadow keeps the page tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hv.loader import Guest
from hv.mode import Mode
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import Cpu, Exit, Shutdown
from hv.silicon.x86_64.state import RBX
from hv.silicon.x86_64.svm import Vmcb, intercepts
from hv.vcpu import Vcpu
from hv.vm import Vm
from hv.x86_64.board import Board
from hv.x86_64.decode import decode
from hv.x86_64.pool import HypervisorMemory
from hv.x86_64.pvh import first_state
from modes.full_emulation.core import Core
from modes.full_emulation.emulate import HANDLERS, Emulator
from modes.full_emulation.pager import Ring3Pager
from modes.full_emulation.reflect import DB, GP, PF, UD, deliver, software_interrupt, system_call
from modes.full_emulation.scan import candidates
from modes.full_emulation.state import CS, FLAG_TF, SS, VirtualCpu
from modes.shadow.faults import FaultHandler
from modes.shadow.pager import PagerState
from modes.shadow.registers import GuestFault

if TYPE_CHECKING:
    import capstone

EVERY_EXCEPTION = 0xFFFF_FFFF
MOST_DECODED = 4096


class TrapAndEmulateState(msgspec.Struct):
    """What the mode remembers besides its memory."""

    v: VirtualCpu
    pager: PagerState
    breakpoints: dict[int, frozenset[int]]
    used: int
    real: tuple[int, int, int, int, bool, bool]
    after_step: tuple[str, int] | None


class TrapAndEmulate(Mode):
    id = "trap-and-emulate"
    summary = "the kernel at ring 3 under shadow page tables; sensitive instructions are made to trap"
    cells = {"cpu": "VS"}
    reasons = frozenset(
        "cli code_write cpuid cr8_write cr_access descriptor_table exception_bounce external_interrupt false_trap "
        "guest_page_fault hlt int_bounce invlpg ioio iret mmio msr page_table_write popf privileged pushf rdtsc "
        "segment shadow_page_fault single_step sti swapgs syscall_bounce sysret".split()
    )
    ram_base = 0x4_0000_0000

    def __init__(self, vm: Vm) -> None:
        super().__init__(vm)
        self.pool = HypervisorMemory(vm.machine.memory)
        assert isinstance(vm.board, Board)
        self.board = vm.board
        self.breakpoints = vm.machine.engine.breakpoints
        self.decoded: dict[tuple[int, int], capstone.CsInsn | None] = {}

    def start(self, guest: Guest) -> None:
        machine = self.vm.machine
        page = self.pool.alloc()
        region, at = machine.memory.find(page, 0x1000)
        vmcb = Vmcb.from_buffer(region.data, at)
        vmcb.intercept_exceptions = EVERY_EXCEPTION
        vmcb.intercept = intercepts(svm.SWINT, svm.SHUTDOWN, svm.INTR)
        vmcb.asid, vmcb.int_ctl = 1, svm.V_INTR_MASKING
        cpu = machine.cpus[0]
        self.v = VirtualCpu()
        self.pager = Ring3Pager(machine, self.pool, self.v)
        self.core = Core(cpu, vmcb, self.v, self.pager)
        self.pager.flush, self.pager.code_lost, self.pager.scan = self.core.flush, self.decoded.clear, self._scan
        self.emulator = Emulator(self.core, self.board)
        self.faults = FaultHandler(self.pager, self.board, self._instruction, self._step)
        self.core.first_vmcb()
        first = Vmcb()
        first_state(first, guest.entry)
        cpu.load(vmcb, on_metal=False, deprivileged=True)
        self.adopt(first)
        machine.engine.state.regs[RBX] = self.vm.start_info

    def adopt(self, first: Vmcb) -> None:
        """The guest's first state, as a VMCB would describe it."""
        vmcb = self.core.vmcb
        self.v.adopt(first)
        vmcb.rip, vmcb.rsp, vmcb.rax = first.rip, first.rsp, first.rax
        vmcb.fs.base, vmcb.gs.base = first.fs.base, first.gs.base
        self.core.flags = first.rflags
        self.core.sync()

    def state(self) -> TrapAndEmulateState:
        core = self.core
        real = core.root, core.code, core.cr0, core.cr4, core.stepping, core.cpu.masked
        return TrapAndEmulateState(
            self.v, self.pager.s, dict(self.breakpoints.marked), self.pool.used, real, self.faults.after_step,
        )  # fmt: skip

    def set_state(self, state: TrapAndEmulateState) -> None:
        core = self.core
        self.v = core.v = self.pager.v = state.v
        self.pager.s, self.pool.used, self.faults.after_step = state.pager, state.used, state.after_step
        core.root, core.code, core.cr0, core.cr4, core.stepping, core.cpu.masked = state.real
        self.breakpoints.restore(state.breakpoints)
        self.decoded.clear()

    def guest_registers(self, cpu: Cpu) -> dict[str, int]:
        v, flags = self.v, self.core.flags
        return {"rflags": flags, "cr0": v.cr0, "cr2": v.cr2, "cr3": v.cr3, "cr4": v.cr4, "efer": v.efer,
                "cs": v.selectors[CS], "ss": v.selectors[SS], "cpl": v.cpl}  # fmt: skip

    # --- exits ------------------------------------------------------------------------------------------------

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        cpu = vcpu.cpu
        if exit.code == svm.INTR:
            reason = "external_interrupt"
        else:
            stepped = self._end_step() if self.core.stepping else False
            if cpu.state.eip != self.v.shadow or (stepped and exit.code == svm.EXCEPTION + DB):
                self.v.shadow = -1
            reason = self._sort(cpu, exit, stepped=stepped)
        self._interrupt(cpu)
        self.core.sync()
        return reason

    def memory_written(self, address: int, size: int) -> None:
        self.pager.written_outside(address, size)

    def wake(self, vcpu: Vcpu) -> None:
        self._interrupt(vcpu.cpu)
        self.core.sync()

    def _sort(self, cpu: Cpu, exit: Exit, *, stepped: bool) -> str:
        vector = exit.code - svm.EXCEPTION
        try:
            if vector == PF:
                return self._page_fault(cpu, exit)
            if exit.code == svm.BREAKPOINT:
                return self._breakpoint(cpu)
            if exit.code == svm.SWINT:
                return self._software_interrupt(cpu)
            if vector == DB and stepped and not cpu.rflags & FLAG_TF:
                return "single_step"
            if not 0 <= vector < 32:
                raise Shutdown(f"exit {exit.code:#x} that nobody asked for")
            if vector in (GP, UD):
                instruction = self._instruction(cpu)
                if instruction is not None:
                    if instruction.mnemonic == "syscall":
                        system_call(self.core, instruction.size)
                        return "syscall_bounce"
                    reason = self.emulator.run(instruction)
                    if reason is not None:
                        return reason
            deliver(self.core, vector, exit.info1)
        except GuestFault as fault:
            if fault.address is not None:
                self.v.cr2 = fault.address
            deliver(self.core, fault.vector, fault.error)
            return "guest_page_fault" if fault.vector == PF else "exception_bounce"
        return "exception_bounce"

    def _instruction(self, cpu: Cpu) -> capstone.CsInsn | None:
        """The instruction at RIP, decoded."""
        key = self.core.root, cpu.state.eip
        if key in self.decoded:
            return self.decoded[key]
        instruction = decode(cpu.instruction_bytes(), self.v.long_code)
        if len(self.decoded) == MOST_DECODED:
            self.decoded.clear()
        self.decoded[key] = instruction
        return instruction

    def _breakpoint(self, cpu: Cpu) -> str:
        instruction = self._instruction(cpu)
        if instruction is not None and instruction.id in HANDLERS:
            reason = self.emulator.run(instruction)
            if reason is not None:
                return reason
        cpu.step_over()
        return "false_trap"

    def _software_interrupt(self, cpu: Cpu) -> str:
        instruction = self._instruction(cpu)
        assert instruction is not None
        vector = 3 if instruction.mnemonic == "int3" else instruction.operands[0].imm & 0xFF
        software_interrupt(self.core, vector, instruction.size)
        return "int_bounce"

    # --- page faults ------------------------------------------------------------------------------------------

    def _page_fault(self, cpu: Cpu, exit: Exit) -> str:
        return self.faults.handle(cpu, exit.info2, exit.info1, user=self.v.cpl == 3)

    def _step(self, cpu: Cpu) -> None:
        cpu.rflags |= FLAG_TF
        self.core.stepping = True

    def _end_step(self) -> bool:
        core = self.core
        core.stepping = False
        core.cpu.rflags &= ~FLAG_TF
        self.faults.stepped()
        return True

    def _scan(self, linear: int, frame: int) -> None:
        """Code is about to run: make the sensitive instructions in it trap."""
        page = linear >> 12
        offsets = candidates(self.pager.read(frame, 0x1000))
        if not self.breakpoints.add(page, offsets):
            self.breakpoints.clear()
            self.pager.forget_all_code()
            self.breakpoints.add(page, offsets)

    # --- interrupts -------------------------------------------------------------------------------------------

    def _interrupt(self, cpu: Cpu) -> None:
        """Deliver the interrupt that the local APIC has, if the guest takes it now."""
        board, v = self.board, self.v
        lapic = board.lapics[0]
        when = board.next_event(0)
        if not lapic.state.irr and not lapic.state.extint and not cpu.halted and when > cpu.now:
            cpu.host_timer = when
            return
        board.advance(cpu.now)
        lapic.advance(cpu.now)
        lapic.set_priority_class(cpu.tpr)
        if lapic.interrupts and v.interrupts:
            if cpu.rip == v.shadow:
                self._step(cpu)
            else:
                cpu.halted = False
                deliver(self.core, lapic.accept(), external=True)
        asleep = cpu.halted and not v.interrupts  # HLT with interrupts off: no interrupt will wake it
        cpu.host_timer = None if asleep else board.next_event(0)
