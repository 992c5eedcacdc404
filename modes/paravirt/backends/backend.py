"""What network and block back ends have in common: a thread of domain 0 that sleeps until its front end kicks it."""

from __future__ import annotations

import abc
from collections import Counter
from typing import Generic, TypeVar

import msgspec

from modes.paravirt.backends.cpu import BackendCpu
from modes.paravirt.bus import FrontEnd


class BackendState(msgspec.Struct):
    """Times are in millicycles of virtual time."""

    connected: bool = False
    broken: bool = False  # connected to a front end that is not listened to any more
    wake: int | None = None  # when the thread looks at its rings


S = TypeVar("S", bound=BackendState)


class RingBackend(abc.ABC, Generic[S]):
    """A worker of domain 0 (cpu.py), and a device of xenbus (bus.py)."""

    front: FrontEnd  # while connected
    s: S

    def __init__(self, cpu: BackendCpu) -> None:
        self.cpu = cpu
        self.refused: Counter[str] = Counter()  # requests, by what was wrong with them
        cpu.workers.append(self)

    @abc.abstractmethod
    def next_done(self) -> int | None:
        """When the first thing that is under way outside is complete."""

    @abc.abstractmethod
    def advance(self, now: int) -> None:
        """Time has come to `now`: do what is due."""

    def kicked(self) -> None:
        s = self.s
        if s.wake is None and not s.broken:
            s.wake = self.cpu.now + self.cpu.delay
            self.cpu.reschedule()

    def state(self) -> S:
        return self.s

    @property
    def deadline(self) -> int | None:
        times = self.s.wake, self.next_done()
        return min((time for time in times if time is not None), default=None)
