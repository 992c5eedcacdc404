"""The local APIC, register by register (APM vol. 2, chapter 16)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hv.silicon.x86_64.lapic import Lapic

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR_LOW, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_LINT0, LVT_ERROR = 0x320, 0x350, 0x370
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
MASKED, PERIODIC, ENABLE = 1 << 16, 1 << 17, 1 << 8
BY_1 = 0xB
TICK = 100  # millicycles of one timer clock


class Bench:
    """A chip on the bench, with a clock that a test turns by hand."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.now = 0
        self.sent: list[int] = []
        self.ended: list[int] = []
        self.changes = 0
        self.chip = Lapic(3, TICK, lambda: self.now, self.sent.append, self.count, self.ended.append)
        if enabled:
            self.chip.write(SVR, ENABLE | 0xFF)

    def count(self) -> None:
        self.changes += 1

    def in_service(self) -> list[int]:
        return [vector for vector in range(256) if self.chip.read(ISR + 16 * (vector // 32)) >> vector % 32 & 1]

    def requested(self) -> list[int]:
        return [vector for vector in range(256) if self.chip.read(IRR + 16 * (vector // 32)) >> vector % 32 & 1]

    def pass_time(self, clocks: int) -> int:
        self.now += clocks * TICK
        return self.chip.advance(self.now)

    def timer(self, count: int, lvt: int, divide: int = BY_1) -> None:
        self.chip.write(DIVIDE, divide)
        self.chip.write(LVT_TIMER, lvt)
        self.chip.write(INITIAL, count)


def test_after_reset_it_is_disabled_and_masked() -> None:
    lapic = Bench(enabled=False)
    assert lapic.chip.read(SVR) == 0xFF
    assert lapic.chip.read(ID) == 3 << 24
    assert lapic.chip.read(DFR) == 0xFFFF_FFFF
    assert {lapic.chip.read(lvt) for lvt in range(LVT_TIMER, LVT_ERROR + 1, 16)} == {MASKED}
    lapic.chip.write(LVT_TIMER, 0x20)
    assert lapic.chip.read(LVT_TIMER) == MASKED | 0x20  # the mask cannot be cleared before it is enabled
    lapic.chip.raise_vector(0x40)
    assert lapic.chip.pending() is None


def test_the_version_names_its_lvt_entries() -> None:
    version = Bench().chip.read(VERSION)
    assert version & 0xFF == 0x10
    assert version >> 16 & 0xFF == 5


def test_an_interrupt_goes_from_requested_to_in_service_to_done() -> None:
    lapic = Bench()
    lapic.chip.raise_vector(0x61)
    assert lapic.requested() == [0x61]
    assert lapic.chip.pending() == 0x61
    assert lapic.chip.acknowledge() == 0x61
    assert (lapic.requested(), lapic.in_service()) == ([], [0x61])
    assert lapic.chip.read(PPR) == 0x60
    lapic.chip.write(EOI, 0)
    assert lapic.in_service() == []
    assert lapic.ended == []  # it was an edge


def test_only_a_higher_class_interrupts_an_interrupt() -> None:
    lapic = Bench()
    lapic.chip.raise_vector(0x61)
    lapic.chip.acknowledge()
    lapic.chip.raise_vector(0x6F)
    assert lapic.chip.pending() is None
    lapic.chip.raise_vector(0x70)
    assert lapic.chip.acknowledge() == 0x70
    assert lapic.in_service() == [0x61, 0x70]
    lapic.chip.write(EOI, 0)
    assert lapic.in_service() == [0x61]
    assert lapic.chip.pending() is None
    lapic.chip.write(EOI, 0)
    assert lapic.chip.pending() == 0x6F


def test_the_task_priority_holds_back_its_class_and_lower_ones() -> None:
    lapic = Bench()
    lapic.chip.write(TPR, 0x60)
    lapic.chip.raise_vector(0x6F)
    assert lapic.chip.pending() is None
    assert lapic.chip.read(PPR) == 0x60
    lapic.chip.write(TPR, 0x5F)
    assert lapic.chip.pending() == 0x6F


def test_vectors_below_16_are_illegal() -> None:
    lapic = Bench()
    lapic.chip.raise_vector(15)
    assert lapic.requested() == []
    lapic.chip.raise_vector(16)
    assert lapic.requested() == [16]


def test_the_end_of_a_level_triggered_interrupt_is_broadcast() -> None:
    lapic = Bench()
    lapic.chip.raise_vector(0x50, level=True)
    assert lapic.chip.read(TMR + 0x20) == 1 << 0x10
    lapic.chip.acknowledge()
    lapic.chip.write(EOI, 0)
    assert lapic.ended == [0x50]
    lapic.chip.raise_vector(0x50)
    assert lapic.chip.read(TMR + 0x20) == 0


def test_an_eoi_with_nothing_in_service_does_nothing() -> None:
    lapic = Bench()
    lapic.chip.write(EOI, 0)
    assert lapic.ended == []


def test_the_timer_counts_down_and_fires_once() -> None:
    lapic = Bench()
    lapic.timer(10, 0x30)
    assert lapic.chip.read(CURRENT) == 10
    assert lapic.pass_time(4) == 0
    assert lapic.chip.read(CURRENT) == 6
    assert lapic.chip.read(INITIAL) == 10
    assert lapic.pass_time(5) == 0
    assert lapic.requested() == []
    assert lapic.pass_time(1) == 1
    assert lapic.requested() == [0x30]
    assert lapic.chip.read(CURRENT) == 0
    assert lapic.pass_time(100) == 0


def test_a_periodic_timer_fires_again_without_drift() -> None:
    lapic = Bench()
    lapic.timer(10, PERIODIC | 0x30)
    assert lapic.pass_time(25) == 2
    assert lapic.chip.read(CURRENT) == 5
    assert lapic.pass_time(5) == 1


def test_the_divider_is_scattered_over_three_bits() -> None:
    for code, divisor in ((0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)):
        lapic = Bench()
        lapic.timer(3, 0x30, divide=code)
        assert lapic.pass_time(3 * divisor - 1) == 0
        assert lapic.pass_time(1) == 1


def test_a_masked_timer_runs_and_raises_nothing() -> None:
    lapic = Bench()
    lapic.timer(10, MASKED | 0x30)
    assert lapic.pass_time(10) == 1
    assert lapic.requested() == []


def test_an_initial_count_of_zero_stops_the_timer() -> None:
    lapic = Bench()
    lapic.timer(10, PERIODIC | 0x30)
    lapic.chip.write(INITIAL, 0)
    assert lapic.pass_time(100) == 0
    assert lapic.chip.state.expiry is None


def test_the_current_count_cannot_be_written() -> None:
    lapic = Bench()
    lapic.timer(10, 0x30)
    lapic.chip.write(CURRENT, 3)
    assert lapic.chip.read(CURRENT) == 10


def test_a_new_divider_does_not_lose_the_count() -> None:
    """The counter keeps its value, and runs on at the new rate."""
    lapic = Bench()
    lapic.timer(10, 0x30)
    lapic.pass_time(4)
    lapic.chip.write(DIVIDE, 0)  # by 2
    assert lapic.chip.read(CURRENT) == 6
    assert lapic.pass_time(11) == 0
    assert lapic.pass_time(1) == 1


def test_an_interrupt_command_is_sent_when_its_low_half_is_written() -> None:
    lapic = Bench()
    lapic.chip.write(ICR_HIGH, 0x0200_0000)
    assert lapic.sent == []
    lapic.chip.write(ICR_LOW, 0x0000_00F1)
    assert lapic.sent == [0x0200_0000_0000_00F1]
    assert lapic.chip.read(ICR_LOW) == 0xF1  # delivery status is idle
    assert lapic.chip.read(ICR_HIGH) == 0x0200_0000


def test_disabling_it_masks_its_own_sources() -> None:
    lapic = Bench()
    lapic.chip.write(LVT_TIMER, 0x30)
    lapic.chip.write(LVT_LINT0, 0x31)
    lapic.chip.write(SVR, 0xFF)
    assert lapic.chip.read(LVT_TIMER) & MASKED
    assert lapic.chip.read(LVT_LINT0) & MASKED


def test_reserved_bits_do_not_stick() -> None:
    lapic = Bench()
    for offset, kept in ((TPR, 0xFF), (SVR, 0x3FF), (LDR, 0xFF00_0000), (DIVIDE, 0xB), (LVT_TIMER, 0x3_00FF)):
        lapic.chip.write(offset, 0xFFFF_FFFF)
        assert lapic.chip.read(offset) & ~kept == 0, hex(offset)
    lapic.chip.write(DFR, 0)
    assert lapic.chip.read(DFR) == 0x0FFF_FFFF


def test_read_only_registers_take_no_writes() -> None:
    lapic = Bench()
    lapic.chip.raise_vector(0x41)
    lapic.chip.raise_vector(0x51, level=True)
    lapic.chip.acknowledge()
    places = (VERSION, PPR, CURRENT, *range(ISR, ESR, 16))
    before = [lapic.chip.read(at) for at in places]
    for at in places:
        lapic.chip.write(at, 0xFFFF_FFFF)
    assert [lapic.chip.read(at) for at in places] == before


@given(
    st.lists(
        st.tuples(
            st.sampled_from("rwvat"),
            st.integers(0, 0xFFF) | st.integers(0, 0x3F).map(lambda index: 16 * index),
            st.integers(0, (1 << 32) - 1) | st.integers(0, 300),
        ),
        max_size=80,
    )
)
def test_no_traffic_upsets_the_chip(traffic: list[tuple[str, int, int]]) -> None:
    lapic = Bench()
    for kind, where, value in traffic:
        if kind == "w":
            lapic.chip.write(where, value)
        elif kind == "r":
            assert 0 <= lapic.chip.read(where) < 1 << 32
        elif kind == "v":
            lapic.chip.raise_vector(where & 0xFF, bool(value & 1))
        elif kind == "a" and lapic.chip.pending() is not None:
            vector = lapic.chip.acknowledge()
            assert vector in lapic.in_service()
        else:
            lapic.pass_time(value % 1000)
        pending = lapic.chip.pending()
        assert pending is None or pending >> 4 > lapic.chip.read(PPR) >> 4
