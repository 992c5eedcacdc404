"""The messages of a block front end and back end (Xen, public/io/blkif.h), as a 64-bit guest lays them out.

request    u8 operation   u8 segments   u16 handle   u64 id   u64 first sector   11 segments
segment    u32 gref   u8 first sector   u8 last sector   u16 unused; sectors of 512 bytes within the granted frame
response   u64 id   u8 operation   s16 status
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

HEADER, SEGMENT, RESPONSE = struct.Struct("<BBH4xQQ"), struct.Struct("<IBB2x"), struct.Struct("<QBxh4x")
MOST_SEGMENTS = 11
REQUEST_SIZE = HEADER.size + MOST_SEGMENTS * SEGMENT.size
SECTORS_A_PAGE = 8
OKAY, ERROR, UNSUPPORTED = 0, -1, -2
PROTOCOL = "x86_64-abi"


class Operation(enum.IntEnum):
    """Those of later versions, or that this back end does not offer, are not here."""

    READ = 0
    WRITE = 1
    FLUSH = 3


class Segment(NamedTuple):
    gref: int
    first: int
    last: int


class Request(NamedTuple):
    """A request as it was copied out of the ring. Only so many of the segments are meant as `segment_count` says."""

    operation: int
    segment_count: int
    id: int
    sector: int
    segments: list[Segment]


def parse(raw: bytes) -> Request:
    operation, count, _, id, sector = HEADER.unpack_from(raw)
    places = range(HEADER.size, REQUEST_SIZE, SEGMENT.size)
    return Request(operation, count, id, sector, [Segment(*SEGMENT.unpack_from(raw, at)) for at in places])
