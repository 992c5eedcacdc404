"""Guests side by side on one physical machine: each with its own CPUs, memory and board, cards shared between them.

Each guest is a Vm. A card stands in the root complex of the first; a function of it that another guest was given moves
to that guest's root complex, so that its DMA and interrupts pass that guest's IOMMU tables.

One virtual time: whoever is behind runs, until it is QUANTUM ahead of the others. What one guest does to another
through a card is therefore seen at most so much too early or too late, and always in the same way.
Simplified: a snapshot is one guest's, without its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hv.host.outside import Outside
from hv.silicon.nvme.card import NvmePhysical
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.cpu import NEVER
from hv.silicon.x86_64.machine import Ended, Idle

if TYPE_CHECKING:
    from hv.vm import Vm

MOST_GUESTS = 4
NETWORK_CARDS = bytes.fromhex("0268760000")  # how their Ethernet addresses begin: locally administered, "hv"
FIRST_HOST = 15
QUANTUM = 25_000 * MILLI  # 10 us at 2.5 GHz: less than any card or wire takes


def ethernet_address(number: int) -> bytes:
    """That of the network card of guest `number`, from 0. The last byte is the last of the guest's IP address too."""
    return NETWORK_CARDS + bytes((FIRST_HOST + number,))


class Neighbours:
    """What the guests of a physical machine share. `outsides`: each one's world outside, in their order."""

    def __init__(self, outsides: Sequence[Outside]) -> None:
        self.outsides = outsides
        self.vms: list[Vm] = []
        self.drives: dict[str, NvmePhysical] = {}  # by column
        self.owners: dict[str, Any] = {}  # who drives their physical functions

    def join(self, vm: Vm) -> int:
        """A guest is being built. Returns its number, from 0."""
        self.vms.append(vm)
        return len(self.vms) - 1

    def run(self, until: int = NEVER) -> bool:
        """Let all guests run, until all have ended or wait for input, or until a virtual time (millicycles): False."""
        waiting: set[Vm] = set()
        while live := [vm for vm in self.vms if vm.machine.ended is None]:
            vm = min(live, key=lambda vm: vm.now)
            if waiting.issuperset(live):
                if (due := min(vm.outlives for vm in self.vms)) == NEVER:
                    return True
                waiting.clear()
                self._outlive(due)
            if vm.now >= until:
                return False
            self._outlive(vm.now)
            horizon = min([until, *(other.now + QUANTUM for other in live if other is not vm)])
            if len(live) < len(self.vms):
                horizon = min(horizon, vm.now + QUANTUM)  # then those who have ended are looked at again
            outcome = vm.run(horizon)
            if isinstance(outcome, Idle):
                waiting.add(vm)
                vm.machine.sleep(max(vm.now + QUANTUM, horizon if horizon != until else 0))
            elif not isinstance(outcome, Ended):
                waiting.clear()
        return True

    def _outlive(self, until: int) -> None:
        """Let the cards act that stand in the root complexes of guests that have ended."""
        for vm in self.vms:
            if vm.outlives <= until:
                vm.outlive(until)
