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


def _whole(_: type[int], tokens: Sequence[cyclopts.Token]) -> int:
    """A whole number; 1.5 and 1e3 are none."""
    try:
        return int(tokens[0].value, 10)
    except ValueError:
        raise ValueError(f"it takes a whole number, not {tokens[0].value!r}") from None


FLAG = Parameter(negative="", show_default=False)
Whole = Annotated[int, Parameter(converter=_whole, metavar="N")]
Iterations = Annotated[
    Whole,
    Parameter(help="How often each operation runs, 1 to 10000; of those that go in bursts, how many bursts of 32."),
]
Seed = Annotated[Whole, Parameter(help="Seed of the operations' payload.")]
Cold = Annotated[bool, FLAG, Parameter(help="Count the first round instead of the second.")]
CostModel = Annotated[str, Parameter(metavar="NAME|FILE", help="A built-in cost model, or a TOML file.")]
Portable = Annotated[bool, FLAG, Parameter(help="Use the path without compiled microcode: the same numbers, slowly.")]
File = Annotated[Path | None, Parameter(metavar="FILE")]
Kernel = Annotated[File, Parameter(help="Another guest ELF file.")]
Set = Annotated[
    list[str] | None,
    Parameter(
        name="--set", negative="", metavar="COLUMN=CELL",
        help="Change a cell: to a letter, or to a mode's id. May be given again, for other columns.",
    ),
]  # fmt: skip
Dash = Annotated[str | None, Parameter(allow_leading_hyphen=True, metavar="FILE")]


def make_settings(
    iterations: int, seed: int, cold: bool, cost_model: str, portable: bool, kernel: Path | None
) -> Settings:
    if not 1 <= iterations <= MOST_ITERATIONS:
        raise HvError(f"--iterations takes 1 to {MOST_ITERATIONS}, not {iterations}")
    if not 0 <= seed < 1 << 63:
        raise HvError(f"--seed takes 0 to 2^63-1, not {seed}")
    guest = load_guest(kernel or default_guest())
    return Settings(guest, load(cost_model), iterations, seed, cold, portable)
