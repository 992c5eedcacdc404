"""What the drive says of itself: the data structures of IDENTIFY (NVM Express 1.4, 5.15)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hv.silicon.medium import SECTOR, Medium
from hv.silicon.nvme.log import REVISION
from hv.silicon.nvme.queues import Command
from hv.silicon.nvme.spec import (
    CQ_ENTRY,
    CRITICAL_TEMPERATURE,
    EVENT_ENABLE,
    EVERY_NAMESPACE,
    MDTS,
    PAGE,
    SQ_ENTRY,
    VERSION,
    WARNING_TEMPERATURE,
    CommandError,
    Event,
    Status,
)
from hv.silicon.nvme.subsystem import (
    MOST_FLEXIBLE,
    PRIMARY,
    PRIVATE_QUEUES,
    PRIVATE_VECTORS,
    QUEUES,
    VECTORS,
    Subsystem,
)

if TYPE_CHECKING:
    from hv.silicon.nvme.controller import Controller

NAMESPACE, CONTROLLER, ACTIVE, DESCRIPTORS = 0x00, 0x01, 0x02, 0x03
ALLOCATED, ALLOCATED_NAMESPACE, ATTACHED_CONTROLLERS, CONTROLLERS = 0x10, 0x11, 0x12, 0x13
PRIMARY_CAPABILITIES, SECONDARY_LIST = 0x14, 0x15
NAMESPACES_CHANGE, VIRTUALIZATION = 1 << 3, 1 << 7  # OACS
COMPARE, DATASETS, ZEROES = 1 << 0, 1 << 2, 1 << 3  # ONCS
INPUT_OUTPUT = 1  # type of controller
CACHE_PRESENT, CACHE_FLUSHES_ALL = 1, 3 << 1  # VWC: there is a cache, and a flush may name every namespace at once
SHARED = 1  # NMIC: several controllers may have the namespace
UUID = 3  # type of a namespace descriptor


def answer(controller: Controller, command: Command) -> bytes:
    """4096 bytes. Raises CommandError."""
    what, controller_id, namespace = command.words[0] & 0xFF, command.words[0] >> 16, command.namespace
    subsystem = controller.subsystem
    seen = subsystem.attached(controller.id)
    if what == CONTROLLER:
        return _controller(controller)
    if what in (NAMESPACE, ALLOCATED_NAMESPACE):
        if what == NAMESPACE and namespace == EVERY_NAMESPACE:
            return _namespace(None)  # what all have in common
        medium = _medium(subsystem, namespace)
        visible = namespace in seen or (what == ALLOCATED_NAMESPACE and controller.id == PRIMARY)
        return _namespace(medium) if visible else bytes(PAGE)
    if what == DESCRIPTORS:
        _medium(subsystem, namespace)
        if namespace not in seen:
            raise CommandError(Status.INVALID_FIELD)
        return struct.pack("<BBH16s", UUID, 16, 0, _uuid(subsystem, namespace)).ljust(PAGE, b"\0")
    if what == ACTIVE or (what == ALLOCATED and controller.id == PRIMARY):
        if namespace >= EVERY_NAMESPACE - 1:
            raise CommandError(Status.INVALID_NAMESPACE)
        return _list(
            "I", 1024, (id for id in (seen if what == ACTIVE else sorted(subsystem.namespaces)) if id > namespace)
        )
    if controller.id != PRIMARY:
        raise CommandError(Status.INVALID_FIELD)  # the rest is the business of whoever owns the card
    if what in (ATTACHED_CONTROLLERS, CONTROLLERS):
        ids = [other.id for other in subsystem.controllers if other.id >= controller_id]
        if what == ATTACHED_CONTROLLERS:
            _medium(subsystem, namespace)
            ids = [id for id in ids if namespace in subsystem.attached(id)]
        return _list("H", 2047, ids, counted=True)
    if what == PRIMARY_CAPABILITIES:
        return _primary_capabilities(subsystem)
    if what == SECONDARY_LIST:
        return _secondary_list(subsystem, controller_id)
    raise CommandError(Status.INVALID_FIELD)


def _medium(subsystem: Subsystem, namespace: int) -> Medium:
    try:
        return subsystem.namespaces[namespace]
    except KeyError:
        raise CommandError(Status.INVALID_NAMESPACE) from None


def _list(kind: str, most: int, ids: Iterable[int], *, counted: bool = False) -> bytes:
    some = list(ids)[:most]
    return struct.pack(f"<{len(some) + counted}{kind}", *([len(some)] if counted else []), *some).ljust(PAGE, b"\0")


def _uuid(subsystem: Subsystem, namespace: int) -> bytes:
    """Another one for each namespace of each card in the world."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{subsystem.name}:{namespace}").bytes


def _controller(controller: Controller) -> bytes:
    subsystem, out = controller.subsystem, bytearray(PAGE)
    primary = controller.id == PRIMARY
    put = struct.pack_into
    put(
        "<HH20s40s8s",
        out,
        0,
        subsystem.vendor,
        subsystem.vendor,
        _text(subsystem.serial, 20),
        _text(subsystem.model, 40),
        REVISION,
    )
    put("<B", out, 76, 1 << 1 | (0 if primary else 1 << 2))  # several controllers; this one is a VF's
    put("<BHI", out, 77, MDTS, controller.id, VERSION)
    put("<I", out, 92, EVENT_ENABLE[Event.NAMESPACES_CHANGED])  # optional events
    put("<B", out, 111, INPUT_OUTPUT)
    put("<H", out, 256, NAMESPACES_CHANGE | VIRTUALIZATION if primary else 0)
    put("<BB", out, 258, 3, 3)  # commands that can be aborted, events that can be asked for: both less one
    put("<BB", out, 260, 1 << 1 | 1, 0b110)  # one read-only firmware slot; command effects, extended log pages
    put("<B", out, 262, 63)  # entries of the error log, less one
    put("<HH", out, 266, WARNING_TEMPERATURE, CRITICAL_TEMPERATURE)
    sectors = sum(medium.sectors for medium in subsystem.namespaces.values())
    put("<QQ", out, 280, sectors * SECTOR, 0)
    put("<BB", out, 512, SQ_ENTRY << 4 | SQ_ENTRY, CQ_ENTRY << 4 | CQ_ENTRY)
    put("<H", out, 514, 256)  # commands at once
    put("<I", out, 516, max(subsystem.namespaces, default=0))
    put("<H", out, 520, COMPARE | DATASETS | ZEROES)
    put("<B", out, 525, CACHE_PRESENT | CACHE_FLUSHES_ALL)
    put("<256s", out, 768, subsystem.name.encode())
    return bytes(out)


def _text(text: str, size: int) -> bytes:
    return text.encode("ascii", "replace")[:size].ljust(size)


def _namespace(medium: Medium | None) -> bytes:
    out, sectors = bytearray(PAGE), 0 if medium is None else medium.sectors
    struct.pack_into("<3Q", out, 0, sectors, sectors, sectors)
    struct.pack_into("<B", out, 30, SHARED)
    struct.pack_into("<B", out, 99, medium is not None and medium.read_only)  # write-protected
    struct.pack_into("<I", out, 128, (SECTOR.bit_length() - 1) << 16)  # the one format: 512 bytes, no metadata
    return bytes(out)


def _primary_capabilities(subsystem: Subsystem) -> bytes:
    out = bytearray(PAGE)
    struct.pack_into("<HHB", out, 0, PRIMARY, 0, 3)  # both queues and interrupts are flexible
    for at, kind, private in ((32, QUEUES, PRIVATE_QUEUES), (64, VECTORS, PRIVATE_VECTORS)):
        total, given = subsystem.flexible(), subsystem.given(kind)
        struct.pack_into("<IIHHHH", out, at, total, given, 0, private, MOST_FLEXIBLE, 1)
    return bytes(out)


def _secondary_list(subsystem: Subsystem, first: int) -> bytes:
    chosen = [(id, secondary) for id, secondary in sorted(subsystem.state.secondaries.items()) if id >= first][:127]
    out = bytes([len(chosen)]) + bytes(31)
    for id, secondary in chosen:
        out += struct.pack("<HHB3xHHH18x", id, PRIMARY, secondary.online, id, *secondary.resources)
    return out.ljust(PAGE, b"\0")
