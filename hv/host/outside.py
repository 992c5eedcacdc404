"""The outside world as a VM sees it: whoever is at the other ends of its wires.

What it remembers is part of the VM's snapshots, so that a run continued from one is the run that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hv.host.console import Console
from hv.host.pcap import Capture
from hv.host.peer import Peer
from hv.host.wire import Wire

if TYPE_CHECKING:
    from hv.costs import CostModel


class Outside:
    """A console; a wire, if the machine has a network card; `pcap`: a file for what goes over it."""

    def __init__(self, console: Console | None = None, pcap: Path | None = None) -> None:
        self.console = console or Console()
        self.pcap = pcap
        self.wire: Wire | None = None

    def lay_wire(self, costs: CostModel, clock: Callable[[], int]) -> Wire:
        """The wire, with the embedded peer at its other end. Its state is the board's to keep: it is a device there."""
        tsc_hz = costs.timing.tsc_hz
        self.wire = wire = Wire(tsc_hz, costs.wire, clock)
        wire.plug_station(lambda send: Peer(tsc_hz, costs.wire.turnaround, send))
        if self.pcap is not None:
            wire.capture = Capture(self.pcap, tsc_hz)
        return wire

    def save(self) -> bytes:
        """What is on its way in, and has not arrived."""
        return bytes(self.console.input)

    def load(self, saved: bytes) -> None:
        """Go back to what save() gave."""
        self.console.input = bytearray(saved)
        self.console.output.clear()

    def close(self) -> None:
        """Finish the files."""
        if self.wire is not None and self.wire.capture is not None:
            self.wire.capture.close()
