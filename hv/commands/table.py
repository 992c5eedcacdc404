"""hv table: operations on rows, exits per operation. hv stat: one operation's exits by reason."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing

import msgspec

from hv.commands import terminal
from hv.commands.options import (
    Changes,
    Cold,
    CostModel,
    Document,
    Globs,
    Iterations,
    Kernel,
    Operation,
    Portable,
    Rows,
    Seed,
    make_settings,
)
from hv.commands.terminal import progress_line
from hv.costs import DEFAULT
from hv.documents import check_target, write_document
from hv.errors import HvError
from hv.measure import NotThere, RowRunner, run_table, table_of
from hv.mode import Mode, find_modes
from hv.ops import find_op, select
from hv.table import ROWS, Impossible, Row, customize, find_row, missing_mode
from hv.workers import measure_rows, worthwhile


def _choose(names: str | None, changes: list[str], installed: Mapping[str, type[Mode]]) -> list[Row]:
    """The rows named, each once; all rows when none are.

    A row that a change makes impossible stays as it is if it was named, to be compared with, and is left out if not.
    """
    wanted = list(ROWS) if names is None else list(dict.fromkeys(name.strip() for name in names.split(",")))
    chosen, refused = [], []
    for row in map(find_row, wanted):
        try:
            chosen.append(customize(row, changes, installed))
        except Impossible as error:
            refused.append(error)
            if names is not None:
                chosen.append(row)
    if len(refused) == len(wanted):
        raise refused[0]
    if names is not None:
        for why in refused:
            sys.stderr.write(f"hv: {why}; it is measured as it is\n")
    return chosen


def table(
    *, rows: Rows = None, ops: Globs = None, set: Changes = None, iterations: Iterations = 100, seed: Seed = 0,
    cold: Cold = False, cost_model: CostModel = DEFAULT, portable: Portable = False, kernel: Kernel = None,
    json: Document = None, csv: Document = None, html: Document = None,
) -> None:  # fmt: skip
    """Run operations on rows and print exits per operation.

    Parameters
    ----------
    rows
        Row ids, comma-separated. Without it: all.
    ops
        Operations, comma-separated globs, e.g. 'cpu.*'. Without it: the article's grid.
    json
        Write the results as JSON to a file, or - for stdout.
    csv
        Write the results as CSV to a file, or - for stdout.
    html
        Write the tables as one HTML page to a file, or - for stdout.
    """
    from hv import report

    installed = find_modes()
    settings = make_settings(iterations, seed, cold, cost_model, portable, kernel)
    documents = [target for target in (json, csv, html) if target is not None]
    if documents.count("-") > 1:
        raise HvError("only one of --json, --csv and --html can go to stdout")
    for target in documents:
        check_target(target)  # now, and not after all that measuring
    chosen = _choose(rows, set or [], installed)
    unbuilt = {row.id: mode for row in chosen if (mode := missing_mode(row, installed)) is not None}
    if rows is not None and unbuilt:
        row, mode = next(iter(unbuilt.items()))
        raise HvError(f"row {row} is not built yet: it needs mode {mode}", 1)
    # A document carries every operation unless some are named; the grid needs the headlines only.
    wanted = select("*" if ops is None and documents else ops)
    built = [row for row in chosen if row.id not in unbuilt]
    workers = worthwhile(len(built), len(wanted))
    with progress_line() as progress:
        if workers > 1:
            result = table_of(measure_rows(built, wanted, settings, progress, workers), settings)
        else:
            result = run_table(built, wanted, installed, settings, progress)
    if json is not None:
        write_document(json, msgspec.json.format(msgspec.json.encode(result), indent=1).decode() + "\n")
    if csv is not None:
        write_document(csv, report.as_csv(result))
    if html is not None:
        write_document(html, report.as_html(chosen, wanted, result, unbuilt))
    if "-" not in documents:
        if ops is None:
            terminal.print_table(report.grid(chosen, result, unbuilt, terminal.out.width))
        else:
            terminal.out.print(report.operations(wanted, result, terminal.out.width))


def stat(
    row: str, /, *, op: Operation, set: Changes = None, iterations: Iterations = 100, seed: Seed = 0,
    cold: Cold = False, cost_model: CostModel = DEFAULT, portable: Portable = False, kernel: Kernel = None,
) -> None:  # fmt: skip
    """Show one operation's exits by reason, as perf kvm stat does.

    Parameters
    ----------
    row
        A row id; hv rows lists them.
    op
        An operation; hv ops lists them.
    """
    from hv import report

    installed = find_modes()
    settings = make_settings(iterations, seed, cold, cost_model, portable, kernel)
    operation = find_op(op)
    chosen = customize(find_row(row), set or [], installed)
    with closing(RowRunner(chosen, installed, settings)) as runner:
        measured = runner.run(operation)
    if isinstance(measured, NotThere):
        raise HvError(f"row {chosen.id} has no {op}: {measured.na}", 1)
    terminal.print_table(report.stat(chosen.id, operation, measured, cold))
