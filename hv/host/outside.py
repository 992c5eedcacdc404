"""The outside world as a VM sees it: whoever is at the other ends of its wires.

What it remembers is part of the VM's snapshots, so that a run continued from one is the run that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hv.host.aoe import AoeTarget
from hv.host.console import Console
from hv.host.nbd import embedded
from hv.host.pcap import Capture
from hv.host.peer import Peer
from hv.host.store import MemoryStore, Store
from hv.host.wire import GIGABIT, Wire

if TYPE_CHECKING:
    from hv.costs import CostModel


class Outside:
    """A console; a wire, if the machine has a network card; `pcap`: a file for what goes over it; two disks.

    Without others the disks are in memory, the same at each start; the remote one is behind the embedded NBD server.
    """

    def __init__(
        self, console: Console | None = None, pcap: Path | None = None, local: Store | None = None,
        remote: Store | None = None,
    ) -> None:  # fmt: skip
        self.console = console or Console()
        self.local = local or MemoryStore(name="local")
        self.remote = remote or embedded(MemoryStore(name="remote"), lambda text: None)
        self.pcap = pcap
        self.wire: Wire | None = None

    def lay_wire(self, costs: CostModel, clock: Callable[[], int], speed: int = GIGABIT) -> Wire:
        """The wire, `speed` in Mb/s, with the embedded peer at its other end. Whoever has its time keeps its state."""
        tsc_hz = costs.timing.tsc_hz
        self.wire = wire = Wire(tsc_hz, costs.wire, clock, speed)
        wire.plug_station(lambda send: Peer(tsc_hz, costs.wire.turnaround, send))
        if self.pcap is not None:
            wire.capture = Capture(self.pcap, tsc_hz)
        return wire

    def serve_blocks(self, costs: CostModel) -> None:
        """Put the remote disk on the wire: an ATA-over-Ethernet target, a server with a drive like the local one."""
        assert self.wire is not None
        turnaround = costs.wire.turnaround
        self.wire.plug_station(lambda send: AoeTarget(self.remote, costs.local, turnaround, send))

    def save(self) -> tuple[bytes, Any, Any]:
        """What is on its way in and has not arrived, and the disks as far as they are not outside the process."""
        return bytes(self.console.input), self.local.state(), self.remote.state()

    def load(self, saved: tuple[bytes, Any, Any]) -> None:
        """Go back to what save() gave."""
        typed, local, remote = saved
        self.console.input = bytearray(typed)
        self.console.output.clear()
        self.local.set_state(local)
        self.remote.set_state(remote)

    def close(self) -> None:
        """Finish the files, leave the servers."""
        self.local.close()
        self.remote.close()
        if self.wire is not None and self.wire.capture is not None:
            self.wire.capture.close()
