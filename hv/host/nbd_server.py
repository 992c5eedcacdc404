"""An NBD server without sockets or threads: bytes in, bytes out.

The remote disk of a guest is behind it by default, so that the bytes of the real protocol pass between the two while
a run stays deterministic. Fed from a socket it serves nbd-client, qemu-img or nbdinfo just as well.
Simplified: no TLS, no block status; offsets and lengths are whole sectors, which it tells its clients.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping

from hv.host import nbd_protocol as nbd
from hv.host.store import SECTOR, Store, StoreError

Steps = Generator[int, bytes, None]  # asks for so many bytes, and is sent them
MOST_OPTION = 64 << 10
PIECE = 1 << 20  # bytes of zeros written at once


class NbdServer:
    """One connection of a client. `closed`: the server has hung up."""

    def __init__(self, exports: Mapping[str, Store]) -> None:
        """The first export is also the one without a name."""
        self.exports = exports
        self.closed = False
        self._input, self._output = bytearray(), bytearray()
        self._structured = False
        self._steps = self._session()
        self._needed = next(self._steps)

    def feed(self, data: bytes) -> bytes:
        """Bytes from the client; returns what the server sends. The first call may be without any: the greeting."""
        self._input += data
        while not self.closed and len(self._input) >= self._needed:
            taken = bytes(self._input[: self._needed])
            del self._input[: self._needed]
            try:
                self._needed = self._steps.send(taken)
            except StopIteration:
                self.closed = True
        sent = bytes(self._output)
        self._output.clear()
        return sent

    def _session(self) -> Steps:
        """The whole conversation. A client that breaks the protocol is hung up on."""
        self._output += nbd.GREETING.pack(nbd.NBD_MAGIC, nbd.I_HAVE_OPT, nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES)
        (flags,) = struct.unpack(">I", (yield 4))
        if flags & ~(nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES):
            return
        while True:
            magic, option, length = nbd.OPTION.unpack((yield nbd.OPTION.size))
            if magic != nbd.I_HAVE_OPT or length > MOST_OPTION:
                return
            body = (yield length) if length else b""
            if option == nbd.OPT_EXPORT_NAME:
                store = self._find(body)
                if store is None:
                    return
                self._output += nbd.EXPORT.pack(store.sectors * SECTOR, _flags(store))
                self._output += b"" if flags & nbd.NO_ZEROES else bytes(124)
            else:
                store = self._option(option, body)
            if option == nbd.OPT_ABORT:
                return
            if store is not None and option != nbd.OPT_INFO:
                break
        yield from self._transmission(store)

    # --- options ----------------------------------------------------------------------------------------------

    def _find(self, name: bytes) -> Store | None:
        text = name.decode("utf-8", "replace")
        return self.exports.get(text) if text or "" in self.exports else next(iter(self.exports.values()), None)

    def _reply(self, option: int, kind: int, body: bytes = b"") -> None:
        self._output += nbd.REPLY_TO_OPTION.pack(nbd.OPTION_REPLY, option, kind, len(body)) + body

    def _option(self, option: int, body: bytes) -> Store | None:
        """Answer any option but EXPORT_NAME. Returns the export that was asked for."""
        if option in (nbd.OPT_INFO, nbd.OPT_GO):
            return self._info(option, body)
        if option == nbd.OPT_ABORT:
            self._reply(option, nbd.REP_ACK)
        elif option in (nbd.OPT_LIST, nbd.OPT_STRUCTURED) and body:
            self._reply(option, nbd.REP_INVALID)
        elif option == nbd.OPT_LIST:
            for name in self.exports:
                text = name.encode()
                self._reply(option, nbd.REP_SERVER, struct.pack(">I", len(text)) + text)
            self._reply(option, nbd.REP_ACK)
        elif option == nbd.OPT_STRUCTURED:
            self._structured = True
            self._reply(option, nbd.REP_ACK)
        else:
            self._reply(option, nbd.REP_UNSUPPORTED)
        return None

    def _info(self, option: int, body: bytes) -> Store | None:
        """INFO and GO: a name, and the numbers of what the client would like to know."""
        length = int.from_bytes(body[:4], "big")
        wishes = body[4 + length :]
        if len(body) < 6 or len(wishes) < 2 or len(wishes) != 2 + 2 * int.from_bytes(wishes[:2], "big"):
            self._reply(option, nbd.REP_INVALID)
            return None
        store = self._find(body[4 : 4 + length])
        if store is None:
            self._reply(option, nbd.REP_UNKNOWN)
            return None
        size, flags = store.sectors * SECTOR, _flags(store)
        self._reply(option, nbd.REP_INFO, struct.pack(">H", nbd.INFO_EXPORT) + nbd.EXPORT.pack(size, flags))
        block_sizes = struct.pack(">HIII", nbd.INFO_BLOCK_SIZE, SECTOR, 4096, nbd.MOST_DATA)
        self._reply(option, nbd.REP_INFO, block_sizes)
        self._reply(option, nbd.REP_ACK)
        return store

    # --- transmission -----------------------------------------------------------------------------------------

    def _transmission(self, store: Store) -> Steps:
        while True:
            header = yield nbd.REQUEST_HEADER.size
            magic, flags, command, cookie, offset, length = nbd.REQUEST_HEADER.unpack(header)
            if magic != nbd.REQUEST or command == nbd.DISCONNECT:
                return
            if command == nbd.WRITE and length > nbd.MOST_DATA:
                return  # so much that it would not even be read
            data = (yield length) if command == nbd.WRITE and length else b""
            error, found = 0, b""
            try:
                outside = offset % SECTOR or length % SECTOR or offset + length > store.sectors * SECTOR
                if outside and command != nbd.FLUSH:
                    error = nbd.EINVAL
                elif command in (nbd.WRITE, nbd.WRITE_ZEROES, nbd.TRIM) and store.read_only:
                    error = nbd.EPERM
                elif not length and command in (nbd.READ, nbd.WRITE):
                    pass
                elif command == nbd.READ and length <= nbd.MOST_DATA:
                    found = store.read(offset // SECTOR, length // SECTOR)
                elif command == nbd.WRITE:
                    store.write(offset // SECTOR, data, durable=bool(flags & nbd.FUA))
                elif command == nbd.WRITE_ZEROES:
                    _zero(store, offset, length, durable=bool(flags & nbd.FUA))
                elif command == nbd.FLUSH:
                    store.flush()
                elif command != nbd.TRIM:  # a trim may be done by doing nothing
                    error = nbd.EINVAL
            except StoreError:
                error = nbd.EIO
            self._answer(command, cookie, error, offset, found)

    def _answer(self, command: int, cookie: int, error: int, offset: int, data: bytes) -> None:
        if not (self._structured and command == nbd.READ):
            self._output += nbd.SIMPLE_HEADER.pack(nbd.SIMPLE_REPLY, error, cookie) + data
            return
        if error:
            kind, body = nbd.CHUNK_ERROR, struct.pack(">IH", error, 0)
        elif data:
            kind, body = nbd.CHUNK_DATA, struct.pack(">Q", offset) + data
        else:
            kind, body = nbd.CHUNK_NONE, b""
        self._output += nbd.CHUNK_HEADER.pack(nbd.STRUCTURED_REPLY, nbd.DONE, kind, cookie, len(body)) + body


def _flags(store: Store) -> int:
    can = nbd.HAS_FLAGS | nbd.SEND_FLUSH | nbd.SEND_FUA | nbd.SEND_TRIM | nbd.SEND_WRITE_ZEROES
    return can | (nbd.READ_ONLY if store.read_only else 0)


def _zero(store: Store, offset: int, length: int, *, durable: bool) -> None:
    for at in range(offset, offset + length, PIECE):
        store.write(at // SECTOR, bytes(min(PIECE, offset + length - at)), durable=durable)
