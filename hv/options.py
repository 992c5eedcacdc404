"""What the options of the command line take, and how `--help` calls it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token


def _whole(_: type[int], tokens: Sequence[Token]) -> int:
    """A whole number; 1.5 and 1e3 are none."""
    try:
        return int(tokens[0].value, 10)
    except ValueError:
        raise ValueError(f"it takes a whole number, not {tokens[0].value!r}") from None


Flag = Annotated[bool, Parameter(negative="", show_default=False)]
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
Model = Annotated[str, Parameter(metavar="NAME|FILE")]
