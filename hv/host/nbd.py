"""The remote disk: an NBD client as a block store (the NBD project's doc/proto.md).

One request at a time, over a `Transport`: a socket, or the embedded server in this process. A connection that breaks
is made again and the request repeated; writes that the server has acknowledged but not flushed are repeated as well,
since a server that has died may have lost them. What cannot be repaired is a StoreError, which the guest's drive shows
as an I/O error. The user hears of each outage once.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from hv.errors import HvError
from hv.host import nbd_protocol as nbd
from hv.host.nbd_server import NbdServer
from hv.host.store import SECTOR, Store, StoreError

CONNECT_TIMEOUT, REPLY_TIMEOUT = 3.0, 5.0  # seconds; a server that hangs stops the guest for so long
LOOK = 0.05  # seconds between two looks at what the user wants meanwhile
PAUSES = (0.0, 0.2, 1.0)  # seconds before each further try to reach a server that has gone away
MOST_UNFLUSHED = 4 << 20  # bytes that are kept to be repeated; then the client flushes by itself
PIECE = 1 << 20  # bytes of one request
MOST_OPTION_REPLY = 1 << 16
MOST_CHUNKS = 64  # of a structured reply, besides one a sector


class NbdError(Exception):
    """The other end is gone, silent, or talks nonsense."""


class Transport(Protocol):
    """A byte stream to a server. Both methods raise OSError or NbdError when it is broken."""

    def send(self, data: bytes) -> None: ...

    def receive(self, size: int) -> bytes:
        """Exactly so many bytes."""

    def close(self) -> None: ...


class Socket:
    """A server on a network. While it waits it calls `idle`, which may end the wait by an exception."""

    def __init__(self, where: Where, idle: Callable[[], None]) -> None:
        self.idle = idle
        trouble: OSError | None = None
        for family, address in where.addresses():
            self.socket = socket.socket(family)
            try:
                self._connect(address)
            except OSError as error:
                trouble = error
                self.socket.close()
            except BaseException:
                self.socket.close()
                raise
            else:
                return
        raise trouble or OSError("no address")

    def _connect(self, address: Any) -> None:
        self.socket.setblocking(False)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(address)
        self._wait(time.monotonic() + CONNECT_TIMEOUT, sending=True)
        if error := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))

    def _wait(self, end: float, *, sending: bool = False) -> None:
        """Until the socket takes or has bytes."""
        reading, writing = ([], [self.socket]) if sending else ([self.socket], [])
        while not any(select.select(reading, writing, [], LOOK)):
            self.idle()
            if time.monotonic() > end:
                raise TimeoutError

    def send(self, data: bytes) -> None:
        left, end = memoryview(data), time.monotonic() + REPLY_TIMEOUT
        while left:
            self._wait(end, sending=True)
            left = left[self.socket.send(left) :]

    def receive(self, size: int) -> bytes:
        data, end = bytearray(), time.monotonic() + REPLY_TIMEOUT
        while len(data) < size:
            self._wait(end)
            part = self.socket.recv(min(size - len(data), PIECE))
            if not part:
                raise NbdError("the server has hung up")
            data += part
        return bytes(data)

    def close(self) -> None:
        self.socket.close()


class InProcess:
    """The embedded server: what is sent is answered at once."""

    def __init__(self, server: NbdServer) -> None:
        self.server = server
        self.waiting = bytearray(server.feed(b""))

    def send(self, data: bytes) -> None:
        self.waiting += self.server.feed(data)

    def receive(self, size: int) -> bytes:
        if len(self.waiting) < size:
            raise NbdError("the server has hung up" if self.server.closed else "the server sent too little")
        data = bytes(self.waiting[:size])
        del self.waiting[:size]
        return data

    def close(self) -> None:
        """Nothing to give back."""


class Where(NamedTuple):
    """A server and its export, from an NBD URI. `path`: a Unix socket instead of host and port."""

    host: str
    port: int
    path: str
    export: str

    def addresses(self) -> list[tuple[int, Any]]:
        """Where to knock: each a family and an address."""
        if self.path:
            return [(socket.AF_UNIX, self.path)]
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]


def parse_url(url: str) -> Where:
    """nbd://host[:port]/[export] or nbd+unix:///[export]?socket=PATH, as the NBD project's doc/uri.md has them."""
    try:
        parts = urlsplit(url)
        export, query, port = unquote(parts.path.removeprefix("/")), parse_qs(parts.query), parts.port
    except ValueError as error:
        raise HvError(f"-nbd {url}: {error}") from None
    if len(export.encode()) > nbd.MOST_STRING:
        raise HvError(f"-nbd: the name of an export has at most {nbd.MOST_STRING} bytes")
    if parts.scheme == "nbd" and parts.hostname:
        return Where(parts.hostname, port or nbd.PORT, "", export)
    if parts.scheme == "nbd+unix" and not parts.netloc and len(query.get("socket", [])) == 1:
        return Where("", 0, query["socket"][0], export)
    raise HvError(f"-nbd takes nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH, not {url}")


class Nbd:
    """A store whose sectors are an export of an NBD server.

    `connect()` opens a transport, `say(text)` tells the user, `idle()` is called while it waits. `behind` is the store
    of an embedded server, if it is one: its content belongs to a snapshot.
    """

    def __init__(
        self, name: str, export: str, connect: Callable[[], Transport], say: Callable[[str], None],
        behind: Store | None = None, idle: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Raises HvError when the server cannot be reached or the export cannot be used."""
        self.name, self.export, self.connect, self.say, self.behind = name, export, connect, say, behind
        self.idle = idle
        self.transport: Transport | None = None
        self.sectors, self.flags, self.cookie = 0, 0, 0
        self.structured = False
        self.lost = False  # an outage that the user has been told of
        self.refusals: set[str] = set()  # and errors
        self.unflushed: list[tuple[int, bytes]] = []  # acknowledged writes since the last flush, in bytes
        try:
            self._open()
        except (OSError, NbdError) as error:
            raise HvError(f"remote disk {name}: {_reason(error)}", 1) from None

    @property
    def read_only(self) -> bool:
        return bool(self.flags & nbd.READ_ONLY)

    # --- the store --------------------------------------------------------------------------------------------

    def read(self, sector: int, count: int) -> bytes:
        data = bytearray()
        for at in range(sector * SECTOR, (sector + count) * SECTOR, PIECE):
            size = min(PIECE, (sector + count) * SECTOR - at)
            data += self._request(nbd.READ, at, size)
        return bytes(data)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        flags = nbd.FUA if durable and self.flags & nbd.SEND_FUA else 0
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            self._request(nbd.WRITE, sector * SECTOR + at, len(piece), piece, flags)
            if self.flags & nbd.SEND_FLUSH and not flags:
                self.unflushed.append((sector * SECTOR + at, piece))
        if (durable and not flags) or sum(len(piece) for _, piece in self.unflushed) > MOST_UNFLUSHED:
            self.flush()

    def flush(self) -> None:
        if not self.flags & nbd.SEND_FLUSH:
            return
        try:
            self._request(nbd.FLUSH, 0, 0)
        except StoreError:
            self._drop()  # what the server has of it is not known: all of it goes again over a new connection
            raise
        self.unflushed.clear()

    def state(self) -> Any:
        return None if self.behind is None else (self.behind.state(), self.cookie, list(self.unflushed))

    def set_state(self, state: Any) -> None:
        if self.behind is not None:
            kept, self.cookie, self.unflushed = state
            self.behind.set_state(kept)

    def close(self) -> None:
        """Say goodbye, if anybody is there."""
        if self.transport is not None:
            with contextlib.suppress(OSError, NbdError):
                self.transport.send(nbd.REQUEST_HEADER.pack(nbd.REQUEST, 0, nbd.DISCONNECT, 0, 0, 0))
            self._drop()
        if self.behind is not None:
            self.behind.close()

    # --- requests ---------------------------------------------------------------------------------------------

    def _request(self, command: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> bytes:
        """One request, repeated over a new connection if need be. Raises StoreError."""
        for pause in PAUSES[:1] if self.lost else PAUSES:
            end = time.monotonic() + pause
            while (left := end - time.monotonic()) > 0:
                self.idle()
                time.sleep(min(left, LOOK))
            try:
                if self.transport is None:
                    self._open()
                data = self._exchange(command, offset, length, payload, flags)
            except (OSError, NbdError) as error:
                self._drop()
                if not self.lost:
                    self.lost = True
                    self.say(f"remote disk {self.name}: {_reason(error)}; trying again")
            else:
                self.lost = False
                return data
        raise StoreError("the server is gone", offset // SECTOR)

    def _exchange(self, command: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> bytes:
        """Raises NbdError where the connection is no good any more, StoreError where the server refuses."""
        assert self.transport is not None
        self.cookie += 1
        header = nbd.REQUEST_HEADER.pack(nbd.REQUEST, flags, command, self.cookie, offset, length)
        self.transport.send(header + payload)
        (magic,) = struct.unpack(">I", self.transport.receive(4))
        if magic == nbd.STRUCTURED_REPLY and self.structured:
            return self._chunks(command, offset, length)
        if magic != nbd.SIMPLE_REPLY or (self.structured and command == nbd.READ):
            raise NbdError(f"the server sent {magic:#x} where a reply begins")
        error, cookie = struct.unpack(">IQ", self.transport.receive(12))
        self._check_cookie(cookie)
        if error:
            raise self._refusal(error, offset)
        return self.transport.receive(length) if command == nbd.READ else b""

    def _chunks(self, command: int, offset: int, length: int) -> bytes:
        """A structured reply, behind its first magic number: chunks in any order until one is the last."""
        assert self.transport is not None
        data, missing, refused = bytearray(length), length if command == nbd.READ else 0, 0
        for _ in range(length // SECTOR + MOST_CHUNKS):
            flags, kind, cookie, size = struct.unpack(">HHQI", self.transport.receive(16))
            self._check_cookie(cookie)
            if size > (MOST_OPTION_REPLY if kind & nbd.CHUNK_IS_ERROR else length + 8):
                raise NbdError("the server sent more than was asked for")
            body = self.transport.receive(size)
            if kind & nbd.CHUNK_IS_ERROR:
                refused = int.from_bytes(body[:4], "big") or nbd.EIO
            elif kind in (nbd.CHUNK_DATA, nbd.CHUNK_HOLE):
                at = int.from_bytes(body[:8], "big") - offset
                part = body[8:] if kind == nbd.CHUNK_DATA else bytes(_hole(body, length))
                if not 0 <= at <= at + len(part) <= length or len(body) < 8:
                    raise NbdError("the server sent data that was not asked for")
                data[at : at + len(part)] = part
                missing -= len(part)
            elif kind != nbd.CHUNK_NONE:
                raise NbdError(f"the server sent a chunk of type {kind}")
            if flags & nbd.DONE:
                break
            if self.transport.receive(4) != struct.pack(">I", nbd.STRUCTURED_REPLY):
                raise NbdError("the server lost its thread")
        else:
            raise NbdError("the server never ends its reply")
        if refused:
            raise self._refusal(refused, offset)
        if missing:
            raise NbdError("the server sent less than was asked for")
        return bytes(data) if command == nbd.READ else b""

    def _check_cookie(self, cookie: int) -> None:
        if cookie != self.cookie:
            raise NbdError("the server answered another request")

    def _refusal(self, error: int, offset: int) -> StoreError:
        text = nbd.ERRORS.get(error, str(error))
        if text not in self.refusals:
            self.refusals.add(text)
            self.say(f"remote disk {self.name}: the server refuses a request for sector {offset // SECTOR}: {text}")
        return StoreError(text, offset // SECTOR)

    # --- connecting -------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        if self.transport is not None:
            self.transport.close()
        self.transport = None

    def _open(self) -> None:
        """Connect, agree, and repeat what a server before this one may have lost."""
        self.transport = self.connect()
        try:
            sectors, self.structured = self.sectors, False
            size, self.flags = self._negotiate(self.transport)
            if size < SECTOR:
                raise NbdError(f"the export has {size} bytes, less than a sector")
            self.sectors = size // SECTOR
            if sectors not in (0, self.sectors):
                self.sectors = sectors
                raise NbdError("the export has changed its size")
            for offset, data in self.unflushed:
                self._exchange(nbd.WRITE, offset, len(data), data)
        except StoreError as error:
            self._drop()
            raise NbdError(str(error)) from None
        except BaseException:
            self._drop()
            raise

    def _negotiate(self, transport: Transport) -> tuple[int, int]:
        """The fixed newstyle handshake. Returns the export's size in bytes and its flags."""
        magic, style, flags = nbd.GREETING.unpack(transport.receive(nbd.GREETING.size))
        if magic != nbd.NBD_MAGIC or style != nbd.I_HAVE_OPT:
            raise NbdError("this is no NBD server, or one of the old style")
        transport.send(struct.pack(">I", flags & (nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES)))
        if flags & nbd.FIXED_NEWSTYLE:
            self.structured = self._ask(transport, nbd.OPT_STRUCTURED, b"")[0] == nbd.REP_ACK
            name = self.export.encode()
            wish = struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, nbd.INFO_BLOCK_SIZE)
            kind, info = self._ask(transport, nbd.OPT_GO, wish)
            if kind == nbd.REP_ACK:
                return _export(info)
            if kind != nbd.REP_UNSUPPORTED:
                known = {nbd.REP_UNKNOWN: f"there is no export {self.export!r}"}
                raise NbdError(known.get(kind, f"the server refuses the export {self.export!r} ({kind:#x})"))
        name = self.export.encode()
        transport.send(nbd.OPTION.pack(nbd.I_HAVE_OPT, nbd.OPT_EXPORT_NAME, len(name)) + name)
        size, can = nbd.EXPORT.unpack(transport.receive(nbd.EXPORT.size))
        if not flags & nbd.NO_ZEROES:
            transport.receive(124)
        return size, can

    def _ask(self, transport: Transport, option: int, body: bytes) -> tuple[int, dict[int, bytes]]:
        """An option. Returns the type of the last reply, and the pieces of information before it."""
        transport.send(nbd.OPTION.pack(nbd.I_HAVE_OPT, option, len(body)) + body)
        found: dict[int, bytes] = {}
        for _ in range(100):
            magic, about, kind, length = nbd.REPLY_TO_OPTION.unpack(transport.receive(nbd.REPLY_TO_OPTION.size))
            if magic != nbd.OPTION_REPLY or about != option or length > MOST_OPTION_REPLY:
                raise NbdError("the server's answer to an option makes no sense")
            text = transport.receive(length)
            if kind != nbd.REP_INFO:
                return kind, found
            found[int.from_bytes(text[:2], "big")] = text[2:]
        raise NbdError("the server never ends its answer to an option")


def _hole(body: bytes, length: int) -> int:
    """How many bytes of zeros a hole has."""
    return min(int.from_bytes(body[8:12], "big"), length + 1)


def _export(info: dict[int, bytes]) -> tuple[int, int]:
    """Size and flags out of the pieces of information that came with GO."""
    if len(info.get(nbd.INFO_EXPORT, b"")) != nbd.EXPORT.size:
        raise NbdError("the server does not say how large the export is")
    blocks = info.get(nbd.INFO_BLOCK_SIZE, b"")
    if len(blocks) == 12 and int.from_bytes(blocks[:4], "big") > SECTOR:
        raise NbdError(f"the server wants blocks of {int.from_bytes(blocks[:4], 'big')} bytes; the drive has {SECTOR}")
    size, flags = nbd.EXPORT.unpack(info[nbd.INFO_EXPORT])
    return size, flags


def _reason(error: OSError | NbdError) -> str:
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def open_nbd(url: str, say: Callable[[str], None], idle: Callable[[], None] = lambda: None) -> Nbd:
    """The export that an NBD URI names."""
    where = parse_url(url)
    return Nbd(url, where.export, lambda: Socket(where, idle), say, idle=idle)


def embedded(store: Store, say: Callable[[str], None]) -> Nbd:
    """A store behind the embedded server."""
    return Nbd("(embedded)", "", lambda: InProcess(NbdServer({"": store})), say, behind=store)
