"""How a guest with a PC for a board is told that events wait (public/hvm/params.h, HVM_PARAM_CALLBACK_IRQ).

    by a line     an interrupt of the I/O APIC, or a PCI pin: high while an upcall waits on vCPU 0, unless that has a
                  vector of its own. The guest ends it at its emulated controllers, as any device's; when it has taken
                  the upcall, the line falls.
    by a vector   put into the vCPU by Xen, past all controllers: there is nothing to end. Every vCPU has it.
    by a vector of a vCPU's own (HVMOP_set_evtchn_upcall_vector): sent to its local APIC, where it is to be ended.

Only the second and the third are for a vCPU other than 0, and only if Xen offers them (XENFEAT_hvm_callback_vector).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hv.silicon.pci import PIRQS
from hv.silicon.x86_64.ioapic import PINS
from hv.silicon.x86_64.pc import IRQS
from hv.x86_64.board import Board

NOTHING, LINE, PIN, VECTOR = range(4)
FIRST_VECTOR = 16  # the local APIC takes no lower ones


class UpcallState(msgspec.Struct):
    via: int = 0  # the parameter
    high: bool = False  # the line or pin is driven


class Upcall:
    """`waits()`: is there an upcall on vCPU 0 for the line or pin? `vectors`: does Xen offer them?"""

    vectors = False

    def __init__(self, board: Board, waits: Callable[[], bool]) -> None:
        self.board, self.waits = board, waits
        self.s = UpcallState()
        self._lines = [board.line(irq) for irq in range(IRQS)]
        self._pin = board.pci.source()

    @property
    def kind(self) -> int:
        via = self.s.via
        kind = via >> 56
        if kind == 0:
            return LINE if 0 < via & 0xFF < PINS else NOTHING
        if kind == 1:
            return PIN
        return VECTOR if kind == 2 and self.vectors else NOTHING

    @property
    def vector(self) -> int | None:
        """The vector of all vCPUs."""
        return self.s.via & 0xFF if self.kind == VECTOR else None

    def set_via(self, via: int) -> None:
        self._drive(False)
        self.s.via = via
        self.follow()

    def follow(self) -> None:
        """The line is high while an upcall waits."""
        if self.kind in (LINE, PIN):
            self._drive(self.waits())

    def _drive(self, level: bool) -> None:
        if level == self.s.high:
            return
        self.s.high = level
        via = self.s.via
        if self.kind == PIN:  # device in bits 15:11, pin in 1:0
            self.board.pci.pin(self._pin, ((via & 3) + (via >> 11 & 31) - 1) % PIRQS, level)
        elif via & 0xFF < IRQS:
            self._lines[via & 0xFF](level)
        else:
            self.board.ioapic.pin(via & 0xFF, level)
