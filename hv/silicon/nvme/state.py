"""What an NVMe controller remembers, as one plain record."""

from __future__ import annotations

import msgspec

from hv.silicon.nvme.queues import CompletionQueue, SubmissionQueue


class InFlight(msgspec.Struct, order=True):
    """An I/O command that the medium works on until `due`."""

    due: int
    order: int
    queue: int
    entry: bytes


class ErrorEntry(msgspec.Struct):
    """What the error log says of one error (5.14.1.1)."""

    count: int
    queue: int
    command: int
    status: int
    lba: int = 0
    namespace: int = 0


class ControllerState(msgspec.Struct):
    """Everything that one controller remembers; times are in millicycles."""

    cc: int = 0
    csts: int = 0
    masked: int = 0  # INTMS
    aqa: int = 0
    asq: int = 0
    acq: int = 0
    sqs: dict[int, SubmissionQueue] = {}
    cqs: dict[int, CompletionQueue] = {}
    last_queue: int = -1  # whose turn it was
    flight: list[InFlight] = []  # a heap
    order: int = 0
    fetch: int | None = None  # when it will look at its queues
    settle: int | None = None  # when a reset or a shutdown is over
    asked: list[int] = []  # commands that wait for an event
    events: list[int] = []  # events that nobody has asked for yet
    quiet: int = 0  # types of events that are not reported before their log page has been read (a bit each)
    features: dict[int, int] = {}
    changed: list[int] = []  # namespaces
    errors: list[ErrorEntry] = []
    error_count: int = 0
    read_units: int = 0  # sectors
    written_units: int = 0
    reads: int = 0
    writes: int = 0
