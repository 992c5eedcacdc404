"""The embedded NBD server behind a Unix socket, in a thread, one client at a time; and one that a test sends away."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from hv.host.nbd import InProcess, NbdError
from hv.host.nbd_server import NbdServer
from hv.host.store import Store


class FickleServer:
    """A server in this process that a test sends away and brings back by `there`. `short`: replies end too early."""

    def __init__(self, store: Store) -> None:
        self.store, self.there, self.short = store, True, False

    def connect(self) -> InProcess:
        if not self.there:
            raise ConnectionRefusedError(111, "Connection refused")
        return Cable(self)


class Cable(InProcess):
    """A connection to it."""

    def __init__(self, server: FickleServer) -> None:
        super().__init__(NbdServer({"": server.store}))
        self.behind = server

    def send(self, data: bytes) -> None:
        if not self.behind.there:
            raise NbdError("the server has hung up")
        super().send(data)
        if self.behind.short:
            del self.waiting[8:]


@contextlib.contextmanager
def serving(path: Path, exports: Mapping[str, Store], hang: threading.Event | None = None) -> Iterator[None]:
    """Serve these exports at `path` for as long as the context lasts. After `hang` is set nothing is answered."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                server = NbdServer(exports)
                connection.sendall(server.feed(b""))
                while not server.closed and (data := connection.recv(1 << 16)):
                    if hang is None or not hang.is_set():
                        connection.sendall(server.feed(data))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
