"""F1: what the keys of the screen below do."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

EVERYWHERE = """
[b]Everywhere[/b]
  [b $accent]F1[/]       this help          [b $accent]Ctrl-P[/]   all commands
  [b $accent]F2[/]       save a screenshot  [b $accent]F3[/]       choose a theme
  [b $accent]Esc[/]      back               [b $accent]Ctrl-Q[/]   quit"""


class HelpScreen(ModalScreen[None]):
    """Any of the usual keys puts it away."""

    BINDINGS = [Binding("escape,enter,space,q", "dismiss", "Back", show=False)]

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "Help"
            box.border_subtitle = "Esc puts it away"
            yield Static(self.text.strip("\n") + "\n" + EVERYWHERE)
