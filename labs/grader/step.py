"""A lab's steps, and what became of one: plain records, which travel between the two processes of a check."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hv.mode import Mode


class Finding(Exception):
    """A step is not done: what was expected, what happened instead, the exits around it."""

    def __init__(self, expected: str, happened: str, exits: list[str] | None = None) -> None:
        super().__init__(happened)
        self.expected, self.happened, self.exits = expected, happened, exits or []


class TooSlow(BaseException):
    """Raised into Python code that does not come back. Not an Exception, so that `except Exception` lets it through."""


class Step(msgspec.Struct, frozen=True):
    """`check` raises Finding when the student's mode does not do yet what the step asks for."""

    title: str
    points: int
    hint: str
    check: Callable[[type[Mode]], None]


class Lab(msgspec.Struct, frozen=True):
    """`file` is what the student writes, `name` the class in it, `afterwards` what to say when all is done."""

    title: str
    file: str
    name: str
    steps: tuple[Step, ...]
    afterwards: str

    @property
    def points(self) -> int:
        return sum(step.points for step in self.steps)


class Verdict(msgspec.Struct):
    """One step as it was found. `loaded` is False when it was never tried, because the file is not usable."""

    passed: bool
    expected: str = ""
    happened: str = ""
    exits: list[str] = []
    loaded: bool = True
