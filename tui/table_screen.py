"""The article's table. Enter measures a row; below it stand the operations of a column and one cell's exits by reason.

What is shown has been measured by hv.measure, nothing else is known here. A letter followed by a dot is not built yet.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.style import Style
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.coordinate import Coordinate
from textual.screen import Screen
from textual.widgets import DataTable, Static

from hv.measure import Measured, NotThere, Settings
from hv.mode import Mode
from hv.ops import OPS, Op
from hv.report import number
from hv.table import COLUMN_TITLES, COLUMNS, LETTERS, ROWS, SHORT, Row, cell_mode, missing_mode
from tui.exits_view import bar, measured
from tui.key_bar import KeyBar
from tui.machine_screen import MachineScreen
from tui.measuring import Filled, Finished, Measuring, Progress
from tui.palette import Palette

WIDE = 104  # columns from which there is room for what the article calls a row
NARROWEST, WIDEST = 7, 18  # of a column of the table
HEADLINES = {op.column: op for op in OPS.values() if op.headline}
ROW_IDS = tuple(ROWS)


class Grid(DataTable[Text]):
    """The table: Enter and a second click on a cell choose it."""

    BINDINGS = [Binding("enter", "select_cursor", "Run")]


class OpList(DataTable[Text]):
    """The operations of a column: the cursor picks the one that the table shows."""

    BINDINGS = [Binding("enter", "screen.back", "Back to the table")]


class TableScreen(Screen[None]):
    """Keeps what has been measured, and which operation stands for each column."""

    HELP_TEXT = """
[b]The table[/b]
Each row is a machine, each column a part of it. The letter is the technique:
  [b $error]VS[/] virtualized in software    [b $success]VH[/] virtualized in hardware
  [b $warning]P[/]  paravirtualized            [b $primary]H[/]  hardware
The number behind it: exits to the hypervisor for one operation.
A letter with a dot is not built yet.

  [b $accent]Enter[/]    measure the row; on a measured cell: look at its exits
  [b $accent]r[/]  [b $accent]a[/]     measure the row again; measure all rows
  [b $accent]o[/]        pick the operation that the table shows
  [b $accent]Tab[/]      table, operations, exits by reason
  [b $accent]m[/]        the row's machine: its console, and its exits live
  [b $accent]q[/]        quit
"""
    AUTO_FOCUS = "#grid"
    BINDINGS = [
        Binding("o", "operations", "Operation"),
        Binding("m", "machine", "Machine"),
        Binding("a", "run_all", "All rows"),
        Binding("r", "run", "Run again", show=False),
        Binding("tab", "app.focus_next", "Panel"),
        Binding("escape", "back", "Back", show=False),
    ]

    def __init__(self, modes: Mapping[str, type[Mode]], settings: Settings) -> None:
        super().__init__()
        self.modes = modes
        self.settings = settings
        self.shown: dict[str, Op] = dict(HEADLINES)
        self.measured: dict[str, dict[str, Measured | NotThere | str]] = {}
        self.measuring = Measuring(modes, settings, self.post_message)
        self._busy = False
        self._wide = False
        self._width = NARROWEST

    def compose(self) -> ComposeResult:
        grid = Grid(id="grid", header_height=2, cell_padding=1, zebra_stripes=True)
        grid.border_title = "AWS EC2 Virtualization Types (B. Gregg, 2017)"
        unbuilt = any(self.missing(row, column) for row in ROWS.values() for column in COLUMNS)
        legend = "VS software  P paravirt  VH hardware-assist  H hardware"
        grid.border_subtitle = legend + ("  · not built yet" if unbuilt else "")
        yield grid
        with Horizontal(id="below"):
            ops = OpList(id="ops", cursor_type="row", cell_padding=1)
            for title, width in (("operation", 16), ("exits", 5), ("cycles", 7)):
                ops.add_column(title, width=width)
            yield ops
            with VerticalScroll(id="exits-panel"):
                yield Static(id="exits")
        yield Static(id="status")
        yield KeyBar(
            ("⏎", "Run", "screen.run"), ("o", "Operation", "screen.operations"), ("m", "Machine", "screen.machine"),
            ("a", "All", "screen.run_all"), ("Tab", "Panel", "app.focus_next"), ("F1", "Help", "app.help"),
            ("^P", "Commands", "app.command_palette"), ("q", "Quit", "app.quit"),
        )  # fmt: skip

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self._draw()
        self.query_one(Grid).move_cursor(row=ROW_IDS.index("nitro"), column=self._first)
        self._say("Enter boots the row under the cursor and runs every operation on it.")

    def on_resize(self, event: events.Resize) -> None:
        self._wide = event.size.width >= WIDE
        others = 50 if self._wide else 29
        self._width = min(max((event.size.width - others) // len(COLUMNS) - 2, NARROWEST), WIDEST)
        self._draw()

    def on_unmount(self) -> None:
        self.measuring.stop()

    # --- where the cursor is ----------------------------------------------------------------------------------

    @property
    def _first(self) -> int:
        """Columns in front of the table's own."""
        return 2 if self._wide else 1

    @property
    def row(self) -> Row:
        """The row under the cursor."""
        return ROWS[ROW_IDS[self.query_one(Grid).cursor_row]]

    @property
    def column(self) -> str:
        """The column under the cursor; the first one when it stands on the names or on the state."""
        at = self.query_one(Grid).cursor_column - self._first
        return COLUMNS[at] if 0 <= at < len(COLUMNS) else COLUMNS[0]

    def missing(self, row: Row, column: str = "cpu") -> str | None:
        """The mode that this cell waits for, or None."""
        if column == "cpu":
            return missing_mode(row, self.modes)
        return None if cell_mode(row, column, self.modes) else row.modes[column]

    # --- drawing ----------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        """Everything, from the start: the width or the theme is another one."""
        grid, palette = self.query_one(Grid), Palette(self.app)
        at = Coordinate(grid.cursor_row, max(grid.cursor_column, 0))
        moved = 0
        if grid.columns:
            moved = self._first + len(COLUMNS) + 1 - len(grid.columns)
        grid.clear(columns=True)
        grid.add_column("row", key="row", width=9)
        if self._wide:
            grid.add_column("tech", key="tech", width=19)
        for column in COLUMNS:
            grid.add_column(self._title(column), key=column, width=self._width)
        grid.add_column("state", key="state", width=10)
        for row in ROWS.values():
            built = self.missing(row) is None
            style = Style(bold=True) if built else palette.faint
            names = [Text(row.id, style), *([Text(row.label, "" if built else palette.faint)] if self._wide else [])]
            cells = [self._cell(row, column, palette) for column in COLUMNS]
            grid.add_row(*names, *cells, self._state(row, palette), key=row.id)
        grid.move_cursor(row=at.row, column=at.column + moved)
        self._draw_below()

    def _title(self, column: str) -> Text:
        op = self.shown.get(column)
        name = COLUMN_TITLES[column] if self._width == WIDEST else SHORT[column]
        detail = op.id.partition(".")[2] if op else "-"
        return Text.assemble(name, "\n", (_cut(detail, self._width), "dim"))

    def _cell(self, row: Row, column: str, palette: Palette) -> Text:
        letter = row.cells[column]
        if self.missing(row, column) is not None:
            return Text(f"{letter} ·", palette.faint)
        op = self.shown.get(column)
        outcome = self.measured.get(row.id, {}).get(op.id) if op else None
        text = Text(letter, palette.letters[letter] + Style(bold=True))
        if isinstance(outcome, Measured):
            text.append(" " + number(outcome.result.exits_per_op), Style(bold=True))
        elif outcome is not None:
            text.append(" na", palette.faint)
        return text

    def _state(self, row: Row, palette: Palette) -> Text:
        if self.missing(row) is not None:
            return Text("not built", palette.faint)
        if any(waiting.id == row.id for waiting in self.measuring.waiting):
            return Text("runs" if self.measuring.waiting[0].id == row.id else "waits", palette.accent)
        done = len(self.measured.get(row.id, {}))
        return Text(f"{done} ops", palette.plain) if done else Text("not run", palette.faint)

    def _draw_row(self, row: Row) -> None:
        grid, palette = self.query_one(Grid), Palette(self.app)
        for column in COLUMNS:
            grid.update_cell(row.id, column, self._cell(row, column, palette))
        grid.update_cell(row.id, "state", self._state(row, palette))

    def _draw_below(self) -> None:
        """The operations of the column, and the exits of the one that is shown."""
        ops, column, row = self.query_one(OpList), self.column, self.row
        mine = [op for op in OPS.values() if op.column == column]
        ops.border_title = f"{COLUMN_TITLES[column]} on {row.id}"
        known = self.measured.get(row.id, {})
        chosen = self.shown.get(column)
        if [key.value for key in ops.rows] != [op.id for op in mine]:
            with self.prevent(DataTable.RowHighlighted):
                ops.clear()
                for op in mine:
                    ops.add_row(Text(op.id.partition(".")[2]), Text(""), Text(""), key=op.id)
        for index, op in enumerate(mine):
            outcome, style = known.get(op.id), "bold" if op is chosen else ""
            exits = cycles = ""
            if isinstance(outcome, Measured):
                exits = number(outcome.result.exits_per_op)
                cycles = f"{outcome.result.cycles_per_op:,.0f}"
            elif outcome is not None:
                exits = "na"
            ops.update_cell_at(Coordinate(index, 0), Text(op.id.partition(".")[2], style))
            ops.update_cell_at(Coordinate(index, 1), Text(exits, style, justify="right"))
            ops.update_cell_at(Coordinate(index, 2), Text(cycles, style, justify="right"))
        if chosen in mine and ops.cursor_row != mine.index(chosen):
            with self.prevent(DataTable.RowHighlighted):
                ops.move_cursor(row=mine.index(chosen))
        self._draw_exits()

    def _draw_exits(self) -> None:
        panel, exits = self.query_one("#exits-panel", VerticalScroll), self.query_one("#exits", Static)
        row, column, palette = self.row, self.column, Palette(self.app)
        op, letter = self.shown.get(column), row.cells[column]
        mode, missing = row.modes[column], self.missing(row, column)
        outcome = self.measured.get(row.id, {}).get(op.id) if op else None
        panel.border_title = f"{op.id} on {row.id}" if op and missing is None else f"{column} on {row.id}"
        panel.border_subtitle = f"{letter} {LETTERS[letter]}"
        head = Text.assemble((f"{row.label}", "bold"), f"  {row.drivers}" if row.drivers else "", "\n")
        if missing is not None:
            head.append(f"{COLUMN_TITLES[column]} is not built yet: it needs mode {missing}.", palette.faint)
            exits.update(head)
        elif isinstance(outcome, Measured):
            exits.update(measured(outcome, palette, max(panel.size.width - 3, 20)))
        elif isinstance(outcome, NotThere):
            exits.update(head.append(f"This machine has none: {outcome.na}.", palette.faint))
        elif outcome is not None:
            exits.update(head.append(outcome, palette.error))
        else:
            head.append(f"{op.meaning}.\n" if op else "", palette.faint)
            queued = any(waiting.id == row.id for waiting in self.measuring.waiting)
            todo = "It will be measured soon." if queued else f"Not measured yet: Enter runs it under mode {mode}."
            exits.update(head.append(todo))

    def _say(self, text: str | Text) -> None:
        self.query_one("#status", Static).update(Text(text) if isinstance(text, str) else text)

    # --- what the user does -----------------------------------------------------------------------------------

    @on(DataTable.CellHighlighted, "#grid")
    def _moved(self) -> None:
        self._draw_below()

    @on(DataTable.CellSelected, "#grid")
    def _chosen(self) -> None:
        if self.row.id in self.measured and self.missing(self.row, self.column) is None:
            self.query_one("#exits-panel").focus()
        else:
            self.action_run()

    @on(DataTable.RowHighlighted, "#ops")
    def _picked(self, event: DataTable.RowHighlighted) -> None:
        if event.row_key is not None and event.row_key.value in OPS:
            self.choose(OPS[event.row_key.value])

    def choose(self, op: Op) -> None:
        """Let the table show this operation."""
        if self.shown.get(op.column) is op:
            return
        self.shown[op.column] = op
        grid = self.query_one(Grid)
        grid.ordered_columns[grid.get_column_index(op.column)].label = self._title(op.column)
        for row in ROWS.values():
            self._draw_row(row)
        grid.refresh()
        self._draw_below()
        self._say(f"{op.id}: {op.meaning}")

    def action_operations(self) -> None:
        """Go to the list of operations."""
        self.query_one(OpList).focus()
        if not self.query_one(OpList).row_count:
            self._say(f"No operation of column {self.column} is built yet.")
            self.query_one(Grid).focus()

    def action_back(self) -> None:
        """Back to the table."""
        self.query_one(Grid).focus()

    def action_run(self) -> None:
        """Measure the row under the cursor."""
        self.measure(self.row)

    def action_run_all(self) -> None:
        """Measure all rows that are built."""
        for row in ROWS.values():
            if self.missing(row) is None:
                self.measure(row)

    def measure(self, row: Row) -> None:
        """Put a row into the queue, and start the thread unless it runs."""
        missing = self.missing(row)
        if missing is not None:
            self._say(f"{row.label} is not built yet: it needs mode {missing}.")
            return
        if all(waiting.id != row.id for waiting in self.measuring.waiting):
            self.measured.pop(row.id, None)
            self.measuring.waiting.append(row)
            self._draw_row(row)
            self._draw_below()
        self._start()

    def _start(self) -> None:
        if not self._busy:
            self._busy = True
            self.run_worker(self.measuring.work, thread=True, group="measuring", exit_on_error=False)

    def action_machine(self) -> None:
        """The machine of the row under the cursor."""
        self.open_machine(self.row)

    def open_machine(self, row: Row) -> None:
        """Boot a row and show its console and exits."""
        missing = self.missing(row)
        if missing is not None:
            self._say(f"{row.label} has no machine yet: it needs mode {missing}.")
        else:
            self.app.push_screen(MachineScreen(row, self.modes, self.settings))

    # --- what the measuring thread tells ----------------------------------------------------------------------

    @on(Progress)
    def _progress(self, event: Progress) -> None:
        palette = Palette(self.app)
        share = event.index / len(OPS)
        self._say(Text.assemble(f"{event.row}  ", (bar(share, 20), palette.accent),
                                f"  {event.index} of {len(OPS)}  ", (event.op, "bold"), self._queue()))  # fmt: skip
        self._draw_row(ROWS[event.row])

    def _queue(self) -> str:
        behind = len(self.measuring.waiting) - 1
        return f"  {behind} row{'s' * (behind != 1)} behind it" if behind > 0 else ""

    @on(Filled)
    def _filled(self, event: Filled) -> None:
        self.measured.setdefault(event.row, {})[event.op] = event.outcome
        self._draw_row(ROWS[event.row])
        if event.row == self.row.id:
            self._draw_below()

    @on(Finished)
    def _finished(self, event: Finished) -> None:
        known = self.measured.get(event.row, {})
        failed = sum(isinstance(outcome, str) for outcome in known.values())
        self._draw_row(ROWS[event.row])
        if event.error is not None:
            self._say(Text(event.error, Palette(self.app).error))
        elif failed:
            self._say(f"{event.row}: {len(known) - failed} operations measured, {failed} gave no result.")
        else:
            exits = sum(sum(o.result.exits.values()) for o in known.values() if isinstance(o, Measured))
            self._say(f"{event.row}: {len(known)} operations, {exits:,} exits.  Tab: reasons.  o: other operations.")
        if not self.measuring.waiting:
            self._busy = False


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
