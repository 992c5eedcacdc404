"""A virtual machine: a row's mode, a guest, a machine, a ledger."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import msgspec

from hv.errors import HvError
from hv.host.console import Console
from hv.ledger import Ledger, LedgerState
from hv.loader import Guest
from hv.silicon.x86_64.cpu import NEVER
from hv.silicon.x86_64.machine import Idle, Machine, Outcome, Snapshot
from hv.silicon.x86_64.selftest import self_test
from hv.vcpu import Vcpu
from hv.x86_64.pvh import write_start_info

if TYPE_CHECKING:
    from hv.costs import CostModel
    from hv.mode import Mode
    from hv.silicon.uart16550 import Uart

MIB = 1 << 20
DEFAULT_MIB, SMALLEST_MIB = 64, 16


class VmSnapshot(msgspec.Struct):
    """The whole state of a VM as plain records."""

    machine: Snapshot
    mode: Any
    ledger: LedgerState
    typed: bytes


class Vm:
    """`run()` lets the guest run until something ends, pauses, or waits for input that nobody has typed."""

    uart: Uart  # the guest's serial port; the mode puts it there

    def __init__(
        self, mode: type[Mode], guest: Guest, costs: CostModel, *, mib: int = DEFAULT_MIB, smp: int = 1,
        portable: bool = False, console: Console | None = None,
    ) -> None:  # fmt: skip
        _check_size(guest, mib)
        self_test(costs.timing, portable=portable)
        self.guest, self.costs = guest, costs
        self.work = {reason: costs.work_of(reason) for reason in sorted(mode.reasons | {"shutdown"})}
        self.switch = costs.switch
        self.console = console or Console()
        self.machine = Machine(costs.timing, mib * MIB, ram_base=mode.ram_base, cpus=smp, portable=portable)
        self.ledger = Ledger(self.machine.probe)
        self.vcpus = [Vcpu(self, cpu) for cpu in self.machine.cpus]
        for segment in guest.segments:
            self.write(segment.address, segment.data)
        self.start_info = write_start_info(self.write, mib * MIB, "")
        self.mode = mode(self)
        self.mode.start(guest)
        self.machine.watch_marks(*guest.marks())

    def write(self, address: int, data: bytes) -> None:
        """Write to guest-physical memory from outside, as a loader does."""
        self.machine.memory.write(self.mode_base + address, data)

    @property
    def mode_base(self) -> int:
        return self.machine.ram_base

    def run(self, budget: int = NEVER) -> Outcome:
        """Run until the end, until the guest waits for input, or until virtual time `budget` (millicycles)."""
        while True:
            outcome = self.machine.run(budget)
            if not (isinstance(outcome, Idle) and self.console.pump(self.uart)):
                return outcome

    @property
    def now(self) -> int:
        """Virtual time in millicycles."""
        return self.machine.now

    def snapshot(self) -> VmSnapshot:
        """Everything, so that a run continued from it is the run that never stopped."""
        return VmSnapshot(
            machine=self.machine.snapshot(),
            mode=copy.deepcopy(self.mode.state()),
            ledger=copy.deepcopy(self.ledger.state),
            typed=bytes(self.console.input),
        )

    def restore(self, saved: VmSnapshot) -> None:
        """Go back to a snapshot of this VM, or of one assembled in the same way."""
        self.machine.restore(saved.machine)
        self.mode.set_state(copy.deepcopy(saved.mode))
        self.ledger.state = copy.deepcopy(saved.ledger)
        self.console.input = bytearray(saved.typed)
        self.console.output.clear()

    def close(self) -> None:
        """Give the memory back."""
        self.machine.close()


def _check_size(guest: Guest, mib: int) -> None:
    """Refuse a memory size that the guest does not fit in, or that the host does not have."""
    if mib < SMALLEST_MIB or mib % 2:
        raise HvError(f"-m takes an even number of MiB, {SMALLEST_MIB} or more, not {mib}")
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if mib * MIB > host * 3 // 4:
        raise HvError(f"-m {mib} is more than this host can give ({host * 3 // 4 // MIB} MiB)")
    if guest.segments[-1].address + guest.segments[-1].size > mib * MIB:
        raise HvError(f"guest {guest.path} does not fit in {mib} MiB")
