"""The board: a card with a memory window, DMA, a deadline and an interrupt, on metal and behind exits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hv.silicon.memory import BusError
from hv.silicon.pci import BAR0, COMMAND, Bar, Function, Header
from hv.silicon.timing import MILLI
from tests.support import DATA, EVERYWHERE, NATIVE_HW, NATIVE_METAL, UNDER_TRAP, RawGuest, Where

everywhere = pytest.mark.parametrize("where", EVERYWHERE + UNDER_TRAP)

WINDOW, LATENCY = 0xFED0_0000, 30_000 * MILLI
START, TARGET, QUIET, ERRORS = 0, 8, 16, 24  # the card's registers


class CardState(msgspec.Struct):
    target: int = 0
    due: int | None = None
    errors: int = 0


class Card(Function):
    """Told to start, it writes the word that it was given to memory a little later, and interrupts."""

    state: CardState

    def __init__(self) -> None:
        super().__init__(Header(0x1234, 0x5678, 0xFF_0000, pin=1, bars={0: Bar(0x1000)}))
        self.state = CardState()

    def read(self, bar: int, offset: int, size: int) -> int:
        return self.state.errors if offset == ERRORS else 0

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        s = self.state
        if offset == START:
            s.due = self.slot.now + LATENCY
            self.slot.reschedule()
        elif offset == TARGET:
            s.target = value
        elif offset == QUIET:
            self.slot.interrupt(False)

    @property
    def deadline(self) -> int | None:
        return self.state.due

    def advance(self, now: int) -> None:
        s = self.state
        s.due = None
        try:
            self.slot.write(s.target, b"arrived!")
        except BusError:
            s.errors += 1
        self.slot.interrupt(True)


ARM = """
    mov $DATA, %r8
    lapic 0xF0, 0x1FF
    mov $IOAPIC, %ebp
    movl $0x26, (%rbp); movl $0x8061, 0x10(%rbp)   /* pin 11: vector 0x61, level, not masked */
    movl $0x27, (%rbp); movl $0, 0x10(%rbp)
    mov $0xFED00000, %ebx
    movl $DATA+64, 8(%rbx)
    movl $0, (%rbx)
"""
HANDLER = """
    handler:
    mov $0xFED00000, %ebx
    movl $0, 16(%rbx)
    incq DATA
    mov $LAPIC, %ebp
    movl $0, 0xB0(%rbp)
    iretq
"""
BUSY = ARM + "sti; 1: cmpq $0, DATA; je 1b; cmpq $0, DATA+64; je 1b; finish\n" + HANDLER
ASLEEP = ARM + "sti; hlt; cli; finish\n" + HANDLER


def with_card(code: str, where: Where, *, master: bool = True) -> RawGuest:
    guest = RawGuest(code, where, gates={0x61: ("handler", {})})
    board: Any = guest.vm.board
    card = Card()
    board.plug(card, 5)
    board.pci.config_write(board.isa_bridge, 0x60, 4, 0x0B0B_0B0B)
    board.pci.config_write(card, BAR0, 4, WINDOW)
    board.pci.config_write(card, COMMAND, 2, 6 if master else 2)
    return guest


@everywhere
@pytest.mark.parametrize("code", [BUSY, ASLEEP], ids=["busy", "asleep"])
def test_a_card_works_by_itself_writes_to_memory_and_interrupts(where: Where, code: str) -> None:
    guest = with_card(code, where)
    before = guest.vm.now
    guest.finish()
    assert guest.words(1) == [1]
    assert guest.read(DATA + 64, 8) == b"arrived!"
    assert guest.vm.now - before >= LATENCY


@everywhere
def test_a_device_s_event_is_a_physical_interrupt_to_a_vcpu_that_runs_and_none_to_one_that_sleeps(where: Where) -> None:
    metal = where.mode.id == "bare-metal"
    for code, expected in ((BUSY, 1), (ASLEEP, 0)):
        guest = with_card(code, where).finish()
        assert guest.exits.get("external_interrupt", 0) == (0 if metal else expected)
    assert metal == (not guest.exits)


@everywhere
def test_without_bus_mastering_nothing_is_written(where: Where) -> None:
    guest = with_card(ASLEEP, where, master=False).finish()
    assert guest.words(1) == [1]
    assert guest.read(DATA + 64, 8) == bytes(8)


@everywhere
def test_a_snapshot_in_the_middle_of_the_wait_changes_nothing(where: Where) -> None:
    straight, copied = with_card(BUSY, where), with_card(BUSY, where)
    straight.run(15_000)
    saved = straight.vm.snapshot()
    straight.finish()
    copied.vm.restore(saved)
    copied.finish()
    assert (copied.vm.now, copied.exits, copied.words(16)) == (straight.vm.now, straight.exits, straight.words(16))


@pytest.mark.parametrize("where", [NATIVE_METAL, NATIVE_HW])
@pytest.mark.parametrize("target", [0x0100_0000, 0x00FF_FFFC, 0xFD_0000_0000, 0xFC_0000_0000 - 0x4_0000_0000])
def test_a_card_reaches_nothing_but_the_guest_s_own_memory(where: Where, target: int) -> None:
    guest = with_card(ASLEEP, where)
    card = guest.vm.board.pci.functions[5 << 3]
    assert isinstance(card, Card)
    code = guest.vm.board.mmio
    code.write(WINDOW + TARGET, 8, target)
    before = guest.machine.memory.save()
    with pytest.raises(BusError):
        card.slot.write(target, bytes(8))
    assert guest.machine.memory.save() == before
