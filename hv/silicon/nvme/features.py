"""Features: what can be set (NVM Express 1.4, 5.13, 5.21 and 7.8). None outlives a reset, none is a namespace's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.silicon.nvme.queues import Command
from hv.silicon.nvme.spec import (
    EVENT_ENABLE,
    EVERY_NAMESPACE,
    TEMPERATURE,
    WARNING_TEMPERATURE,
    CommandError,
    Event,
    Feature,
    Status,
)

if TYPE_CHECKING:
    from hv.silicon.nvme.controller import Controller

SAVE = 1 << 31
CURRENT, DEFAULT, SAVED, SUPPORTED = range(4)  # what Get Features can ask for
CHANGEABLE = 1 << 2
# A temperature's threshold (5.21.1.4): of which sensor (0, the drive's, is the only one), the upper or the lower one.
SENSOR, EVERY_SENSOR, LOWER, THRESHOLD_KIND = 0xF << 16, 0xF << 16, 1 << 20, 3 << 20
LOWER_TEMPERATURE = Feature.TEMPERATURE | LOWER
# Value after a reset, and the bits that a host can change.
TABLE: dict[int, tuple[int, int]] = {
    Feature.ARBITRATION: (0, 0xFFFF_FF07),
    Feature.POWER: (0, 0),
    Feature.TEMPERATURE: (WARNING_TEMPERATURE, 0xFFFF),  # kelvin
    LOWER_TEMPERATURE: (0, 0xFFFF),
    Feature.ERROR_RECOVERY: (0, 0xFFFF),
    Feature.WRITE_CACHE: (1, 1),
    Feature.QUEUES: (0, 0),
    Feature.COALESCING: (0, 0),
    Feature.VECTOR: (0, 0),
    Feature.ATOMICITY: (0, 1),
    Feature.EVENTS: (0, 0x3FF),
}


def current(controller: Controller, feature: int) -> int:
    """The value of an entry of the table."""
    return controller.state.features.get(feature, TABLE[feature][0])


def event_wanted(controller: Controller, event: Event) -> bool:
    """Errors always are (5.21.1.11)."""
    enable = EVENT_ENABLE.get(event)
    return enable is None or bool(current(controller, Feature.EVENTS) & enable)


def beyond_thresholds(controller: Controller) -> bool:
    """It is as hot as the upper threshold, or as cold as the lower one."""
    upper, lower = current(controller, Feature.TEMPERATURE), current(controller, LOWER_TEMPERATURE)
    return not lower < TEMPERATURE < upper


def _value(controller: Controller, feature: int, word: int) -> int:
    if feature == Feature.QUEUES:
        limit = controller.queue_limit - 1  # both numbers count from zero
        return limit | limit << 16
    if feature == Feature.VECTOR:
        vector = word & 0xFFFF
        if vector >= controller.vector_limit:
            raise CommandError(Status.INVALID_FIELD)
        return vector | 1 << 16  # coalescing disabled
    return current(controller, feature)


def _known(command: Command, *, every_sensor: bool) -> int:
    """The entry of the table that is meant. All sensors at once can be set only."""
    feature, word = command.words[0] & 0xFF, command.words[1]
    if feature not in TABLE:
        raise CommandError(Status.INVALID_FIELD)
    if feature == Feature.TEMPERATURE:
        sensors = (0, EVERY_SENSOR) if every_sensor else (0,)
        if word & SENSOR not in sensors or word & THRESHOLD_KIND not in (0, LOWER):
            raise CommandError(Status.INVALID_FIELD)
        return feature | word & LOWER
    return feature


def get(controller: Controller, command: Command) -> int:
    """The value that is asked for."""
    feature, which = _known(command, every_sensor=False), command.words[0] >> 8 & 7
    if which == SUPPORTED:
        return CHANGEABLE if TABLE[feature][1] or feature == Feature.QUEUES else 0
    if which == CURRENT or feature in (Feature.QUEUES, Feature.VECTOR):
        return _value(controller, feature, command.words[1])
    if which in (DEFAULT, SAVED):
        return TABLE[feature][0]
    raise CommandError(Status.INVALID_FIELD)


def set(controller: Controller, command: Command) -> int:
    """Change a feature. Returns what the completion says."""
    feature, value = _known(command, every_sensor=True), command.words[1]
    if command.words[0] & SAVE:
        raise CommandError(Status.NOT_SAVEABLE)
    if command.namespace not in (0, EVERY_NAMESPACE):
        raise CommandError(Status.NOT_NAMESPACE_SPECIFIC)
    if feature == Feature.QUEUES:
        if len(controller.state.cqs) > 1 or len(controller.state.sqs) > 1:
            raise CommandError(Status.COMMAND_SEQUENCE_ERROR)
        if 0xFFFF in (value & 0xFFFF, value >> 16):
            raise CommandError(Status.INVALID_FIELD)
        return _value(controller, feature, 0)  # as many as there are, whatever was asked for
    if feature == Feature.VECTOR:
        _value(controller, feature, value)  # it must exist; interrupts are never coalesced anyway
        return 0
    if feature == Feature.POWER and value & 0x1F:
        raise CommandError(Status.INVALID_FIELD)  # there is only power state 0
    writable = TABLE[feature][1]
    controller.state.features[feature] = current(controller, feature) & ~writable | value & writable
    if feature in (Feature.TEMPERATURE, LOWER_TEMPERATURE, Feature.EVENTS) and beyond_thresholds(controller):
        controller.event(Event.TEMPERATURE_THRESHOLD)
    return 0
