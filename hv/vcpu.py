"""A virtual CPU. The silicon runs it and calls `dispatch` at every exit: the only place where exits are handled and
counted. When it returns, the guest goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.silicon.x86_64.cpu import Cpu, Exit, Shutdown
from hv.silicon.x86_64.svm import INTR

if TYPE_CHECKING:
    from hv.vm import Vm


class Vcpu:
    """One CPU of a guest, on a physical CPU of its own."""

    def __init__(self, vm: Vm, cpu: Cpu) -> None:
        self.vm, self.cpu = vm, cpu
        self.index, self.m, self.ledger = cpu.index, cpu.m, vm.ledger
        cpu.on_exit, cpu.on_wake = self.dispatch, self.wake

    def dispatch(self, exit: Exit) -> None:
        """One exit: the mode handles it and names the reason, the ledger counts it.

        The silicon has charged the switch there and back already; the handler's own work comes on top.
        """
        vm, ledger, m = self.vm, self.ledger, self.m
        ledger.open = True
        before = m.extra
        try:
            if exit.code == INTR:
                vm.take_interrupts(self.index)
            reason = vm.mode.handle(self, exit)
        except Shutdown as crash:
            reason = "shutdown"
            vm.machine.end("crash", str(crash))
        after = m.extra + vm.work[reason]
        m.extra = after
        ledger.count(self.index, reason, after - before + self.cpu.switch)
        ledger.open = False

    def wake(self) -> None:
        """The CPU waits in its HLT exit, and something has come. That exit is still open; this is no new one."""
        self.ledger.open = True
        try:
            self.vm.take_interrupts(self.index)
            self.vm.mode.wake(self)
        except Shutdown as crash:
            self.vm.machine.end("crash", str(crash))
        self.ledger.open = False
