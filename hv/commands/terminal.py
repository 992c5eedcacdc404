"""Where the commands print: the two consoles, a list with a heading, a line that says what runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console
from rich.progress import Progress as ProgressBar
from rich.progress import SpinnerColumn, TextColumn
from rich.table import Table

from hv.measure import Progress

WIDE = 140  # columns, where there is no terminal that says how wide it is


def _console(stream: TextIO | None, *, stderr: bool = False) -> Console:
    wide = stream is None or not (stream.isatty() or "COLUMNS" in os.environ)
    return Console(stderr=stderr, highlight=False, width=WIDE if wide else None)


out = _console(sys.stdout)
err = _console(sys.stderr, stderr=True)


def print_list(heading: list[str], lines: list[list[str]]) -> None:
    drawn = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for index, title in enumerate(heading):
        drawn.add_column(title, no_wrap=index == 0, overflow="fold")
    for line in lines:
        drawn.add_row(*line)
    out.print(drawn)


def print_table(drawn: Table) -> None:
    """Print a table of numbers. One that needs more columns than the terminal has is not cut off."""
    from hv.report import needed_width

    out.width = max(out.width, needed_width(drawn))
    out.print(drawn)


@contextmanager
def progress_line() -> Iterator[Progress]:
    """A line on stderr that says what runs, of each row that does; only on a terminal."""
    running: dict[str, str] = {}
    with ProgressBar(
        SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True, disable=not err.file.isatty()
    ) as bar:
        task = bar.add_task("")

        def show(row: str, what: str | None) -> None:
            if what is None:
                running.pop(row, None)
            else:
                running[row] = what
            bar.update(task, description="  ".join(f"{row}: {what}" for row, what in running.items()))

        yield show
