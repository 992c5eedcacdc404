"""A guest whose CPU only counts, so that a test can play the drivers of the cards that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from hv.host.outside import Outside
from hv.host.store import MemoryStore
from hv.loader import Guest, Segment
from hv.mode import Mode
from hv.neighbours import Neighbours
from hv.silicon.deadlines import NEVER
from hv.silicon.iommu import Fault
from hv.silicon.x86_64.machine import Paused
from hv.vm import Vm
from hv.x86_64.assigned import AssignedFunction
from hv.x86_64.pool import CARDS_POOL_BASE, POOL_BASE
from modes.hw_assist.mode import HwAssist
from modes.sriov.mode import Sriov
from tests.support import assemble, costs

CODE, COUNT, SHOWN = 0x10_0000, 0x1_1000, 0x1_1008
RAM_BASE = HwAssist.ram_base


class Ram:
    """The guest's memory, as a driver writes to it."""

    def __init__(self, vm: Vm) -> None:
        self.memory = vm.machine.memory

    def __getitem__(self, part: slice) -> bytes:
        return self.memory.read(RAM_BASE + part.start, part.stop - part.start)

    def __setitem__(self, part: slice, data: bytes) -> None:
        self.memory.write(RAM_BASE + part.start, data)


class SpinningGuest:
    """A guest whose CPU counts at COUNT and shows at SHOWN a number that is in its code.

    A subclass says which columns' cards it has, and where the windows of each are: base address registers and addresses
    by the card's place on the guest's board.
    """

    columns: ClassVar[tuple[str, ...]]
    windows: ClassVar[Mapping[int, Mapping[int, int]]]

    def __init__(self, neighbours: Neighbours | None = None, outside: Outside | None = None) -> None:
        code = assemble(f".code32\n1: incl {COUNT}\n movl $1, {SHOWN}\n jmp 1b", CODE)
        guest = Guest(Path("spinning"), "", CODE, [Segment(CODE, len(code.data), code.data)], {}, b"")
        self.outside = outside or Outside(local=MemoryStore(4096))
        modes: dict[str, type[Mode]] = {"cpu": HwAssist, **dict.fromkeys(self.columns, Sriov)}
        self.vm = Vm(modes, guest, costs(), mib=16, outside=self.outside, neighbours=neighbours)
        self.ram = Ram(self.vm)
        for place, windows in self.windows.items():
            for register, window in windows.items():
                self.configure(place, register, window)
            self.configure(place, 4, 6, 2)

    def function(self, place: int) -> AssignedFunction:
        function = self.vm.board.pci.functions[place]
        assert isinstance(function, AssignedFunction)
        return function

    def configure(self, place: int, offset: int, value: int, size: int = 4) -> None:
        self.vm.board.pci.config_write(self.function(place), offset, size, value)

    def pass_time(self) -> None:
        """Until the cards have nothing left to do. The guest goes on counting, or this fails."""
        cards = self.vm.machine.cards
        assert cards is not None
        while True:
            before = self.count()
            outcome = self.vm.run(max(cards.deadline if cards.deadline != NEVER else 0, self.vm.now) + 10_000_000)
            assert isinstance(outcome, Paused), outcome
            assert self.count() > before, "the guest has stopped"
            if cards.deadline == NEVER:
                return

    def count(self) -> int:
        return int.from_bytes(self.ram[COUNT : COUNT + 4], "little")

    @property
    def faults(self) -> list[Fault]:
        cards = self.vm.machine.cards
        assert cards is not None
        return cards.iommu.state.faults

    def elsewhere(self) -> list[bytes]:
        """The hypervisor's memory, but its first page: the VMCB changes all the time."""
        return [
            bytes(region.data[region.offset + 0x1000 : region.offset + region.size])
            for region in self.vm.machine.memory.regions
            if region.base in (POOL_BASE, CARDS_POOL_BASE)
        ]
