"""What a fuzzer has reached: registers x directions, and named paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol


class Coverage:
    """Counts by name. `expected` is everything that there is to reach."""

    def __init__(self, expected: Iterable[str]) -> None:
        self.expected = frozenset(expected)
        self.reached: Counter[str] = Counter()

    def hit(self, name: str) -> None:
        self.reached[name] += 1

    @property
    def missing(self) -> list[str]:
        return sorted(self.expected - self.reached.keys())

    def report(self) -> str:
        """One line a name, and last how many of all were reached."""
        lines = [f"{count:8d}  {name}" for name, count in sorted(self.reached.items())]
        found = len(self.expected & self.reached.keys())
        return "\n".join([*lines, f"{found} of {len(self.expected)} reached", *(f"MISSING {m}" for m in self.missing)])


class Attacker(Protocol):
    def step(self) -> None:
        """One hostile act."""


def attack(attacker: Callable[[int, Coverage], Attacker], expected: Iterable[str], seed: int, tries: int) -> Coverage:
    """So many hostile acts. Raises AssertionError, or whatever the victim raises, when it does wrong."""
    coverage = Coverage(expected)
    hostile = attacker(seed, coverage)
    for _ in range(tries):
        hostile.step()
    return coverage
