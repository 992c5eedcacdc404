"""Submission and completion queues: rings in the host's memory (NVM Express 1.4, 4.1)."""

from __future__ import annotations

import struct

import msgspec

SQ_ENTRY_BYTES, CQ_ENTRY_BYTES = 64, 16


class Command(msgspec.Struct, frozen=True):
    """A submission queue entry (4.2). `words` are command dwords 10 to 15."""

    opcode: int
    flags: int  # fused operation, and PRP or SGL
    id: int
    namespace: int
    prp1: int
    prp2: int
    words: tuple[int, int, int, int, int, int]


_ENTRY = struct.Struct("<BBHI8x8xQQ6I")


def parse(entry: bytes) -> Command:
    opcode, flags, id, namespace, prp1, prp2, *words = _ENTRY.unpack(entry)
    return Command(opcode, flags, id, namespace, prp1, prp2, tuple(words))


class Completion(msgspec.Struct, frozen=True):
    """What a command's completion queue entry says of it (4.6)."""

    queue: int  # submission queue
    id: int
    status: int  # 15 bits: status, and what is above it (spec.py, MORE and DO_NOT_RETRY)
    result: int = 0


class SubmissionQueue(msgspec.Struct):
    base: int
    size: int  # entries
    completions: int  # its completion queue
    head: int = 0
    tail: int = 0

    def waiting(self) -> int:
        """So many entries are not fetched yet."""
        return (self.tail - self.head) % self.size


class CompletionQueue(msgspec.Struct):
    base: int
    size: int
    vector: int
    interrupts: bool
    head: int = 0
    tail: int = 0
    phase: int = 1
    held: list[Completion] = []  # there was no room for them

    def used(self) -> int:
        return (self.tail - self.head) % self.size

    def full(self) -> bool:
        return self.used() == self.size - 1
