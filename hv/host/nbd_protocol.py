"""The numbers of the NBD protocol (the project's doc/proto.md), for client and server. All fields are big-endian."""

from __future__ import annotations

import struct

NBD_MAGIC, I_HAVE_OPT, OPTION_REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
REQUEST, SIMPLE_REPLY, STRUCTURED_REPLY = 0x25609513, 0x67446698, 0x668E33EF

# Handshake flags, of both sides.
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
# Options, and the types of the replies to them.
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED = 1, 2, 3, 6, 7, 8
REP_ACK, REP_SERVER, REP_INFO = 1, 2, 3
REP_ERROR = 1 << 31
REP_UNSUPPORTED, REP_INVALID, REP_UNKNOWN = (REP_ERROR | n for n in (1, 3, 6))
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
# Transmission flags: what an export can do.
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES = 1, 2, 4, 8, 32, 64
# Commands, and their flag.
READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1
# Chunks of a structured reply, and their flag.
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_ERROR = 0, 1, 2, 0x8001
CHUNK_IS_ERROR, DONE = 0x8000, 1
# Errors; the same as Linux's.
ERRORS = {
    1: "EPERM", 5: "EIO", 12: "ENOMEM", 22: "EINVAL", 28: "ENOSPC", 75: "EOVERFLOW", 95: "ENOTSUP", 108: "ESHUTDOWN",
}  # fmt: skip
EPERM, EIO, EINVAL = 1, 5, 22

MOST_DATA = 32 << 20  # bytes of one request; more a server need not take
MOST_STRING = 4096
PORT = 10809

GREETING = struct.Struct(">QQH")  # NBD_MAGIC, I_HAVE_OPT, handshake flags
OPTION = struct.Struct(">QII")  # I_HAVE_OPT, option, length
REPLY_TO_OPTION = struct.Struct(">QIII")  # OPTION_REPLY, option, type, length
EXPORT = struct.Struct(">QH")  # size, transmission flags
REQUEST_HEADER = struct.Struct(">IHHQQI")  # REQUEST, flags, command, cookie, offset, length
SIMPLE_HEADER = struct.Struct(">IIQ")  # SIMPLE_REPLY, error, cookie
CHUNK_HEADER = struct.Struct(">IHHQI")  # STRUCTURED_REPLY, flags, type, cookie, length
