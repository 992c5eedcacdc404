"""The outside world as a VM sees it: whoever is at the other ends of its wires.

What it remembers is part of the VM's snapshots, so that a run continued from one is the run that never stopped.
"""

from __future__ import annotations

from hv.host.console import Console


class Outside:
    """The console so far. A wire and block stores join it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    def save(self) -> bytes:
        """What is on its way in, and has not arrived."""
        return bytes(self.console.input)

    def load(self, saved: bytes) -> None:
        """Go back to what save() gave."""
        self.console.input = bytearray(saved)
        self.console.output.clear()
