"""The split devices of a machine: which back ends its columns mean, and what is behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.neighbours import ethernet_address
from modes.paravirt.backends.blkback import Blkback
from modes.paravirt.backends.cpu import BackendCpu
from modes.paravirt.backends.netback import Netback

if TYPE_CHECKING:
    from hv.host.wire import WireState
    from hv.vm import Vm
    from modes.paravirt.bus import Bus

XVDA, XVDB = 202 << 8, 202 << 8 | 16  # device numbers of the first two disks (Xen, docs/misc/vbd-interface)


class SplitDevices:
    """`equip` builds a column's back end, `plug` puts all of them on the bus once there is one."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.cpu = BackendCpu(vm)
        self.backends: list[Netback | Blkback] = []

    def equip(self, column: str) -> None:
        """The back end of column net, local or remote."""
        outside, costs = self.vm.outside, self.vm.costs
        if column == "net":
            self.backends.append(Netback(self.cpu, self.cpu.lay_wire(), ethernet_address(self.vm.number)))
        elif column == "local":
            self.backends.append(Blkback(self.cpu, outside.local, costs.local, XVDA))
        elif column == "remote":
            self.backends.append(Blkback(self.cpu, outside.remote, costs.remote, XVDB))

    def plug(self, bus: Bus) -> None:
        for backend in self.backends:
            bus.add(backend)

    def notes(self) -> list[str]:
        """What was refused, for the end of a session."""
        refused = [
            f"{backend.kind} {backend.number}: {count} times {what}"
            for backend in self.backends
            for what, count in sorted(backend.refused.items())
        ]
        return [f"back ends refused: {', '.join(refused)}"] if refused else []

    @property
    def state(self) -> WireState | None:
        """What is on its way outside. The bus keeps what the back ends remember; its state is set before this one."""
        return self.cpu.state

    @state.setter
    def state(self, state: WireState | None) -> None:
        self.cpu.state = state
