"""The application: themes, the way from screen to screen, pictures of the screen."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import Screen

from hv.measure import Settings
from hv.mode import Mode
from hv.ops import OPS
from hv.table import ROWS
from tui.help_screen import HelpScreen
from tui.palette import DARK, LIGHT
from tui.table_screen import TableScreen

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REMOTE_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


class HvApp(App[None]):
    """`hv tui`."""

    TITLE = "hv"
    CSS_PATH = "hv.tcss"
    BINDINGS = [
        Binding("f1", "help", "Help", priority=True),
        Binding("f2", "picture", "Screenshot", show=False, priority=True),
        Binding("f3", "change_theme", "Theme", show=False, priority=True),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, modes: Mapping[str, type[Mode]], settings: Settings) -> None:
        super().__init__()
        self.modes, self.settings = modes, settings
        self.table = TableScreen(modes, settings)

    async def run_on_terminal(self) -> int:
        """Run until the user or a signal ends it; the terminal is put right after both. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in ENDING:  # after a refresh: a screen that is not whole yet cannot be taken down
            loop.add_signal_handler(number, self.call_after_refresh, self.exit, None, 128 + number)
        await self.run_async()
        return self.return_code or 0

    def on_mount(self) -> None:
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name
        self.push_screen(self.table)

    def action_help(self) -> None:
        """Show the keys of the screen below, or put the help away."""
        if isinstance(self.screen, HelpScreen):
            self.pop_screen()
        elif not self.screen.is_modal:
            self.push_screen(HelpScreen(str(getattr(self.screen, "HELP_TEXT", ""))))

    def action_picture(self) -> None:
        """Save the screen as an SVG in the current folder."""
        for number in range(1, 1000):
            path = Path(f"hv-screen-{number}.svg")
            if not path.exists():
                break
        try:
            path.write_text(self.export_screenshot(), encoding="utf-8")
        except OSError as error:
            self.notify(f"cannot write {path}: {error.strerror}", severity="error")
        else:
            self.notify(f"saved as {path}", title="Screenshot")

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        """The screen as SVG. The picture names no font that would have to come over the network."""
        return REMOTE_FONT.sub("", super().export_screenshot(title=title, simplify=simplify))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the command palette offers."""
        yield SystemCommand("Help", "The keys of this screen", self.action_help)
        yield SystemCommand("Theme", "Choose the colours", self.action_change_theme)
        yield SystemCommand("Screenshot", "Save the screen as an SVG in the current folder", self.action_picture)
        yield SystemCommand("Quit", "Leave hv", self.action_quit)
        if screen is not self.table:
            return
        yield SystemCommand("Run all", "Measure every row that is built", self.table.action_run_all)
        for id, row in ROWS.items():
            if self.table.missing(row) is None:
                yield SystemCommand(f"Run {id}", f"Measure {row.label}", lambda row=row: self.table.measure(row))
                yield SystemCommand(f"Machine {id}", f"Boot {row.label} and give its console",
                                    lambda row=row: self.table.open_machine(row))  # fmt: skip
        for op in OPS.values():
            yield SystemCommand(f"Show {op.id}", op.meaning, lambda op=op: self.table.choose(op))
