"""The fuzzer of the NVMe card reaches everything in a short run, and finds bugs that are planted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from hv.silicon.device import Slot
from hv.silicon.medium import Medium
from hv.silicon.nvme import admin, io
from hv.silicon.nvme.controller import Controller
from hv.silicon.nvme.queues import Command
from hv.silicon.nvme.spec import MOST_BYTES
from hv.silicon.nvme.subsystem import Subsystem
from tests.fuzz import nvme


def test_the_card_withstands_a_hostile_guest() -> None:
    assert nvme.run(3, 12_000).missing == []


def with_somebody_elses_slot(patch: pytest.MonkeyPatch) -> None:
    def slot(controller: Controller) -> Slot:
        return controller.subsystem.controllers[0].function.slot

    patch.setattr(Controller, "slot", property(slot))


def without_a_range_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(io, "_range", lambda medium, command: (command.words[0], command.words[2] % 256 + 1))


def without_a_look_at_attachments(patch: pytest.MonkeyPatch) -> None:
    def medium(controller: Controller, namespace: int, *, write: bool = False) -> Medium:
        return controller.subsystem.namespaces.get(namespace) or controller.subsystem.namespaces[2]

    patch.setattr(io, "_medium", medium)


def with_commands_that_outlive_their_queue(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Controller, "delete_submissions", lambda controller, queue: controller.state.sqs.pop(queue))


def with_commands_that_outlive_a_reset(patch: pytest.MonkeyPatch) -> None:
    original = Controller.reset

    def reset(controller: Controller) -> None:
        flight = controller.state.flight
        original(controller)
        controller.state.flight = flight

    patch.setattr(Controller, "reset", reset)


def without_an_end_of_the_queue(patch: pytest.MonkeyPatch) -> None:
    original = Controller._doorbell

    def doorbell(controller: Controller, number: int, value: int) -> None:
        sq = controller.state.sqs.get(number >> 1)
        if number & 1 or sq is None:
            original(controller, number, value)
        else:
            sq.tail = value
            controller._look_at_queues()

    patch.setattr(Controller, "_doorbell", doorbell)


def without_a_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hv.silicon.nvme.controller.MOST_IN_FLIGHT", 1 << 20)


def with_secondaries_that_govern(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(admin, "PRIMARY_ONLY", ())
    patch.setattr(Subsystem, "detach", lambda subsystem, namespace, controller: subsystem.controllers[99])


def with_the_next_sector(patch: pytest.MonkeyPatch) -> None:
    original = io._range

    def moved(medium: Medium, command: Command) -> tuple[int, int]:
        first, count = original(medium, command)
        return (first + 1 if first + count < medium.sectors else first), count

    patch.setattr(io, "_range", moved)
    patch.setattr(io, "READING", ())


def with_pages_that_overflow(patch: pytest.MonkeyPatch) -> None:
    def regions(read: Callable[[int, int], bytes], prp1: int, prp2: int, length: int) -> Iterable[tuple[int, int]]:
        return [(prp1, MOST_BYTES if prp1 < 1 << 19 else length)]

    patch.setattr("hv.silicon.nvme.controller.regions", regions)
    patch.setattr(Controller, "receive", lambda controller, command, size: controller.slot.read(command.prp1, size)[1:])


def without_a_word_when_it_is_taken_away(patch: pytest.MonkeyPatch) -> None:
    def set_online(subsystem: Subsystem, controller: int, online: bool) -> None:
        subsystem.state.secondaries[controller].online = online

    patch.setattr(Subsystem, "set_online", set_online)


@pytest.mark.parametrize(
    "plant",
    [
        with_somebody_elses_slot, without_a_range_check, without_a_look_at_attachments,
        with_commands_that_outlive_their_queue, with_commands_that_outlive_a_reset, without_an_end_of_the_queue,
        without_a_limit, with_secondaries_that_govern, with_the_next_sector, with_pages_that_overflow,
        without_a_word_when_it_is_taken_away,
    ],
)  # fmt: skip
def test_a_bug_planted_in_the_card_is_found(plant: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a failed check, or whatever the bug raises
        nvme.run(1, 20_000)
