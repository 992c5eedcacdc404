"""A running guest: its console, and beside it what it exits for, live.

The guest runs at full speed in a thread; the screen looks at the ledger HERTZ times a second. Rates are exits in a
second of the host's, to watch a guest at work; they are no result. The stream shows the last exits, equal ones that
follow each other on one line, and says how many it no longer has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Static

from hv.measure import Settings
from hv.mode import Mode
from hv.table import Row
from tui.console_view import ConsoleView
from tui.exits_view import last, rates
from tui.guest_thread import GuestThread
from tui.key_bar import KeyBar
from tui.lines_view import LinesView
from tui.palette import Palette

HERTZ = 5
ECHO_SECONDS, ECHO_LOOKS = 0.01, 10  # after a key: look for its echo so often, so many times


class MachineScreen(Screen[None]):
    """Everything on it is read from the thread's ledger and console."""

    HELP_TEXT = """
[b]The machine[/b]
Left the guest's console: what you type goes to the guest.
  try [b]help[/b], [b]ps[/b], [b]bench cpu.cpuid 1000[/b], [b]spin[/b]
Right its exits: how many since it was switched on, how many in a
second, and the last ones one by one. Cycles are what one cost.
On bare metal nothing exits: there is nobody to exit to.

  [b $accent]Ctrl-C[/]   ends the guest's command  [b $accent]Ctrl-D[/]   the guest powers off
  [b $accent]PgUp[/]     look back                 [b $accent]F5[/]       switch it off and on
  [b $accent]Tab[/]      console, exits            [b $accent]Esc[/]      leave the machine
"""
    AUTO_FOCUS = "#console"
    BINDINGS = [
        Binding("escape,ctrl+right_square_bracket", "leave", "Leave the machine"),
        Binding("f5", "restart", "Off and on"),
        Binding("tab", "app.focus_next", "Panels"),
    ]

    def __init__(self, row: Row, modes: Mapping[str, type[Mode]], settings: Settings) -> None:
        super().__init__()
        self.row, self.modes, self.settings = row, modes, settings
        self.guest = GuestThread(row, modes, settings)
        self._before: tuple[float, dict[str, int]] = (0.0, {})
        self._drawn = -1
        self._rates: dict[str, float] = {}
        self._told = False
        self._looks = 0

    def compose(self) -> ComposeResult:
        with Horizontal(id="machine"):
            console = ConsoleView(self._typed, id="console")
            console.border_title = f"{self.row.id}: {self.row.label}"
            yield console
            with Vertical(id="watch"):
                yield LinesView("exits", id="totals")
                yield LinesView("the last exits", id="stream")
        yield Static(id="status")
        yield KeyBar(
            ("Esc", "Leave", "screen.leave"), ("F5", "Off and on", "screen.restart"),
            ("Tab", "Panel", "app.focus_next"), ("F1", "Help", "app.help"), ("F2", "Screenshot", "app.picture"),
            ("^P", "Commands", "app.command_palette"),
        )  # fmt: skip

    def on_mount(self) -> None:
        self.guest.start()
        self.set_interval(1 / HERTZ, self._look)
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw_exits())
        self._say("What you type goes to the guest. Try: bench cpu.cpuid 1000")

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw_exits)  # when the panels have their new widths

    def on_unmount(self) -> None:
        self.guest.stop()

    # --- typing -----------------------------------------------------------------------------------------------

    def _typed(self, data: bytes) -> None:
        """Hand keys to the guest, and look for the echo soon."""
        self.guest.feed(data)
        running = self._looks > 0
        self._looks = ECHO_LOOKS
        if not running:
            self.set_timer(ECHO_SECONDS, self._look_for_echo)

    def _look_for_echo(self) -> None:
        self._looks -= 1
        self._read()
        if self._looks > 0:
            self.set_timer(ECHO_SECONDS, self._look_for_echo)

    # --- looking ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        text = self.guest.take_output()
        if text:
            self.query_one(ConsoleView).write(text)

    def _look(self) -> None:
        """One look at everything."""
        ended = self.guest.ended  # first, so that nothing it has printed before is missed
        self._read()
        now, totals = time.monotonic(), self.guest.totals()
        then, before = self._before
        self._before = now, totals
        per_second = {
            reason: (count - before.get(reason, 0)) / (now - then)
            for reason, count in totals.items() if before and count > before.get(reason, 0)
        }  # fmt: skip
        if self.guest.stream.seen != self._drawn or per_second != self._rates:
            self._drawn, self._rates = self.guest.stream.seen, per_second
            self._draw_exits()
        if ended is not None and not self._told:
            self._told = True
            self._end(ended)

    def _draw_exits(self) -> None:
        palette, (_, totals) = Palette(self.app), self._before
        above, stream = self.query_one("#totals", LinesView), self.query_one("#stream", LinesView)
        above.show(rates(totals, self._rates, palette, above.width), f"{sum(totals.values()):,} in all")
        lines, shown = last(self.guest.stream, max(stream.size.height, 1), palette, stream.width)
        stream.show(lines, f"{self.guest.stream.seen - shown:,} earlier ones")

    def _end(self, why: str) -> None:
        console = self.query_one(ConsoleView)
        if self.guest.details:
            console.write("\n" + self.guest.details + "\n")
        console.open = False
        console.refresh()
        self._say(Text.assemble((why, Palette(self.app).error), "  F5 starts it again, Esc leaves."))

    def _say(self, text: str | Text) -> None:
        self.query_one("#status", Static).update(Text(text) if isinstance(text, str) else text)

    # --- coming and going -------------------------------------------------------------------------------------

    def action_leave(self) -> None:
        """Switch the machine off and go back."""
        self.dismiss()

    def action_restart(self) -> None:
        """Switch it off and on."""
        self.guest.stop()
        self.guest = GuestThread(self.row, self.modes, self.settings)
        self._before, self._told = (0.0, {}), False
        console = self.query_one(ConsoleView)
        console.clear()
        console.focus()
        self.guest.start()
        self._say("Switched off and on.")
