"""How a guest of Xen's with a PC for a board gets its interrupts: from the emulated local APICs, and upcalls by vector.

An upcall's vector comes first, whatever the local APIC's priorities are, which it never passes (Xen, hvm/irq.c). It is
put in again at every exit while the upcall stays pending and the guest takes interrupts; for one that has just been put
in no interrupt window is asked for, since a handler takes it first of all.
"""

from __future__ import annotations

from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import Cpu, Exit
from hv.silicon.x86_64.lapic import Lapic
from hv.x86_64.board import Board
from modes.hw_assist.interrupts import MAY_SIGNAL, EmulatedApics, set_window
from modes.paravirt.calls.scheduling import expire, next_time
from modes.paravirt.hvm.domain import HvmDomain, HvmVcpu


class XenInterrupts(EmulatedApics):
    """Delivery for the vCPUs of `domain`."""

    may_signal = MAY_SIGNAL | {svm.VMMCALL}

    def __init__(self, board: Board, domain: HvmDomain) -> None:
        super().__init__(board, len(domain.vcpus))
        self.domain = domain

    def due(self, cpu: Cpu, exit: Exit) -> bool:
        return super().due(cpu, exit) or next_time(self.domain.vcpus[cpu.index]) is not None

    def more_waits(self, cpu: Cpu) -> bool:
        return self._upcall(cpu) or super().more_waits(cpu)

    def deliver(self, cpu: Cpu) -> None:
        v = self.domain.vcpus[cpu.index]
        expire(v)
        if v.s.blocked and self._wakes(v):
            cpu.halted = False
        self.domain.upcall.follow()
        super().deliver(cpu)
        if not cpu.halted:
            v.s.blocked, v.s.polled, v.s.poll_until = False, frozenset(), None
        when = next_time(v)
        if when is not None and not cpu.waits and not self._deaf(v):
            at = self.domain.when(when)
            cpu.host_timer = at if cpu.host_timer is None else min(cpu.host_timer, at)

    def inject(self, cpu: Cpu, lapic: Lapic) -> None:
        waits = self._upcall(cpu)
        if waits and cpu.interruptible and not cpu.event_pending:
            vector = self.domain.upcall.vector
            assert vector is not None
            cpu.halted = waits = False
            cpu.inject(svm.EVENT_INTR | vector)
        super().inject(cpu, lapic)
        if waits:
            set_window(self.vmcbs[cpu.index], True)
            self.waiting[cpu.index] = True  # so that the window is shut again

    def _upcall(self, cpu: Cpu) -> bool:
        """Is there an upcall for the vCPU that comes by the vector of all?"""
        domain = self.domain
        by_vector = domain.upcall.vector is not None and not domain.vcpus[cpu.index].s.own_vector
        return by_vector and domain.upcall_pending(cpu.index)

    def _wakes(self, v: HvmVcpu) -> bool:
        """It waits by sched_op: for the ports that it polls, or for any upcall, also one that it cannot take."""
        domain = self.domain
        if v.s.polled:
            return any(domain.events.is_pending(port) for port in v.s.polled)
        return domain.upcall_pending(v.index)

    def _deaf(self, v: HvmVcpu) -> bool:
        """It sleeps in HLT with interrupts off: no timer wakes it."""
        return v.cpu.halted and not v.s.blocked and not v.cpu.interruptible
