"""How a guest under hw-assist gets its interrupts: by emulated local APICs, and injected by the hypervisor.

This is the seam of the interrupts column: its mode may put another object in the place of this one before the guest
starts (`HwAssist.interrupts`), most simply an heir that overrides a step.

An interrupt is injected at the end of an exit if the guest can take it. If not, the hypervisor asks to hear when it
can: by an interrupt window, or by the next write of CR8.
Simplified: an NMI that waits for the end of another comes right before its IRET, not behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import GP, NEVER, NMI, PF, Cpu, Exit
from hv.silicon.x86_64.lapic import Lapic
from hv.silicon.x86_64.startup import startup_state, take_startup
from hv.silicon.x86_64.svm import Vmcb, intercepts
from hv.x86_64.board import Board

CR8 = 8
# After these an INIT, start-up message or NMI may have come: a message from another CPU, a command to oneself, which is
# a nested page fault or, under shadow page tables, a plain one.
MAY_SIGNAL = frozenset((svm.INTR, svm.NPF, svm.EXCEPTION + PF, svm.IRET))


class InterruptsState(msgspec.Struct):
    """What there is to remember besides the chips' and the VMCBs' state."""

    waiting: list[bool]
    in_nmi: list[bool]


class EmulatedApics:
    """Delivery for the CPUs of `vmcbs`, from the chips of `board`. `cr_writes`: intercepts that others have set."""

    reasons: ClassVar[frozenset[str]] = frozenset("cr8_write external_interrupt interrupt_window nmi_window".split())
    may_signal = MAY_SIGNAL

    def __init__(self, board: Board, cpus: int) -> None:
        self.board = board
        self.waiting = [False] * cpus  # an interrupt could not be delivered yet
        self.in_nmi = [False] * cpus  # an NMI has been delivered, and its IRET has not been seen
        self.vmcbs: Sequence[Vmcb] = ()
        self.cr_writes = 0
        self.started: Callable[[Cpu], None] = lambda cpu: None  # a start-up message has written its VMCB

    def start(self, vmcbs: Sequence[Vmcb], cr_writes: int) -> None:
        """The VMCBs are there; the guest has not run yet."""
        self.vmcbs, self.cr_writes = vmcbs, cr_writes

    def handlers(self) -> Mapping[int, Callable[[Cpu, Exit], str]]:
        """The exits that are about interrupts only, by code. A handler returns the reason's id."""
        return {
            svm.INTR: self._external_interrupt,
            svm.VINTR: self._interrupt_window,
            svm.IRET: self._nmi_window,
            svm.CR0_WRITE + CR8: self._cr8_write,
        }

    def state(self) -> Any:
        return InterruptsState(self.waiting, self.in_nmi)

    def set_state(self, state: Any) -> None:
        self.waiting, self.in_nmi = state.waiting, state.in_nmi

    # --- delivery ---------------------------------------------------------------------------------------------

    def due(self, cpu: Cpu, exit: Exit) -> bool:
        """Is there anything to deliver after this exit, or to wait for? If not, deliver() need not look."""
        board, index = self.board, cpu.index
        lapic = board.lapics[index].state
        if lapic.expiry is not None or lapic.irr or lapic.extint or board.deadline != NEVER or self.waiting[index]:
            return True
        return exit.code in self.may_signal or cpu.halted or self.more_waits(cpu)

    def more_waits(self, cpu: Cpu) -> bool:
        """Has an interrupt arrived elsewhere than in the chips?"""
        return False

    def waits(self, cpu: Cpu) -> bool:
        """Has an interrupt arrived that the guest has not been given?"""
        lapic = self.board.lapics[cpu.index].state
        return bool(lapic.irr or lapic.extint or self.waiting[cpu.index]) or self.more_waits(cpu)

    def posted(self, address: int, data: int) -> tuple[int, int] | None:
        """A card's interrupt message as a descriptor and a vector for the IOMMU to post; None: it comes to us."""
        return None

    def deliver(self, cpu: Cpu) -> None:
        """Give the guest the interrupt that there is for it, or arrange to hear when it can take it."""
        board, index = self.board, cpu.index
        lapic = board.lapics[index]
        board.bus.receive(index, cpu.now)
        if lapic.signalled:
            self._signal(cpu, lapic)
        if cpu.waits:
            return
        when = board.next_event(index)
        if not (self.waits(cpu) or cpu.halted) and when > cpu.now:
            cpu.host_timer = when
            return
        board.receive(index, cpu.now)
        lapic.advance(cpu.now)
        self.inject(cpu, lapic)
        asleep = cpu.halted and not cpu.interruptible  # HLT with interrupts off: no interrupt will wake it
        cpu.host_timer = None if asleep else board.next_event(index)

    def inject(self, cpu: Cpu, lapic: Lapic) -> None:
        """All that is due has reached the local APIC: its interrupt is injected, or waits."""
        vmcb, index = self.vmcbs[cpu.index], cpu.index
        lapic.set_priority_class(cpu.tpr)
        held_back = lapic.state.irr and lapic.pending() is None
        vmcb.intercept_cr_write = self.cr_writes | (1 << CR8 if held_back else 0)
        window = False
        if self.requested(lapic):
            if cpu.interruptible and not cpu.event_pending:
                cpu.halted = False
                cpu.inject(svm.EVENT_INTR | self.accept(lapic))
                window = self.requested(lapic)
            else:
                window = True
        set_window(vmcb, window)
        self.waiting[index] = bool(lapic.state.irr) or lapic.state.extint

    def requested(self, lapic: Lapic) -> bool:
        """Is there an interrupt that the guest takes as soon as it takes any?"""
        return lapic.interrupts

    def accept(self, lapic: Lapic) -> int:
        """The guest takes it: its vector."""
        return lapic.accept()

    def _signal(self, cpu: Cpu, lapic: Lapic) -> None:
        """INIT, a start-up message, an NMI."""

        def start(page: int) -> None:
            startup_state(self.vmcbs[cpu.index], page)
            cpu.start_over()
            self._end_nmi(cpu)
            self.started(cpu)

        take_startup(cpu, lapic, start)
        if cpu.waits or not lapic.state.nmi or self.in_nmi[cpu.index]:
            return
        if cpu.event_pending:
            cpu.ipis.append(cpu.now)  # look again behind the event that comes first
            return
        lapic.state.nmi = cpu.halted = False
        cpu.inject(svm.EVENT_NMI | NMI)
        self.in_nmi[cpu.index] = True
        self.vmcbs[cpu.index].intercept |= intercepts(svm.IRET)

    def _end_nmi(self, cpu: Cpu) -> None:
        self.in_nmi[cpu.index] = False
        self.vmcbs[cpu.index].intercept &= ~intercepts(svm.IRET)

    # --- exits ------------------------------------------------------------------------------------------------

    def _external_interrupt(self, cpu: Cpu, exit: Exit) -> str:
        return "external_interrupt"

    def _interrupt_window(self, cpu: Cpu, exit: Exit) -> str:
        return "interrupt_window"

    def _nmi_window(self, cpu: Cpu, exit: Exit) -> str:
        """The IRET of an NMI's handler (APM vol. 2, 15.20): it runs again, without the intercept."""
        self._end_nmi(cpu)
        return "nmi_window"

    def _cr8_write(self, cpu: Cpu, exit: Exit) -> str:
        """MOV CR8 from a register: the task priority falls, perhaps, below a waiting interrupt."""
        value = cpu.moved_value()
        if value is None or value >> 4:
            cpu.fault(GP)
        else:
            cpu.tpr = value
            cpu.skip(cpu.m.length)
        return "cr8_write"


def set_window(vmcb: Vmcb, wanted: bool) -> None:
    """Ask for a VINTR exit as soon as the guest takes interrupts (APM vol. 2, 15.21.4)."""
    if wanted:
        vmcb.int_ctl |= svm.V_IRQ | svm.V_IGN_TPR
        vmcb.intercept |= intercepts(svm.VINTR)
    else:
        vmcb.int_ctl &= ~(svm.V_IRQ | svm.V_IGN_TPR)
        vmcb.intercept &= ~intercepts(svm.VINTR)
