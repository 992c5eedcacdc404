"""The guest's console as a widget: what it prints, and every key that it should get.

A terminal of the simplest kind: printable characters, newline, carriage return, backspace. It keeps the last LINES
lines and folds long ones at its width; Page Up and the mouse wheel look back.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

LINES = 1000
CURSOR = Style(reverse=True)
CONTROL = re.compile(r"([\x00-\x1f\x7f])")
KEYS = {"enter": b"\r", "backspace": b"\x7f", "ctrl+c": b"\x03", "ctrl+d": b"\x04", "ctrl+u": b"\x15"}


class ConsoleView(ScrollView, can_focus=True):
    """`typed(bytes)` is called for every key that belongs to the guest."""

    def __init__(self, typed: Callable[[bytes], None], *, id: str) -> None:
        super().__init__(id=id)
        self.typed = typed
        self.text: deque[str] = deque([""], maxlen=LINES)
        self.column = 0
        self.open = True  # somebody listens
        self._rows: list[str] = [""]

    # --- what the guest prints --------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """The guest prints."""
        for part in CONTROL.split(text):
            if part == "\n":
                self.text.append("")
                self.column = 0
            elif part == "\r":
                self.column = 0
            elif part == "\b":
                self.column = max(self.column - 1, 0)
            elif part and part >= " " and part != "\x7f":
                line, end = self.text[-1], self.column + len(part)
                self.text[-1] = line[: self.column] + part + line[end:]
                self.column = end
        self._fold()

    def clear(self) -> None:
        """A new guest begins."""
        self.text.clear()
        self.text.append("")
        self.column, self.open = 0, True
        self._fold()

    def _fold(self) -> None:
        width = max(self.scrollable_content_region.width, 1)
        at_end = self.scroll_offset.y >= self.max_scroll_y
        self._rows = [
            line[start : start + width]
            for line in self.text
            for start in range(0, max(len(line.rstrip()), 1), width)
        ]  # fmt: skip
        self.virtual_size = Size(0, len(self._rows))
        if at_end:
            self.scroll_end(animate=False)
        self.refresh()

    def on_resize(self) -> None:
        self._fold()

    def render_line(self, y: int) -> Strip:
        index = y + self.scroll_offset.y
        width = max(self.scrollable_content_region.width, 1)
        style = self.rich_style
        row = self._rows[index] if index < len(self._rows) else ""
        if index == len(self._rows) - 1 and self.has_focus and self.open:
            at = min(self.column % width if len(self.text[-1]) >= width else self.column, width - 1)
            row = row.ljust(at + 1)
            return Strip(
                [Segment(row[:at], style), Segment(row[at], style.chain(CURSOR)), Segment(row[at + 1 :], style)]
            ).adjust_cell_length(width, style)
        return Strip([Segment(row, style)]).adjust_cell_length(width, style)

    # --- what the user types ----------------------------------------------------------------------------------

    async def _on_key(self, event: events.Key) -> None:
        data = KEYS.get(event.key)
        if data is None and event.is_printable and event.character is not None:
            data = event.character.encode("ascii", "ignore")
        if data is not None and self.open:
            event.stop()
            event.prevent_default()
            self._type(data)

    def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        self._type(event.text.replace("\r\n", "\r").replace("\n", "\r").encode("ascii", "ignore"))

    def _type(self, data: bytes) -> None:
        if data and self.open:
            self.scroll_end(animate=False)
            self.typed(data)
