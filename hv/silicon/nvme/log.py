"""Log pages (NVM Express 1.4, 5.14)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.silicon.nvme.features import beyond_thresholds
from hv.silicon.nvme.queues import Command
from hv.silicon.nvme.spec import EVERY_NAMESPACE, MOST_BYTES, TEMPERATURE, Admin, CommandError, Event, Io, Log, Status

if TYPE_CHECKING:
    from hv.silicon.nvme.controller import Controller

RETAIN = 1 << 15  # the event stays unreported
UNIT = 1000  # a data unit is 1000 sectors
ERROR_EVENTS, HEALTH_EVENTS, NOTICES = 1, 1 << 1, 1 << 2  # types of events (a bit each)
TOO_HOT_OR_COLD = 1 << 1  # critical warning
SUPPORTED, CHANGES_DATA, CHANGES_NAMESPACES = 1, 1 << 1, 1 << 2  # in the command effects log
REVISION = b"1.0     "


def page(controller: Controller, command: Command) -> bytes:
    """What a command asks for: so many bytes from an offset. Behind the end of a page come zeros."""
    words = command.words
    number, size = words[0] & 0xFF, ((words[0] >> 16 | (words[1] & 0xFFFF) << 16) + 1) * 4
    offset = words[2] | words[3] << 32
    make = PAGES.get(number)
    if make is None:
        raise CommandError(Status.INVALID_LOG_PAGE)
    if size > MOST_BYTES or offset & 3:
        raise CommandError(Status.INVALID_FIELD)
    if number == Log.HEALTH and command.namespace not in (0, EVERY_NAMESPACE):
        raise CommandError(Status.INVALID_FIELD)  # there is one for the controller only
    data = make(controller)
    if offset > len(data):
        raise CommandError(Status.INVALID_FIELD)
    if not words[0] & RETAIN:
        _seen(controller, number)
    return data[offset : offset + size].ljust(size, b"\0")


def _seen(controller: Controller, number: int) -> None:
    """Reading a page lets its events be reported again."""
    s = controller.state
    if number == Log.ERRORS:
        s.quiet &= ~ERROR_EVENTS
        s.events = [event for event in s.events if event not in (Event.INVALID_DOORBELL, Event.INVALID_DOORBELL_VALUE)]
    elif number == Log.HEALTH:
        s.quiet &= ~HEALTH_EVENTS
    elif number == Log.NAMESPACES:
        s.quiet &= ~NOTICES
        s.changed = []


def _errors(controller: Controller) -> bytes:
    return b"".join(
        struct.pack("<QHHHHQI36x", e.count, e.queue, e.command, e.status << 1, 0xFFFF, e.lba, e.namespace)
        for e in controller.state.errors
    ).ljust(64 * 64, b"\0")


def _health(controller: Controller) -> bytes:
    s = controller.state
    warning = TOO_HOT_OR_COLD if beyond_thresholds(controller) else 0
    head = struct.pack("<BHBBB26x", warning, TEMPERATURE, 100, 10, 0)

    def wide(value: int) -> bytes:
        return value.to_bytes(16, "little")

    counts = (-(-s.read_units // UNIT), -(-s.written_units // UNIT), s.reads, s.writes, 0, 0, 0, 0, 0, s.error_count)
    return (head + b"".join(map(wide, counts))).ljust(512, b"\0")


def _firmware(_: Controller) -> bytes:
    return (b"\x01" + bytes(7) + REVISION).ljust(512, b"\0")


def _namespaces(controller: Controller) -> bytes:
    changed = sorted(controller.state.changed)
    return struct.pack(f"<{len(changed)}I", *changed).ljust(4096, b"\0")


def _effects(_: Controller) -> bytes:
    out = bytearray(4096)
    for opcode in Admin:
        changes = CHANGES_NAMESPACES if opcode == Admin.NAMESPACE_ATTACHMENT else 0
        struct.pack_into("<I", out, 4 * opcode, SUPPORTED | changes)
    for command in Io:
        changes = CHANGES_DATA if command in (Io.WRITE, Io.WRITE_ZEROES, Io.DATASET_MANAGEMENT) else 0
        struct.pack_into("<I", out, 1024 + 4 * command, SUPPORTED | changes)
    return bytes(out)


PAGES: dict[int, Callable[[Controller], bytes]] = {
    Log.ERRORS: _errors,
    Log.HEALTH: _health,
    Log.FIRMWARE: _firmware,
    Log.NAMESPACES: _namespaces,
    Log.EFFECTS: _effects,
}
