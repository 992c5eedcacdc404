"""The trap-and-emulate mode: the unmodified kernel runs at ring 3, and does not notice.

Every exception, `int n`, SYSCALL (it is switched off, so it faults) and privileged instruction of the guest vectors to
the hypervisor: an exit. What becomes of it is decided here; emulate.py executes instructions, reflect.py gives the
guest what is the guest's, modes/shadow keeps the page tables, real_mode.py starts the other CPUs.

All vCPUs walk the same shadow tables. Whatever changes there is seen by a CPU that does not run now when its turn
comes: the silicon empties a CPU's TLB then.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from hv.loader import Guest
from hv.mode import Mode
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import NMI, Cpu, Exit, Shutdown
from hv.silicon.x86_64.lapic import Lapic
from hv.silicon.x86_64.startup import startup_state, take_startup
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
from modes.full_emulation.real_mode import run_real_mode
from modes.full_emulation.reflect import DB, GP, PF, UD, deliver, software_interrupt, system_call
from modes.full_emulation.scan import candidates
from modes.full_emulation.state import CS, FLAG_TF, SS, VirtualCpu
from modes.shadow.faults import FaultHandler, Opened
from modes.shadow.pager import PagerState
from modes.shadow.registers import GuestFault

if TYPE_CHECKING:
    import capstone

EVERY_EXCEPTION = 0xFFFF_FFFF
MOST_DECODED = 4096


class VcpuState(msgspec.Struct):
    """What it remembers of one vCPU: `real` is what the real CPU under it has."""

    v: VirtualCpu
    real: tuple[int, int, int, int, bool, bool]
    opened: list[Opened]


class Seat(msgspec.Struct):
    """What works for one vCPU."""

    core: Core
    emulator: Emulator
    faults: FaultHandler


class TrapAndEmulateState(msgspec.Struct):
    """What the mode remembers besides its memory."""

    vcpus: list[VcpuState]
    turn: int
    pager: PagerState
    breakpoints: dict[int, frozenset[int]]
    used: int


class TrapAndEmulate(Mode):
    id = "trap-and-emulate"
    summary = "the kernel at ring 3 under shadow page tables; sensitive instructions are made to trap"
    cells = {"cpu": "VS"}
    reasons = frozenset(
        "cli code_write cpuid cr8_write cr_access descriptor_table exception_bounce external_interrupt false_trap "
        "guest_page_fault hlt int_bounce invlpg ioio iret mmio msr page_table_write popf privileged pushf rdtsc "
        "segment shadow_page_fault single_step sti swapgs syscall_bounce sysret".split()
    )
    most_cpus = 8
    ram_base = 0x4_0000_0000

    def __init__(self, vm: Vm) -> None:
        super().__init__(vm)
        assert isinstance(vm.board, Board)
        self.board = vm.board
        self.breakpoints = vm.machine.engine.breakpoints
        self.decoded: dict[tuple[int, int], capstone.CsInsn | None] = {}

    def start(self, guest: Guest) -> None:
        self._build()
        first = Vmcb()
        first_state(first, guest.entry)
        for seat in self.seats:
            seat.core.cpu.load(seat.core.vmcb, on_metal=False, deprivileged=True)
        self.adopt(first)
        self.vm.machine.engine.state.regs[RBX] = self.vm.start_info

    def _build(self) -> None:
        """The hypervisor's memory and everything that this mode has in it."""
        machine = self.vm.machine
        self.pool = HypervisorMemory(machine.memory)
        self.pager = Ring3Pager(machine, self.pool, VirtualCpu())
        self.pager.code_lost, self.pager.scan = self.decoded.clear, self._scan
        self.pager.flush, self.pager.dropped = self._flush, self._load_other_roots
        self.seats = [self._make_seat(cpu) for cpu in machine.cpus]
        self._sit(0)

    def _make_seat(self, cpu: Cpu) -> Seat:
        region, at = self.pool.memory.find(self.pool.alloc(), 0x1000)
        vmcb = Vmcb.from_buffer(region.data, at)
        vmcb.intercept_exceptions = EVERY_EXCEPTION
        vmcb.intercept = intercepts(svm.SWINT, svm.SHUTDOWN, svm.INTR)
        vmcb.asid, vmcb.int_ctl = 1, svm.V_INTR_MASKING
        core = Core(cpu, vmcb, VirtualCpu(), self.pager)
        core.first_vmcb()
        cpu.masked = functools.partial(self.masked, cpu.index)
        faults = FaultHandler(self.pager, self.board, self._instruction, self._step)
        return Seat(core, Emulator(core, self.board), faults)

    def _sit(self, index: int) -> None:
        """From now on it is about this vCPU."""
        self.turn, seat = index, self.seats[index]
        self.core, self.emulator, self.faults = seat.core, seat.emulator, seat.faults
        self.v = self.pager.v = seat.core.v

    def _flush(self) -> None:
        self.core.flush()

    def _load_other_roots(self) -> None:
        """All shadow tables are gone: no CPU may walk them any longer."""
        for index, seat in enumerate(self.seats):
            if index != self.turn and not seat.core.cpu.waits:
                seat.core.root = 0
                self.pager.v = seat.core.v
                seat.core.load_root()
        self.pager.v = self.v

    def adopt(self, first: Vmcb) -> None:
        """The guest's first state, as a VMCB would describe it."""
        vmcb = self.core.vmcb
        self.v.adopt(first)
        vmcb.rip, vmcb.rsp, vmcb.rax = first.rip, first.rsp, first.rax
        vmcb.fs.base, vmcb.gs.base = first.fs.base, first.gs.base
        self.core.flags = first.rflags
        self.core.sync()

    def masked(self, index: int) -> bool:
        """Does the guest believe that interrupts are off on this vCPU?"""
        return not self.seats[index].core.v.interrupts

    def state(self) -> TrapAndEmulateState:
        vcpus = []
        for seat in self.seats:
            core = seat.core
            real = core.root, core.code, core.cr0, core.cr4, core.stepping, core.trap
            vcpus.append(VcpuState(core.v, real, seat.faults.opened))
        return TrapAndEmulateState(vcpus, self.turn, self.pager.s, dict(self.breakpoints.marked), self.pool.used)

    def set_state(self, state: TrapAndEmulateState) -> None:
        for seat, saved in zip(self.seats, state.vcpus, strict=True):
            core = seat.core
            core.v, seat.faults.opened = saved.v, saved.opened
            core.root, core.code, core.cr0, core.cr4, core.stepping, core.trap = saved.real
        self._sit(state.turn)
        self.pager.s, self.pool.used = state.pager, state.used
        self.breakpoints.restore(state.breakpoints)
        self.decoded.clear()

    def guest_registers(self, cpu: Cpu) -> dict[str, int]:
        core = self.seats[cpu.index].core
        v, flags = core.v, core.flags
        return {"rflags": flags, "cr0": v.cr0, "cr2": v.cr2, "cr3": v.cr3, "cr4": v.cr4, "efer": v.efer,
                "cs": v.selectors[CS], "ss": v.selectors[SS], "cpl": v.cpl}  # fmt: skip

    # --- exits ------------------------------------------------------------------------------------------------

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        cpu = vcpu.cpu
        if vcpu.index != self.turn:
            self._sit(vcpu.index)
        if exit.code == svm.INTR:
            reason = "external_interrupt"
        else:
            stepped = self._end_step(exit) if self.core.stepping else False
            if cpu.state.eip != self.v.shadow or (stepped and exit.code == svm.EXCEPTION + DB):
                self.v.shadow = -1
            reason = self._sort(cpu, exit, stepped=stepped)
        self._interrupt(cpu)
        if not cpu.waits:
            self.core.sync()
        return reason

    def memory_written(self, address: int, size: int) -> None:
        self.pager.written_outside(address, size)

    def wake(self, vcpu: Vcpu) -> None:
        self._sit(vcpu.index)
        self._interrupt(vcpu.cpu)
        if not vcpu.cpu.waits:
            self.core.sync()

    def _sort(self, cpu: Cpu, exit: Exit, *, stepped: bool) -> str:
        try:
            return self._event(cpu, exit, stepped=stepped)
        except GuestFault as fault:
            return self._reflect(fault)

    def _reflect(self, fault: GuestFault) -> str:
        if fault.address is not None:
            self.v.cr2 = fault.address
        deliver(self.core, fault.vector, fault.error)
        return "guest_page_fault" if fault.vector == PF else "exception_bounce"

    def _event(self, cpu: Cpu, exit: Exit, *, stepped: bool) -> str:
        vector = exit.code - svm.EXCEPTION
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

    def _end_step(self, exit: Exit) -> bool:
        core = self.core
        core.stepping = False
        core.cpu.rflags &= ~FLAG_TF
        self.faults.stepped(cut=exit.code == svm.EXCEPTION + PF)
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
        lapic = board.lapics[cpu.index]
        board.bus.receive(cpu.index, cpu.now)
        if lapic.signalled:
            self._signal(cpu, lapic)
        if cpu.waits:
            return
        when = board.next_event(cpu.index)
        if not lapic.state.irr and not lapic.state.extint and not cpu.halted and when > cpu.now:
            cpu.host_timer = when
            return
        board.receive(cpu.index, cpu.now)
        lapic.advance(cpu.now)
        lapic.set_priority_class(cpu.tpr)
        if lapic.interrupts and v.interrupts:
            if cpu.rip == v.shadow:
                self._step(cpu)
            else:
                cpu.halted = False
                deliver(self.core, lapic.accept(), external=True)
        asleep = cpu.halted and not v.interrupts  # HLT with interrupts off: no interrupt will wake it
        cpu.host_timer = None if asleep else board.next_event(cpu.index)

    def _signal(self, cpu: Cpu, lapic: Lapic) -> None:
        """INIT, a start-up message, an NMI."""

        def start(page: int) -> None:
            core, first = self.core, Vmcb()
            startup_state(first, page)
            core.first_vmcb()
            cpu.start_over()
            core.root = core.code = 0
            core.stepping = self.v.in_nmi = False
            self.faults.stepped()
            self.adopt(first)
            run_real_mode(core)

        take_startup(cpu, lapic, start)
        if lapic.state.nmi and not cpu.waits and not self.v.in_nmi:
            lapic.state.nmi = cpu.halted = False
            deliver(self.core, NMI, external=True)
            self.v.in_nmi = True
