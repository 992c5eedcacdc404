"""The ledger: every exit, counted where it happens, with what it cost.

    ledger.tallies(window)  ->  {"cpuid": Tally(count=100, time=170000000, low=1700000, high=1700000)}

Units: counts are exits, times are millicycles of virtual time from the exit to the entry after it. Exits are filed by
the probe's window, so those between the marks of an operation are found again by its number. Limits: what the
silicon does by itself (assists, instructions) is not in here, that is the probe's.
"""

from __future__ import annotations

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
        self.low = time if not self.count else min(self.low, time)
        self.high = max(self.high, time)
        self.count += 1
        self.time += time


class LedgerState(msgspec.Struct):
    """Everything that the ledger remembers: window number, reason id -> tally. The vCPUs' are kept apart."""

    pages: dict[int, dict[str, Tally]] = {}
    vcpus: dict[int, dict[str, int]] = {}


class Ledger:
    """Written by the one line in vcpu.py that dispatches exits, read by everybody."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.state = LedgerState()
        self.open = False  # an exit is being handled

    def count(self, vcpu: int, reason: str, time: int) -> None:
        """File one exit. An undeclared reason is a programming error of a mode and raises KeyError."""
        REASONS[reason]
        page = self.state.pages.setdefault(self.probe.window, {})
        tally = page.get(reason)
        if tally is None:
            tally = page[reason] = Tally()
        tally.add(time)
        counts = self.state.vcpus.setdefault(vcpu, {})
        counts[reason] = counts.get(reason, 0) + 1

    def tallies(self, window: int) -> dict[str, Tally]:
        """The exits in one window, by reason, sorted. Odd windows lie between a begin and an end mark."""
        return dict(sorted(self.state.pages.get(window, {}).items()))

    def totals(self) -> dict[str, int]:
        """All exits since the start, by reason."""
        out: dict[str, int] = {}
        for page in self.state.pages.values():
            for reason, tally in page.items():
                out[reason] = out.get(reason, 0) + tally.count
        return dict(sorted(out.items()))
