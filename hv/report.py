"""Draws a measured table: the article's grid, the operations, CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Collection, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hv.measure import Measured, NotThere, OpResult, RowResult, TableResult
from hv.ops import OPS, Op
from hv.silicon.timing import MILLI
from hv.table import COLUMN_TITLES, COLUMNS, LETTERS, SHORT, Row

LAYOUTS = ("tech type with titles", "tech type with", "tech type", "tech", "")  # of the grid, the widest first
OPERATION_WIDTH, ROW_WIDTH = 26, 22  # columns that an operation's name takes, and a row's exits and cycles
MOST_COLUMNS = 1000
PAINT = {"VS": "#ff8077", "P": "#f2c55c", "VH": "#7fd88f", "H": "#6cb6ff"}
STYLES = {letter: f"#000000 on {colour}" for letter, colour in PAINT.items()}


def number(value: float) -> str:
    """A count an operation: whole when it is whole, else at most two decimals."""
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def grid(rows: list[Row], table: TableResult, unbuilt: dict[str, str], width: int = 140) -> Table:
    """The article's grid: a letter and the exits of one headline operation a column. A blank is not built yet.

    It says as much about each row as `width` columns have room for.
    """
    results = {row.id: row for row in table.rows}
    headlines = {op.column: op for op in OPS.values() if op.headline}
    counts = {
        (row.id, column): number(result.exits_per_op)
        for row in table.rows
        for column, op in headlines.items()
        if isinstance(result := row.ops.get(op.id), OpResult)
    }
    for about in LAYOUTS:
        drawn = _grid(rows, counts, results.keys(), about)
        if needed_width(drawn) <= width:
            break
    drawn.caption = _legend(headlines, unbuilt, blank=len(counts) < len(rows) * len(COLUMNS))
    return drawn


def _grid(rows: list[Row], counts: Mapping[tuple[str, str], str], measured: Collection[str], about: str) -> Table:
    drawn = Table(
        title="AWS EC2 Virtualization Types (B. Gregg, 2017), and the exits of one operation",
        box=box.SIMPLE_HEAD, padding=0, title_justify="left", title_style="bold", caption_justify="left",
        caption_style="",
    )  # fmt: skip
    facts: dict[str, list[str]] = {"tech": [row.label for row in rows], "type": [row.type for row in rows],
                                   "with": [row.drivers for row in rows]}  # fmt: skip
    names = [Text(row.id, style="bold" if row.id in measured else "dim") for row in rows]
    columns: list[Sequence[str | Text]] = [names]
    drawn.add_column("row", no_wrap=True)
    for fact in (fact for fact in facts if fact in about):
        drawn.add_column(fact, no_wrap=True)
        columns.append(facts[fact])
    for column in COLUMNS:
        title = COLUMN_TITLES[column].replace(" ", "\n") if "titles" in about else SHORT[column]
        texts = [f"{row.cells[column]} {counts.get((row.id, column), '')} " for row in rows]
        wide = max(map(len, [*texts, *title.split("\n")]))
        drawn.add_column(title, no_wrap=True)
        columns.append([
            Text(text.ljust(wide), style=STYLES[row.cells[column]] if (row.id, column) in counts else "dim")
            for row, text in zip(rows, texts, strict=True)
        ])  # fmt: skip
    for line in zip(*columns, strict=True):
        drawn.add_row(*line)
    return drawn


def needed_width(drawn: Table) -> int:
    """How many columns a table takes of whose cells none is wrapped or cut off."""
    return Console(width=MOST_COLUMNS, file=io.StringIO()).measure(drawn).maximum


def _legend(headlines: dict[str, Op], unbuilt: dict[str, str], *, blank: bool) -> Text:
    legend = [Text.assemble((f"{one:<3}", STYLES[one]), f" {LETTERS[one]:<25}") for one in ("VS", "VH", "P", "H")]
    lines = [
        legend[0] + legend[1],
        legend[2] + legend[3],
        Text("the number: exits to the hypervisor for one " + ", ".join(op.id for op in headlines.values())),
        Text("the columns: what matters most for performance is on the left"),
    ]
    if blank:
        lines.append(
            Text("a letter without a number: that machine does not have the operation, or it is not built yet")
        )
    if unbuilt:
        lines.append(Text("rows not built yet: " + ", ".join(f"{row} (mode {mode})" for row, mode in unbuilt.items())))
    return Text("\n").join(lines)


def operations(ops: list[Op], table: TableResult, width: int = 1000) -> RenderableType:
    """One line an operation, two columns a row: exits and cycles. As many rows side by side as `width` has room for."""
    room = max(1, (width - OPERATION_WIDTH) // ROW_WIDTH)
    parts = [table.rows[at : at + room] for at in range(0, len(table.rows), room)]
    drawn = [_operations(ops, rows) for rows in parts]
    drawn[0].title = "exits per operation, and virtual cycles per operation"
    drawn[-1].caption = f"cost model {table.cost_model}, seed {table.seed}"
    return Group(*drawn)


def _operations(ops: list[Op], rows: list[RowResult]) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    drawn.add_column("operation")
    for row in rows:
        drawn.add_column(f"{row.id}\nexits", justify="right")
        drawn.add_column("\ncycles", justify="right")
    for op in ops:
        cells = [op.id]
        for row in rows:
            result = row.ops.get(op.id)
            if result is None:
                cells += ["", ""]
            elif isinstance(result, NotThere):
                cells += ["na", ""]
            else:
                cells += [number(result.exits_per_op), f"{result.cycles_per_op:,.0f}"]
        drawn.add_row(*cells)
    return drawn


def stat(row: str, op: Op, measured: Measured, cold: bool) -> Table:
    """What `perf kvm stat` would show for one operation: exits by reason, dearest first. Cycles are virtual."""
    result, tallies = measured.result, measured.tallies
    inside = sum(tally.time for tally in tallies.values())
    total = sum(tally.count for tally in tallies.values())
    rounds = f"{'first' if cold else 'second'} round of {result.iterations} iterations"
    how = "one cold run" if op.once else rounds
    drawn = Table(
        box=box.SIMPLE_HEAD, title=f"{op.id} on {row}: {op.meaning}", title_justify="left", caption_justify="left",
        collapse_padding=True, pad_edge=False, caption=f"{how}\nan operation: exits "
        f"{number(result.exits_per_op)}, cycles {number(result.cycles_per_op)}, in exits "
        f"{percent(inside, measured.time)}",
    )  # fmt: skip
    drawn.add_column("reason", no_wrap=True)
    for heading in ("count", "count %", "cycles %", "min", "avg", "max", "per op"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for reason, tally in sorted(tallies.items(), key=lambda item: (-item[1].time, item[0])):
        cycles = [number(round(time / MILLI, 1)) for time in (tally.low, tally.mean, tally.high)]
        shares = [percent(tally.count, total), percent(tally.time, inside)]
        drawn.add_row(reason, str(tally.count), *shares, *cycles, number(tally.count / result.iterations))
    if not tallies:
        drawn.add_row("none", "0", *[""] * 5, "0")
    return drawn


def percent(part: int, whole: int) -> str:
    """A share with one decimal."""
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def as_csv(table: TableResult) -> str:
    """One line for each row, operation and exit reason; a line with an empty reason carries the totals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        "row operation iterations reason exits exits_per_op instructions_per_op cycles_per_op result na".split()
    )
    for row in table.rows:
        for name, op in row.ops.items():
            if isinstance(op, NotThere):
                writer.writerow([row.id, name, "", "", "", "", "", "", "", op.na])
                continue
            writer.writerow(
                [row.id, name, op.iterations, "", sum(op.exits.values()), op.exits_per_op, op.instructions_per_op,
                 op.cycles_per_op, op.result, ""]
            )  # fmt: skip
            for reason, count in op.exits.items():
                writer.writerow([row.id, name, op.iterations, reason, count, count / op.iterations, "", "", "", ""])
    return out.getvalue()


def as_html(rows: list[Row], ops: list[Op], table: TableResult, unbuilt: dict[str, str]) -> str:
    """One page that needs nothing else: the grid, the operations, and where the numbers came from."""
    canvas = Console(record=True, file=io.StringIO(), width=140, force_terminal=True)
    canvas.print(grid(rows, table, unbuilt))
    if ops:
        canvas.print(operations(ops, table))
    body = canvas.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
    source = html.escape(f"guest {table.guest_sha256}, cost model {table.cost_model}, seed {table.seed}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>hv table</title>'
        f'<body style="font-family: monospace">{body}<p>{source}</p></body></html>\n'
    )
