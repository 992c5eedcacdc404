"""The console: what sits at the other end of the guest's serial line.

Input is handed over when the guest waits for it, so that the moment of arrival is a matter of virtual time only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class SerialEnd(Protocol):
    """The guest's end of the line: a 16550, or a ring that a PV domain shares."""

    @property
    def room(self) -> int:
        """How many bytes it takes now."""

    def receive(self, data: bytes) -> None:
        """Bytes arrive."""


class Console:
    """Collects output; `on_output(bytes)` also sees every byte at once."""

    def __init__(self, on_output: Callable[[bytes], None] | None = None) -> None:
        self.on_output = on_output
        self.output = bytearray()
        self.input = bytearray()

    def sink(self, byte: int) -> None:
        """The guest sends a byte."""
        self.output.append(byte)
        if self.on_output is not None:
            self.on_output(bytes((byte,)))

    def feed(self, data: bytes) -> None:
        """The user types. It reaches the guest as its receiver has room."""
        self.input += data

    def pump(self, end: SerialEnd) -> bool:
        """Hand over what fits. True when something was."""
        chunk = bytes(self.input[: end.room])
        if not chunk:
            return False
        del self.input[: len(chunk)]
        end.receive(chunk)
        return True

    def take(self) -> str:
        """The output since the last call, as text."""
        text = self.output.decode("utf-8", "replace")
        self.output.clear()
        return text
