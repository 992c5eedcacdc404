"""The options that several commands have, each with its help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from hv.costs import load
from hv.errors import HvError
from hv.loader import default_guest, load_guest
from hv.measure import Settings

MOST_ITERATIONS = 10_000


def whole(_: type[int], tokens: Sequence[cyclopts.Token]) -> int:
    """A whole number; 1.5 and 1e3 are none."""
    return int(tokens[0].value, 10)


Iterations = Annotated[
    int,
    Parameter(
        converter=whole,
        help="How often each operation runs, 1 to 10000; of those that go in bursts, how many bursts of 32.",
    ),
]
Seed = Annotated[int, Parameter(converter=whole, help="Seed of the operations' payload.")]
Cold = Annotated[bool, Parameter(negative="", help="Count the first round instead of the second.")]
CostModel = Annotated[str, Parameter(help="A built-in cost model, or a TOML file.")]
Portable = Annotated[
    bool, Parameter(negative="", help="Use the path without compiled microcode: the same numbers, slowly.")
]
Kernel = Annotated[Path | None, Parameter(help="Another guest ELF file.")]
Set = Annotated[list[str] | None, Parameter(name="--set", negative="", help="COLUMN=CELL: a letter or a mode's id")]
Dash = Annotated[str | None, Parameter(allow_leading_hyphen=True)]


def make_settings(
    iterations: int, seed: int, cold: bool, cost_model: str, portable: bool, kernel: Path | None
) -> Settings:
    if not 1 <= iterations <= MOST_ITERATIONS:
        raise HvError(f"--iterations takes 1 to {MOST_ITERATIONS}, not {iterations}")
    if not 0 <= seed < 1 << 63:
        raise HvError(f"--seed takes 0 to 2^63-1, not {seed}")
    guest = load_guest(kernel or default_guest())
    return Settings(guest, load(cost_model), iterations, seed, cold, portable)
