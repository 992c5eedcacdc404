"""Domain 0: what runs on a CPU of its own beside the guest's, between the guest's rings and the world outside.

It sleeps until something comes: a kick of a front end, a frame, the end of a disk command. `delay` later, which is what
an interrupt of a PV domain's CPU costs, it acts, in the guest's virtual time but in none of its exits. The guest sees
what it does in shared memory at once, and by an event, which costs an exit where the guest runs.
Simplified: that CPU is never busy with anything else, and what domain 0 then computes takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hv.silicon.x86_64.cpu import NEVER

if TYPE_CHECKING:
    from hv.host.wire import Wire, WireState
    from hv.vm import Vm


class Worker(Protocol):
    """A back end, or the wire that domain 0's card is on."""

    @property
    def deadline(self) -> int | None:
        """When it next has something to do by itself (virtual time in millicycles), or None."""

    def advance(self, now: int) -> None:
        """Time has come to `now`: do what is due."""


class BackendCpu:
    """A companion of the guest's CPUs (hv/silicon/x86_64/machine.py): `deadline` is when it next acts."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        timing = vm.costs.timing
        self.delay = timing.exception + timing.iret + vm.costs.work_of("external_interrupt")
        self.workers: list[Worker] = []
        self.wire: Wire | None = None
        self.deadline = NEVER
        vm.machine.beside.append(self)

    @property
    def now(self) -> int:
        """Virtual time in millicycles."""
        return self.vm.now

    def lay_wire(self) -> Wire:
        """The wire that domain 0's own card is on, and with it every network back end behind its bridge."""
        if self.wire is None:
            self.wire = self.vm.outside.lay_wire(self.vm.costs, lambda: self.vm.now)
            self.wire.reschedule = self.reschedule
            self.workers.append(self.wire)
        return self.wire

    def reschedule(self) -> None:
        """Somebody's deadline has changed."""
        self.deadline = min((w.deadline for w in self.workers if w.deadline is not None), default=NEVER)
        self.vm.machine.look_by(self.deadline)

    def advance(self, now: int) -> None:
        """Let them act whose time has come, in the order of their times, each at its own."""
        while self.deadline <= now:
            due = [(worker.deadline, place) for place, worker in enumerate(self.workers) if worker.deadline is not None]
            when, place = min(due)
            self.workers[place].advance(when)
            self.reschedule()

    @property
    def state(self) -> WireState | None:
        """What is on the wire. The back ends' states are kept with their front ends' (bus.py)."""
        return None if self.wire is None else self.wire.state

    @state.setter
    def state(self, state: WireState | None) -> None:
        if self.wire is not None and state is not None:
            self.wire.state = state
        self.reschedule()
