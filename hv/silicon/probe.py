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


class Probe:
    """Filled in by the machine; read by the ledger and by whoever ran the operation."""

    def __init__(self) -> None:
        self.marks = (0, 0)
        self.window = 0
        self.windows: list[Window] = []
        self._begin: Window | None = None

    @property
    def inside(self) -> bool:
        return self.window % 2 == 1

    def hit(self, which: int, retired: int, time: int, assists: Counter[str]) -> None:
        """The CPU stands in front of a mark: 1 begin, 2 end. An end without a begin does not count."""
        if which == 1:
            self._begin = Window(retired, time, dict(assists))
            self.window |= 1
        elif self._begin is not None:
            begin, self._begin = self._begin, None
            spent = {name: count - begin.assists.get(name, 0) for name, count in sorted(assists.items())}
            self.windows.append(
                Window(retired - begin.retired, time - begin.time, {name: n for name, n in spent.items() if n})
            )
            self.window += 1
