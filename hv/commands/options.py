"""What the options of the command line take, how `--help` calls it, and what it says of those that several have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token

from hv.costs import load
from hv.errors import HvError
from hv.loader import default_guest, load_guest
from hv.measure import Settings

MOST_ITERATIONS = 10_000


def _whole(_: type[int], tokens: Sequence[Token]) -> int:
    """A whole number; 1.5 and 1e3 are none."""
    try:
        return int(tokens[0].value, 10)
    except ValueError:
        raise ValueError(f"it takes a whole number, not {tokens[0].value!r}") from None


Iterations = Annotated[
    int,
    Parameter(
        converter=_whole, metavar="N",
        help="How often each operation runs, 1 to 10000; of those that go in bursts, how many bursts of 32.",
    ),
]  # fmt: skip
Seed = Annotated[int, Parameter(converter=_whole, metavar="N", help="Seed of the operations' payload.")]
Cold = Annotated[bool, Parameter(negative="", show_default=False, help="Count the first round instead of the second.")]
Portable = Annotated[
    bool,
    Parameter(
        negative="", show_default=False, help="Use the path without compiled microcode: the same numbers, slowly."
    ),
]
CostModel = Annotated[str, Parameter(metavar="NAME|FILE", help="A built-in cost model, or a TOML file.")]
Kernel = Annotated[Path | None, Parameter(metavar="FILE", help="Another guest ELF file.")]
Whole = Annotated[int, Parameter(converter=_whole, metavar="N")]
Mib = Annotated[int, Parameter(name="-m", converter=_whole, metavar="MIB")]
Cpus = Annotated[int | None, Parameter(name="-smp", converter=_whole, metavar="N")]
Rows = Annotated[str | None, Parameter(metavar="ROW,...")]
Globs = Annotated[str | None, Parameter(metavar="GLOB,...")]
Operation = Annotated[str, Parameter(metavar="OPERATION")]
Changes = Annotated[
    list[str] | None,
    Parameter(
        name="--set", negative="", metavar="COLUMN=CELL",
        help="Change a cell of the rows: to a letter, or to a mode's id. May be given again, for other columns.",
    ),
]  # fmt: skip
Lines = Annotated[list[str] | None, Parameter(name="-c", negative="", metavar="LINE")]
File = Annotated[Path | None, Parameter(metavar="FILE")]
Image = Annotated[Path | None, Parameter(name="-drive", metavar="FILE")]
Document = Annotated[str | None, Parameter(allow_leading_hyphen=True, metavar="FILE")]  # or - for stdout
Url = Annotated[str | None, Parameter(name="-nbd", metavar="URL")]
Function = Annotated[str | None, Parameter(metavar="FUNCTION")]


def make_settings(
    iterations: int, seed: int, cold: bool, cost_model: str, portable: bool, kernel: Path | None
) -> Settings:
    if not 1 <= iterations <= MOST_ITERATIONS:
        raise HvError(f"--iterations takes 1 to {MOST_ITERATIONS}, not {iterations}")
    if not 0 <= seed < 1 << 63:
        raise HvError(f"--seed takes 0 to 2^63-1, not {seed}")
    guest = load_guest(kernel or default_guest())
    return Settings(guest, load(cost_model), iterations, seed, cold, portable)
