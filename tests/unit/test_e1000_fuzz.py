"""The hostile driver of tests/fuzz/e1000.py: a short run reaches everything, and it finds bugs planted here."""

from __future__ import annotations

from typing import Any

import pytest

from hv.devices.e1000 import receive, transmit
from hv.devices.e1000 import registers as reg
from hv.devices.e1000.chip import Chip
from hv.devices.e1000.interrupts import Interrupts
from hv.devices.e1000.nic import E1000
from hv.devices.e1000.receive import Receiver
from hv.devices.e1000.transmit import Transmitter
from tests.fuzz.e1000 import EXPECTED, TRIES_A_CASE, run


def test_a_short_run_reaches_every_register_and_path() -> None:
    reached = run(1, 12_000)
    assert EXPECTED - reached.keys() == set()


def no_check_of_the_transmit_ring(self: Transmitter) -> bool:
    return bool(self.chip[reg.TCTL] & reg.TCTL_EN) and self.chip[reg.TDH] != self.chip[reg.TDT]


def no_check_of_the_receive_ring(self: Receiver) -> int:
    return (self.chip[reg.RDT] - self.chip[reg.RDH]) % 0x1_0000


def no_end_of_a_packet(self: Transmitter, address: int, length: int, room: int) -> bool:
    self.chip.state.packet += self.chip.dma_read(address, length)
    return True


def an_interrupt_that_stays(self: Interrupts) -> None:
    if not self.chip.state.line:
        UPDATE(self)


def a_raw_bus_error(self: Chip, address: int, size: int) -> bytes:
    return self.slot.read(address & (1 << 64) - 1, size)


def a_reset_that_forgets_too_little(self: Transmitter) -> None:
    pass


def a_reset_that_keeps_the_fifo(self: Receiver) -> None:
    pass


def a_frame_of_any_length(self: Transmitter, frame: bytes, *, good: bool = True) -> None:
    self.chip.send(frame, self._occupy_line(len(frame)))


def a_timer_that_is_not_stopped(self: E1000, now: int) -> None:
    for name, when in list(self.state.timers.items()):
        if when <= now:
            self.timers[name]()


UPDATE = Interrupts.update
PLANTED: list[tuple[Any, str, Any]] = [
    (Transmitter, "_ready", no_check_of_the_transmit_ring),
    (Receiver, "_free", no_check_of_the_receive_ring),
    (Transmitter, "_take", no_end_of_a_packet),
    (Interrupts, "update", an_interrupt_that_stays),
    (Chip, "dma_read", a_raw_bus_error),
    (Transmitter, "reset", a_reset_that_forgets_too_little),
    (Receiver, "reset", a_reset_that_keeps_the_fifo),
    (Transmitter, "_emit", a_frame_of_any_length),
    (E1000, "advance", a_timer_that_is_not_stopped),
    (Receiver, "buffer_size", 16384),
    (transmit, "BATCH", 1 << 20),
    (receive, "DESCRIPTOR", 32),
    (Chip, "receive_room", 1 << 30),
]


@pytest.mark.parametrize(("owner", "name", "bug"), PLANTED, ids=[name for _, name, _ in PLANTED])
def test_a_planted_bug_is_found(owner: Any, name: str, bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, name, bug)
    with pytest.raises(Exception):  # noqa: B017, PT011 - an assertion of the driver's, or whatever the bug raises
        run(1, 30 * TRIES_A_CASE)
