"""The bottom line: the keys of a screen, also to be clicked.

Textual's own footer is built anew at every change of focus, which takes longer than the rest of a frame. This one is
a line of text.
"""

from __future__ import annotations

from textual.widgets import Static


class KeyBar(Static):
    """Each key comes with its name and with the action that a click starts."""

    def __init__(self, *keys: tuple[str, str, str]) -> None:
        parts = [f"[b $accent]{key}[/] [@click={action}]{name}[/]" for key, name, action in keys]
        super().__init__("  ".join(parts), id="keys")
