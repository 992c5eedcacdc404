"""The guest of interrupt_guest.py in its machine: the card that it asks for interrupts, and what comes from outside.

What the card sends by its registers is posted where interrupts are, from within the guest's instruction, as a card's
that was assigned to it. What it sends by its ports is an emulated device's.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hv.silicon.posted import Descriptor
from hv.silicon.x86_64.engine import BUS_BASE
from hv.silicon.x86_64.machine import Idle, MetalBoard
from hv.x86_64.board import Board
from modes.bare_metal import BareMetal
from modes.hw_assist.mode import HwAssist
from modes.posted_interrupts.delivery import NOTIFY as NOTIFICATION
from tests.interrupt_guest import (
    ALLOW,
    CARD,
    COUNTS,
    DONE,
    FRAME,
    FROM_CARD,
    GATES,
    LOWER,
    NOTIFY,
    PIN,
    PORTS,
    RAISE,
    SEND,
    SUPPRESS,
    TEXT,
    URGENT,
    Op,
    memory_of,
)
from tests.support import LAPIC, RawGuest, Where

LIMIT = 20_000_000  # cycles: each step of a deprivileged guest is an exit
MOST_TO_WAKE = 100


class Cut(NamedTuple):
    """After so many cycles some of FROM_CARD are sent; `quietly`: with their notifications suppressed."""

    cycles: int
    sent: frozenset[int]
    quietly: bool


class Card:
    """The guest's card, and the hypervisor's hand on the descriptor where there is one."""

    def __init__(self, guest: RawGuest, where: Where) -> None:
        board, machine = guest.vm.board, guest.machine
        assert isinstance(board, Board | MetalBoard)
        self.guest, self.board, self.machine, self.on_metal = guest, board, machine, where.mode is BareMetal
        self.posts = where.interrupts is not None
        self.left = 0  # interrupts for which the line stays high
        board.ports.add(PORTS, 16, self)
        board.mmio.add(CARD, 0x1000, self)
        mode = guest.vm.mode
        if self.posts:
            assert isinstance(mode, HwAssist)
            self.descriptor = Descriptor(machine.memory, guest.vmcb.posted_descriptor)
            machine.engine.map_chip(BUS_BASE, 0x1000, self.mmio_read, self.mmio_write)
            mode.npt.map(CARD, BUS_BASE)

    # --- what the guest does to it ----------------------------------------------------------------------------

    def port_read(self, offset: int, size: int) -> int:
        return 0

    def port_write(self, offset: int, size: int, value: int) -> None:
        if offset == SEND:
            for vector in vectors_of(value):
                self.board.message(LAPIC, vector)
        elif offset == RAISE:
            self._drive(value)
        elif offset == LOWER:
            self._drive(max(0, self.left - 1))

    def mmio_read(self, offset: int, size: int) -> int:
        return 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        if offset in (SEND, URGENT):
            for vector in vectors_of(value):
                self._message(vector, urgent=offset == URGENT)
        elif self.posts and offset == SUPPRESS:
            self.descriptor.suppress(True)
        elif self.posts and offset == ALLOW:
            self.allow()
        elif self.posts and offset == NOTIFY:
            self.machine.interrupt(0, NOTIFICATION)  # one that says nothing new

    def _message(self, vector: int, *, urgent: bool = False) -> None:
        if self.posts:
            self.machine.post(self.descriptor, vector, urgent)
        else:
            self.board.message(LAPIC, vector)

    def _drive(self, left: int) -> None:
        self.left = left
        self.board.ioapic.pin(PIN, bool(left))

    # --- from outside -----------------------------------------------------------------------------------------

    def send(self, vector: int, *, quietly: bool) -> None:
        """The IOMMU posts a message if it can; if not, the hypervisor, if any, gets a physical interrupt."""
        if self.posts and quietly:
            self.descriptor.words[vector >> 5] |= 1 << (vector & 31)  # as while notifications are suppressed
            return
        self._message(vector)
        if not self.posts and not self.on_metal:
            self.guest.cpu.host_interrupt = True

    def allow(self) -> None:
        """What a scheduler does when it lets a vCPU run again: what was posted meanwhile is notified of now."""
        if self.posts:
            self.descriptor.suppress(False)
            if self.descriptor.requests:
                self._message(self.descriptor.requests.bit_length() - 1)


def vectors_of(value: int) -> list[int]:
    """Those that a value of SEND names."""
    return [vector for vector in value.to_bytes(4, "little") if vector]


def run_guest(where: Where, main: list[Op], bodies: list[list[Op]], cuts: list[Cut], *, snapshots: bool) -> bytes:
    """The log of a guest that is interrupted, and moved, wherever `cuts` says."""
    guest = RawGuest(FRAME, where, gates=GATES, memory=memory_of(main, bodies))
    sent = dict.fromkeys(FROM_CARD, 0)

    def came() -> dict[int, int]:
        return dict(zip(FROM_CARD, struct.unpack("<2I", guest.read(COUNTS, 8)), strict=True))

    def done() -> bool:
        return bool(guest.read(DONE, 1)[0])

    def send(vectors: frozenset[int], *, quietly: bool = False) -> None:
        before = came()
        for vector in sorted(vector for vector in vectors if sent[vector] == before[vector]):
            sent[vector] += 1
            card.send(vector, quietly=quietly)

    try:
        card = Card(guest, where)
        assert isinstance(guest.run(), Idle)
        for cut in [Cut(1, frozenset(FROM_CARD[:1]), False), *cuts]:
            guest.run(cut.cycles)
            send(cut.sent, quietly=cut.quietly)
            if snapshots:
                guest.vm.restore(guest.vm.snapshot())
        for _ in range(MOST_TO_WAKE):
            assert isinstance(guest.run(LIMIT), Idle)
            if done():
                break
            card.allow()
            send(frozenset(FROM_CARD[1:]))  # it dozes
        assert done()
        card.allow()
        assert isinstance(guest.run(LIMIT), Idle)
        assert came() == sent
        return guest.read(TEXT, 0x1000).rstrip(b"\0")
    finally:
        guest.close()
