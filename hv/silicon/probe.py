"""The probe: two addresses watched like a logic analyser watches a bus, at no cost to the guest.

An operation of the guest lies between the two marks. Each time the CPU stands in front of one, the probe notes the
clock and the counters. `window` is odd while an operation runs, so that whoever counts exits can file them under it.
"""

from __future__ import annotations

from collections import Counter

import msgspec


class Window(msgspec.Struct):
    """What the silicon did between a begin mark and the next end mark. Times are in millicycles."""

    retired: int
    time: int
    assists: dict[str, int]


class ProbeState(msgspec.Struct):
    """Everything that the probe remembers. `window` is odd between a begin and an end."""

    window: int = 0
    windows: list[Window] = []
    begin: Window | None = None


class Probe:
    """Filled in by the machine; read by the ledger and by whoever ran the operation."""

    def __init__(self) -> None:
        self.state = ProbeState()

    @property
    def window(self) -> int:
        return self.state.window

    @property
    def windows(self) -> list[Window]:
        return self.state.windows

    def open(self) -> None:
        """Begin a window at reset, which the guest's first end mark closes."""
        self.state.begin, self.state.window = Window(0, 0, {}), 1

    def hit(self, which: int, retired: int, time: int, assists: Counter[str]) -> None:
        """The CPU stands in front of a mark: 1 begin, 2 end. An end without a begin does not count."""
        s = self.state
        if which == 1:
            s.begin = Window(retired, time, dict(assists))
            s.window |= 1
        elif s.begin is not None:
            begin, s.begin = s.begin, None
            spent = {name: count - begin.assists.get(name, 0) for name, count in sorted(assists.items())}
            s.windows.append(
                Window(retired - begin.retired, time - begin.time, {name: n for name, n in spent.items() if n})
            )
            s.window += 1
