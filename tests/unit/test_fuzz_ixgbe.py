"""The fuzzer of the 82599 reaches everything in a short run, and finds bugs that are planted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hv.silicon.device import Slot
from hv.silicon.ixgbe import transmit
from hv.silicon.ixgbe.card import IxgbeFunction, IxgbeVirtual
from hv.silicon.ixgbe.chip import Chip
from hv.silicon.ixgbe.interrupts import Interrupts
from hv.silicon.ixgbe.mailbox import Mailbox, Mailboxes
from hv.silicon.ixgbe.receive import Receiver, ReceiveState
from hv.silicon.ixgbe.rings import Ring
from hv.silicon.ixgbe.switch import Switch
from hv.silicon.ixgbe.transmit import Transmitter
from modes.sriov import nic_owner
from tests.fuzz._ixgbe_reach import EXPECTED
from tests.fuzz.ixgbe import TRIES_A_CASE, run


def test_the_card_withstands_hostile_guests_and_owners() -> None:
    assert EXPECTED - run(40, 8 * TRIES_A_CASE).keys() == set()


def everything_in_the_owners_name(self: Chip, queue: int) -> IxgbeFunction:
    return self.functions[0]


def everybodys_queues(self: IxgbeVirtual) -> Sequence[int]:
    return range(8)


def no_look_at_the_source(self: Switch, pool: int, frame: bytes) -> bool:
    return False


def frames_for_everybody(self: Switch, frame: bytes) -> int:
    return 0xF


def a_function_that_nobody_stops(self: Transmitter, queue: int) -> bool:
    ring = self.chip.state.tx.get(queue)
    return ring is not None and ring.enabled and bool(ring.available or ring.cutting)


def no_end_of_the_ring(self: Ring) -> int:
    return (self.tail - self.head) % 0x1_0000


def a_raw_bus_error(slot: Slot, address: int, size: int) -> bytes:
    return slot.read(address, size)


def a_mailbox_of_two(self: Mailboxes, box: Mailbox, value: int, who: int) -> None:
    box.owner = box.owner | who if value & who else box.owner & ~who


def a_reset_that_leaks(self: Receiver) -> None:
    self.function.state.receive = ReceiveState()


def no_distance(self: Interrupts, vector: int, told: int, now: int) -> None:
    self.state.armed &= ~told
    self.function.msix.fire(vector)


def a_cause_that_is_not_told(self: Interrupts, causes: int, now: int) -> None:
    self.state.causes |= causes


PLANTED: list[tuple[Any, str, Any]] = [
    (Chip, "owner", everything_in_the_owners_name),
    (IxgbeVirtual, "queues", everybodys_queues),
    (Switch, "_spoofed", no_look_at_the_source),
    (Switch, "_pools", frames_for_everybody),
    (Transmitter, "_ready", a_function_that_nobody_stops),
    (Ring, "available", property(no_end_of_the_ring)),
    (transmit, "dma_read", a_raw_bus_error),
    (transmit, "LONGEST", 1 << 30),
    (Mailboxes, "_lock", a_mailbox_of_two),
    (Receiver, "forget", a_reset_that_leaks),
    (Interrupts, "_send", no_distance),
    (Interrupts, "_raise", a_cause_that_is_not_told),
    (nic_owner, "INTERVAL_US", 2),
]


@pytest.mark.parametrize(("owner", "name", "bug"), PLANTED, ids=[name for _, name, _ in PLANTED])
def test_a_planted_bug_is_found(owner: Any, name: str, bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, name, bug)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a failed check, or whatever the bug raises
        run(0, 20 * TRIES_A_CASE)
