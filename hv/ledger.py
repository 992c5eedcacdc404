"""The ledger: every exit, counted where it happens, with what it cost.

    ledger.tallies(window)  ->  {"cpuid": Tally(count=100, time=170000000, low=1700000, high=1700000)}

Units: counts are exits, times are millicycles of virtual time from the exit to the entry after it. Exits are filed by
the probe's window, so those between the marks of an operation are found again by its number. Limits: what the
silicon does by itself (assists, instructions) is not in here, that is the probe's. Another thread may read while the
guest runs: it sees every exit, though perhaps the last one's count without its time.
"""

from __future__ import annotations

from collections import deque

import msgspec

from hv.exits import REASONS
from hv.silicon.probe import Probe


class Tally(msgspec.Struct):
    """Exits of one reason."""

    count: int = 0
    time: int = 0
    low: int = 0
    high: int = 0

    def add(self, time: int) -> None:
        if not (self.count and self.low <= time <= self.high):
            self.low = min(self.low, time) if self.count else time
            self.high = max(self.high, time)
        self.count += 1
        self.time += time

    @property
    def mean(self) -> float:
        """Average time of one exit."""
        return self.time / self.count if self.count else 0.0

    def merge(self, other: Tally) -> None:
        """Take another tally's exits in."""
        self.low = other.low if not self.count else min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.count += other.count
        self.time += other.time


class LedgerState(msgspec.Struct):
    """Everything that the ledger remembers: window number -> vCPU -> reason id -> tally."""

    pages: dict[int, dict[int, dict[str, Tally]]] = {}


class Stream:
    """The last exits one by one, for a screen that watches. It forgets the oldest, and knows how many."""

    def __init__(self, length: int) -> None:
        self.last: deque[tuple[int, str, int]] = deque(maxlen=length)  # vCPU, reason, time
        self.seen = 0

    def add(self, vcpu: int, reason: str, time: int) -> None:
        self.seen += 1
        self.last.append((vcpu, reason, time))


class Ledger:
    """Written by the one line in vcpu.py that dispatches exits, read by everybody."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.state = LedgerState()
        self.open = False  # an exit is being handled
        self.stream: Stream | None = None  # somebody wants to see single exits

    def count(self, vcpu: int, reason: str, time: int) -> None:
        """File one exit. A reason that is not in the table is a mistake of the mode: KeyError."""
        try:
            tally = self.state.pages[self.probe.state.window][vcpu][reason]
        except KeyError:
            page = self.state.pages.setdefault(self.probe.state.window, {}).setdefault(vcpu, {})
            tally = page[REASONS[reason].id] = Tally()
        tally.add(time)
        if self.stream is not None:
            self.stream.add(vcpu, reason, time)

    def tallies(self, window: int, vcpu: int | None = None) -> dict[str, Tally]:
        """The exits in one window, by reason, sorted; of one vCPU or of all. Odd windows are operations."""
        out: dict[str, Tally] = {}
        for index, page in list(self.state.pages.get(window, {}).items()):
            if vcpu in (None, index):
                for reason, tally in list(page.items()):
                    out.setdefault(reason, Tally()).merge(tally)
        return dict(sorted(out.items()))

    def totals(self) -> dict[str, int]:
        """All exits since the start, by reason."""
        out: dict[str, int] = {}
        for window in list(self.state.pages):
            for reason, tally in self.tallies(window).items():
                out[reason] = out.get(reason, 0) + tally.count
        return dict(sorted(out.items()))
