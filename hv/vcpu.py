"""A virtual CPU: run, exit, dispatch. The only place where exits are dispatched and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.silicon.x86_64.cpu import Cpu, Exit, Shutdown

if TYPE_CHECKING:
    from hv.vm import Vm


class Vcpu:
    """One CPU of a guest, on a physical CPU of its own."""

    def __init__(self, vm: Vm, cpu: Cpu) -> None:
        self.vm, self.cpu = vm, cpu
        self.index = cpu.index

    def dispatch(self, exit: Exit) -> None:
        """One exit: the mode handles it and names the reason, the ledger counts it.

        The silicon has charged the switch there and back already; the handler's own work comes on top.
        """
        vm, cpu = self.vm, self.cpu
        vm.ledger.open = True
        started = cpu.now
        try:
            reason = vm.mode.handle(self, exit)
        except Shutdown as crash:
            reason = "shutdown"
            vm.machine.end("crash", str(crash))
        cpu.charge(vm.costs.work_of(reason))
        vm.ledger.count(self.index, reason, cpu.now - started + vm.costs.switch)
        vm.ledger.open = False

    def wake(self) -> None:
        """The CPU waits in its HLT exit, and something has come. That exit is still open; this is no new one."""
        self.vm.ledger.open = True
        self.vm.mode.wake(self)
        self.vm.ledger.open = False
