"""Messages between local APICs: when they arrive, and where; INIT, start-up, NMI and errors in the chip."""

from __future__ import annotations

import pytest

from hv.silicon.x86_64.apic_bus import NEVER, ApicBus
from hv.silicon.x86_64.lapic import Lapic, Message

SVR, ESR, LVT_TIMER, LVT_LINT1, LVT_ERROR = 0xF0, 0x280, 0x320, 0x360, 0x370
FIXED, LOWEST, SMI, NMI, INIT, STARTUP = 0, 1, 2, 4, 5, 6
ENABLE = 0x1FF


def bus_of(count: int) -> ApicBus:
    lapics = [Lapic(i, 1, lambda: 0, lambda icr: None, lambda: None, lambda vector: None) for i in range(count)]
    for lapic in lapics:
        lapic.write(SVR, ENABLE)
    return ApicBus(lapics)


def test_a_message_arrives_when_the_clock_of_its_target_has_come_to_the_time_of_sending() -> None:
    bus = bus_of(2)
    assert bus.command(1 << 56 | 0x40, now=1000, sender=0) == [1]
    assert bus.next(1) == 1000
    assert bus.next(0) == NEVER
    bus.receive(1, 999)
    assert bus.lapics[1].pending() is None
    bus.receive(1, 1000)
    assert bus.lapics[1].pending() == 0x40
    assert bus.next(1) == NEVER


def test_messages_keep_their_order_and_their_times() -> None:
    bus = bus_of(3)
    for when, target in ((10, 1), (20, 2), (30, 1)):
        bus.command(target << 56 | 0x40 + when, when, 0)
    bus.receive(1, 15)
    assert (bus.next(1), bus.next(2)) == (30, 20)


def test_to_oneself_it_comes_at_once() -> None:
    bus = bus_of(2)
    assert bus.command(1 << 18 | 0x40, 5, 0) == []
    assert bus.lapics[0].pending() == 0x40


@pytest.mark.parametrize("priorities", [(0x20, 0x10, 0x30), (0x10, 0x10, 0x10), (0x30, 0x20, 0x10)])
def test_lowest_priority_goes_to_one_that_has_it(priorities: tuple[int, ...]) -> None:
    bus = bus_of(3)
    for lapic, priority in zip(bus.lapics, priorities, strict=True):
        lapic.write(0x80, priority)
    bus.send(Message(0x50, LOWEST, 0xFF, False, False), 0, here=0)
    for cpu in range(3):
        bus.receive(cpu, 0)
    got = [lapic.state.irr != 0 for lapic in bus.lapics]
    assert sum(got) == 1
    assert priorities[got.index(True)] == min(priorities)


def test_lowest_priority_passes_by_who_is_switched_off() -> None:
    bus = bus_of(2)
    bus.lapics[0].write(SVR, 0xFF)
    assert bus.send(Message(0x50, LOWEST, 0xFF, False, False), 0, here=0) == [1]


def test_init_startup_and_nmi_reach_an_apic_that_is_switched_off() -> None:
    bus = bus_of(2)
    state = bus.lapics[1].state
    bus.lapics[1].write(SVR, 0xFF)
    for mode, vector in ((NMI, 0), (INIT, 0), (STARTUP, 0x9A)):
        bus.command(1 << 56 | 1 << 14 | mode << 8 | vector, 0, 0)
    bus.receive(1, 0)
    assert (state.nmi, state.init, state.startup) == (True, True, 0x9A)
    assert bus.lapics[1].signalled


def test_an_init_takes_back_the_start_up_message_before_it() -> None:
    bus = bus_of(2)
    for mode in (STARTUP, INIT):
        bus.command(1 << 56 | 1 << 14 | mode << 8 | 8, 0, 0)
    bus.receive(1, 0)
    assert bus.lapics[1].state.startup is None


def test_an_init_that_is_taken_back_does_nothing() -> None:
    bus = bus_of(2)
    assert bus.command(1 << 56 | 1 << 15 | INIT << 8, 0, 0) == []


@pytest.mark.parametrize("mode", [SMI, 3, 7])
def test_modes_that_nobody_has_are_lost(mode: int) -> None:
    bus = bus_of(2)
    bus.command(1 << 56 | 1 << 14 | mode << 8 | 0x40, 0, 0)
    bus.receive(1, 0)
    assert not bus.lapics[1].signalled
    assert not bus.lapics[1].interrupts


def test_reset_keeps_the_identity_and_nothing_else() -> None:
    lapic = bus_of(2).lapics[1]
    lapic.raise_vector(0x40)
    lapic.write(LVT_TIMER, 0x33)
    lapic.reset()
    assert (lapic.state.id, lapic.read(SVR), lapic.read(LVT_TIMER), lapic.pending()) == (1, 0xFF, 1 << 16, None)


def test_an_error_can_interrupt_and_is_latched_by_a_write() -> None:
    lapic = bus_of(1).lapics[0]
    lapic.write(LVT_ERROR, 0x44)
    lapic.raise_vector(3)  # illegal
    assert lapic.pending() == 0x44
    assert lapic.read(ESR) == 0
    lapic.write(ESR, 0)
    assert lapic.read(ESR) == 1 << 6
    lapic.write(ESR, 0)
    assert lapic.read(ESR) == 0


def test_a_pin_can_bring_an_nmi() -> None:
    lapic = bus_of(1).lapics[0]
    lapic.write(LVT_LINT1, NMI << 8)
    lapic.pin(1, True)
    assert lapic.state.nmi
