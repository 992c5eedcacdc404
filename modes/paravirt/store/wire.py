"""Xenstore's messages (Xen, public/io/xs_wire.h; docs/misc/xenstore.txt).

    u32 type    u32 request id, echoed    u32 transaction id, 0 for none    u32 length    payload of that length

Strings end with a zero byte. An error is a message of type ERROR whose payload is the error's name.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

HEADER = struct.Struct("<4I")
MOST_PAYLOAD = 4096


class Type(enum.IntEnum):
    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


class Message(NamedTuple):
    type: int
    request: int
    transaction: int
    payload: bytes

    def encode(self) -> bytes:
        return HEADER.pack(self.type, self.request, self.transaction, len(self.payload)) + self.payload


def strings(*parts: str) -> bytes:
    """Text as a payload has it: each part with a zero byte behind it."""
    return b"".join(part.encode("latin-1") + b"\0" for part in parts)


def split(payload: bytes) -> list[bytes]:
    """The strings of a payload; what follows the last zero byte is one too, unless it is empty."""
    parts = payload.split(b"\0")
    return parts if parts[-1] else parts[:-1]
