"""Xen beside a PC: what the mode paravirt provides where hardware virtualizes the CPU."""

from __future__ import annotations

import msgspec

from hv.host.wire import WireState
from hv.silicon.pci import COMMAND
from hv.vm import Vm
from hv.x86_64.assigned import AssignedFunction
from hv.x86_64.board import Board
from modes.hw_assist.mode import HwAssist
from modes.paravirt.backends.devices import SplitDevices
from modes.paravirt.domain_zero import DomainZero, DomainZeroState
from modes.paravirt.hvm.card import PORTS, PORTS_AT, UNPLUG_IDE, UNPLUG_NICS, PlatformCard
from modes.paravirt.hvm.domain import STORE_FRAME, HvmDomain, HvmState
from modes.paravirt.hvm.interrupts import XenInterrupts
from modes.paravirt.hvm.platform import XenPlatform

CARD_SLOT = 2
IDE, NETWORK = 0x0101, 0x0200  # PCI class and subclass


class BesideState(msgspec.Struct):
    domain: HvmState
    zero: DomainZeroState
    wire: WireState | None


class XenBeside:
    """Puts itself onto the board of `vm`, and between its vCPUs and their interrupts. `split`: what columns add."""

    def __init__(self, vm: Vm, split: SplitDevices) -> None:
        mode, board = vm.mode, vm.board
        assert isinstance(mode, HwAssist)
        assert isinstance(board, Board)
        self.vm, self.split, self.domain = vm, split, HvmDomain(vm)
        self.domain.end = self._end
        self.zero = DomainZero(self.domain)
        self.zero.introduce(vm.machine.ram_size >> 10, {"store/ring-ref": STORE_FRAME})
        board.platform = XenPlatform(self.domain, vm.costs)
        mode.interrupts = XenInterrupts(board, self.domain)
        self.board, self.card = board, PlatformCard(self._unplug)
        board.plug(self.card, CARD_SLOT)
        board.ports.add(PORTS_AT, PORTS, self.card)

    def equip(self, column: str) -> None:
        if column == "interrupts":
            self.domain.offer_vectors()
        before = len(self.split.backends)
        self.split.equip(column)
        for backend in self.split.backends[before:]:
            self.zero.bus.add(backend)

    def _unplug(self, bits: int) -> None:
        """Take emulated devices off the board. Cards that are real stay."""
        for bit, kind in ((UNPLUG_IDE, IDE), (UNPLUG_NICS, NETWORK)):
            for function in self.board.pci.functions.values():
                if (
                    bits & bit
                    and function.header.class_code >> 8 == kind
                    and not isinstance(function, AssignedFunction)
                ):
                    function.present = False
                    self.board.pci.config_write(function, COMMAND, 2, 0)

    def _end(self, cause: str, report: str) -> None:
        """The guest has ended itself."""
        self.zero.destroy()
        self.vm.machine.end(cause, report)

    def state(self) -> BesideState:
        return BesideState(self.domain.state(), self.zero.state(), self.split.state)

    def set_state(self, state: BesideState) -> None:
        self.domain.set_state(state.domain)
        self.zero.set_state(state.zero)
        self.split.state = state.wire
        for function in self.board.pci.functions.values():
            if not isinstance(function, AssignedFunction):
                function.present = True
        self._unplug(self.card.state.unplugged)
