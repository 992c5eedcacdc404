"""Colours: hv's own themes, and the style of each letter of the table. A letter is always written, too."""

from __future__ import annotations

from rich.style import Style
from textual.app import App
from textual.color import Color
from textual.theme import Theme

DARK = Theme(
    name="hv-dark", dark=True, primary="#6cb6ff", secondary="#8f9dff", accent="#ffb454", foreground="#d3dce8",
    background="#0d131c", surface="#111925", panel="#1b2637", success="#7fd88f", warning="#f2c55c", error="#ff8077",
)  # fmt: skip
LIGHT = Theme(
    name="hv-light", dark=False, primary="#1f5fa8", secondary="#5b4bb5", accent="#b35c00", foreground="#1d2733",
    background="#f6f7f9", surface="#ffffff", panel="#e4e9f0", success="#1f7a3a", warning="#8a6100", error="#b3261e",
)  # fmt: skip


class Palette:
    """The styles of the theme that is on now, for text inside widgets."""

    def __init__(self, app: App[None]) -> None:
        theme = app.current_theme
        self.plain = self._style(theme.foreground)
        self.accent = self._style(theme.accent)
        self.primary = self._style(theme.primary)
        self.error = self._style(theme.error)
        self.faint = Style(dim=True)
        self.letters = {
            "VS": self._style(theme.error),
            "P": self._style(theme.warning),
            "VH": self._style(theme.success),
            "H": self._style(theme.primary),
        }

    @staticmethod
    def _style(colour: str | None) -> Style:
        return Style() if colour is None else Style(color=Color.parse(colour).rich_color)
