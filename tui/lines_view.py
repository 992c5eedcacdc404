"""A panel of lines that change many times a second: it is drawn again without laying the screen out again."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

Line = list[tuple[str, Style]]


class LinesView(ScrollView, can_focus=True):
    """`show(lines)` replaces what is there; a line is pieces of text with a style each."""

    def __init__(self, title: str, *, id: str) -> None:
        super().__init__(id=id)
        self.border_title = title
        self.lines: list[Line] = []

    @property
    def width(self) -> int:
        """Cells of a line that can be seen."""
        return self.scrollable_content_region.width

    def show(self, lines: list[Line], note: str) -> None:
        """Draw these lines, and a note in the border."""
        if len(lines) != len(self.lines):
            self.virtual_size = Size(0, len(lines))
        self.lines = lines
        self.border_subtitle = note
        self.refresh()

    def render_line(self, y: int) -> Strip:
        at, style = y + self.scroll_offset.y, self.rich_style
        line = self.lines[at] if at < len(self.lines) else []
        return Strip([Segment(text, style + own) for text, own in line]).adjust_cell_length(self.width, style)
