"""Block stores: memory, disk images, and the remote disk over NBD with servers that behave and that do not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.errors import HvError
from hv.host import nbd as nbd_module
from hv.host import nbd_protocol as nbd
from hv.host.image import Image, default_image
from hv.host.nbd import InProcess, Nbd, NbdError, Where, embedded, open_nbd, parse_url
from hv.host.nbd_server import NbdServer
from hv.host.store import DEFAULT_SECTORS, SECTOR, MemoryStore, StoreError, pattern
from tests.nbd_serving import serving

ONE, TWO = b"\x11" * SECTOR, b"\x22" * SECTOR


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_module, "PAUSES", (0.0, 0.0, 0.0))


class Said(list[str]):
    """Collects what the user is told."""

    def __call__(self, text: str) -> None:
        assert "\n" not in text
        self.append(text)


# --- memory and images ----------------------------------------------------------------------------------------------

WRITES = st.lists(st.tuples(st.integers(0, 39), st.integers(1, 20), st.integers(0, 255)), max_size=8)


@settings(max_examples=50)
@given(WRITES)
def test_stores_agree_with_an_array_of_bytes(writes: list[tuple[int, int, int]]) -> None:
    path = Path(f"/proc/self/fd/{os.memfd_create('image')}")
    os.truncate(path, 40 * SECTOR)
    memory, model = MemoryStore(40), bytearray(40 * SECTOR)
    image, remote = Image(path, Said()), embedded(MemoryStore(40), Said())
    for sector, wanted, fill in writes:
        count = min(wanted, 40 - sector)
        data = bytes((fill + i) & 0xFF for i in range(count * SECTOR))
        model[sector * SECTOR : (sector + count) * SECTOR] = data
        for store in (memory, image, remote):
            store.write(sector, data)
            assert store.read(max(sector - 1, 0), count) == model[max(sector - 1, 0) * SECTOR :][: count * SECTOR]
    for store in (memory, image, remote):
        store.flush()
        assert store.read(0, 40) == bytes(model)
        store.close()
    os.close(int(path.name))


def test_memory_comes_back_with_a_snapshot_and_refuses_what_is_behind_its_end() -> None:
    store = MemoryStore(64, "local")
    kept = store.state()
    assert store.read(0, 8) == pattern("local", 0)
    store.write(3, ONE)
    store.set_state(kept)
    assert store.read(0, 8) == pattern("local", 0)
    with pytest.raises(StoreError):
        store.read(60, 5)


def test_the_default_image_is_made_once_and_is_sparse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    said = Said()
    path = default_image("local", said)
    assert default_image("local", said) == path == tmp_path / "hv" / "local.img"
    assert len(said) == 1
    assert path.stat().st_size == DEFAULT_SECTORS * SECTOR
    assert path.stat().st_blocks * 512 < 2 << 20
    assert list((tmp_path / "hv").iterdir()) == [path]
    image, memory = Image(path, said), MemoryStore(DEFAULT_SECTORS, "local")
    assert image.read(0, 4096) == memory.read(0, 4096)
    image.close()


def test_a_size_that_is_no_whole_number_of_sectors_is_rounded_up(tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(b"x" * 700)
    image = Image(path, Said())
    assert image.sectors == 2
    assert image.read(1, 1) == b"x" * 188 + bytes(324)
    image.write(1, ONE)
    assert path.read_bytes() == b"x" * 512 + ONE
    image.close()


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
)
def test_what_is_no_disk_image_is_one_line(tmp_path: Path, make: Callable[[Path], object], wrong: str) -> None:
    make(tmp_path / "disk.img")
    with pytest.raises(HvError, match=wrong) as caught:
        Image(tmp_path / "disk.img", Said())
    assert "\n" not in str(caught.value)


def test_two_users_of_one_image(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024))
    image = Image(path, Said())
    with pytest.raises(HvError, match="in use"):
        Image(path, Said())
    image.close()
    Image(path, Said()).close()


def test_a_read_only_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(ONE)
    real = os.open

    def refuse(name: Path, flags: int) -> int:  # root may write to anything, so a chmod shows nothing
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return real(name, flags)

    monkeypatch.setattr(os, "open", refuse)
    said = Said()
    image = Image(path, said)
    assert image.read_only
    assert len(said) == 1
    assert image.read(0, 1) == ONE
    with pytest.raises(StoreError):
        image.write(0, TWO)
    image.close()


def test_after_a_failed_flush_every_flush_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux says once that it could not write, and forgets what."""
    path, said = tmp_path / "disk.img", list[str]()
    path.write_bytes(bytes(4096))
    image = Image(path, said.append)
    image.write(1, b"x" * SECTOR, durable=True)

    def fails(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails, raising=False)
        patch.setattr(os, "fsync", fails)
        with pytest.raises(StoreError):
            image.flush()
    for _ in range(2):
        with pytest.raises(StoreError, match="an earlier flush has failed"):
            image.flush()
    assert image.read(1, 1) == b"x" * SECTOR
    assert len(said) == 1
    assert "cannot be flushed: Input/output error; what the guest has written" in said[0]
    image.close()


def test_an_image_that_shrinks_is_a_short_read_and_one_line(tmp_path: Path) -> None:
    path, said = tmp_path / "disk.img", Said()
    path.write_bytes(ONE * 4)
    image = Image(path, said)
    os.truncate(path, 1024)
    for _ in range(3):
        with pytest.raises(StoreError) as caught:
            image.read(1, 2)
        assert caught.value.sector == 2
    assert len(said) == 1
    image.close()


# --- the protocol's handshake ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("nbd://example.org", Where("example.org", 10809, "", "")),
        ("nbd://example.org:99/a%20disk", Where("example.org", 99, "", "a disk")),
        ("nbd://[::1]:99/", Where("::1", 99, "", "")),
        ("nbd+unix:///disk?socket=/tmp/s", Where("", 0, "/tmp/s", "disk")),
        ("nbd+unix:///?socket=/tmp/s", Where("", 0, "/tmp/s", "")),
    ],
)
def test_urls(url: str, where: Where) -> None:
    assert parse_url(url) == where


@pytest.mark.parametrize(
    "url", ["", "example.org", "http://x", "nbds://x", "nbd://", "nbd+unix:///x", "nbd://x:y/", "nbd://x:99999/"]
)
def test_what_is_no_url_is_said_in_one_line(url: str) -> None:
    with pytest.raises(HvError) as caught:
        parse_url(url)
    assert "\n" not in str(caught.value)


class Old(NbdServer):
    """A server that knows neither GO nor structured replies."""

    def _option(self, option: int, body: bytes) -> None:
        self._reply(option, nbd.REP_UNSUPPORTED)


@pytest.mark.parametrize("kind", [NbdServer, Old])
def test_both_ways_to_choose_an_export(kind: type[NbdServer]) -> None:
    store = MemoryStore(64)
    client = Nbd("x", "disk", lambda: InProcess(kind({"other": MemoryStore(8), "disk": store})), Said())
    assert client.sectors == 64
    assert client.structured == (kind is NbdServer)
    client.write(5, ONE + TWO)
    client.write(7, ONE, durable=True)
    assert client.read(4, 5) == bytes(SECTOR) + ONE + TWO + ONE + bytes(SECTOR)
    client.flush()
    assert store.read(5, 2) == ONE + TWO


@pytest.mark.parametrize("kind", [NbdServer, Old])
def test_an_export_that_is_not_there(kind: type[NbdServer]) -> None:
    with pytest.raises(HvError) as caught:
        Nbd("x", "nothing", lambda: InProcess(kind({"disk": MemoryStore(8)})), Said())
    assert "\n" not in str(caught.value)


def options(server: NbdServer, *asked: tuple[int, bytes]) -> list[tuple[int, int, bytes]]:
    """The server's answers to options, as (option, type, body)."""
    server.feed(b"")
    sent = server.feed(
        struct.pack(">I", 3) + b"".join(nbd.OPTION.pack(nbd.I_HAVE_OPT, o, len(b)) + b for o, b in asked)
    )
    answers = []
    while sent:
        magic, option, kind, length = nbd.REPLY_TO_OPTION.unpack(sent[:20])
        assert magic == nbd.OPTION_REPLY
        answers.append((option, kind, sent[20 : 20 + length]))
        sent = sent[20 + length :]
    return answers


def test_the_server_lists_its_exports_and_refuses_what_it_does_not_know() -> None:
    server = NbdServer({"a": MemoryStore(8), "b": MemoryStore(8)})
    answers = options(
        server, (nbd.OPT_LIST, b""), (5, b""), (nbd.OPT_LIST, b"x"), (nbd.OPT_GO, b"xx"), (nbd.OPT_ABORT, b"")
    )
    assert [(option, kind) for option, kind, _ in answers] == [
        (3, nbd.REP_SERVER), (3, nbd.REP_SERVER), (3, nbd.REP_ACK), (5, nbd.REP_UNSUPPORTED), (3, nbd.REP_INVALID),
        (7, nbd.REP_INVALID), (2, nbd.REP_ACK),
    ]  # fmt: skip
    assert [body[4:] for _, kind, body in answers if kind == nbd.REP_SERVER] == [b"a", b"b"]
    assert server.closed


def request(server: NbdServer, command: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> bytes:
    return server.feed(nbd.REQUEST_HEADER.pack(nbd.REQUEST, flags, command, 7, offset, length) + data)


def test_the_servers_errors() -> None:
    store = MemoryStore(8)
    server = NbdServer({"": store})
    server.feed(struct.pack(">I", 3) + nbd.OPTION.pack(nbd.I_HAVE_OPT, nbd.OPT_EXPORT_NAME, 0))
    for command, offset, length in (
        (0, 1, 512),
        (0, 0, 100),
        (0, 7 * 512, 1024),
        (0, 1 << 63, 512),
        (99, 0, 0),
        (5, 0, 0),
    ):
        assert request(server, command, offset, length) == nbd.SIMPLE_HEADER.pack(nbd.SIMPLE_REPLY, nbd.EINVAL, 7)
    store.read_only = True
    assert request(server, nbd.WRITE, 0, 512, ONE) == nbd.SIMPLE_HEADER.pack(nbd.SIMPLE_REPLY, nbd.EPERM, 7)
    store.read_only = False
    assert request(server, nbd.WRITE, 0, 512, ONE) == nbd.SIMPLE_HEADER.pack(nbd.SIMPLE_REPLY, 0, 7)
    assert request(server, nbd.TRIM, 0, 512) == nbd.SIMPLE_HEADER.pack(nbd.SIMPLE_REPLY, 0, 7)
    assert store.read(0, 1) == ONE
    assert request(server, nbd.WRITE_ZEROES, 0, 4096) == nbd.SIMPLE_HEADER.pack(nbd.SIMPLE_REPLY, 0, 7)
    assert store.read(0, 8) == bytes(4096)
    request(server, nbd.WRITE, 0, 0xFFFF_FE00)
    assert server.closed


# --- servers that fail ----------------------------------------------------------------------------------------------


class Crashing(NbdServer):
    """Loses what is not flushed when it dies, as a server with a cache does."""

    def __init__(self, durable: MemoryStore) -> None:
        self.durable, self.cache = durable, MemoryStore(durable.sectors)
        self.cache.set_state(durable.state())
        super().__init__({"": self})  # type: ignore[dict-item]
        self.sectors, self.read_only = durable.sectors, False

    def read(self, sector: int, count: int) -> bytes:
        return self.cache.read(sector, count)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        self.cache.write(sector, data)
        if durable:
            self.durable.write(sector, data)

    def flush(self) -> None:
        self.durable.set_state(self.cache.state())


class Cut:
    """A connection to a server that dies after so many more bytes of replies."""

    def __init__(self, server: NbdServer, after: int) -> None:
        self.inside, self.left = InProcess(server), after

    def send(self, data: bytes) -> None:
        if self.left <= 0:
            raise BrokenPipeError(32, "Broken pipe")
        self.inside.send(data)

    def receive(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise NbdError("the server has hung up")
        return self.inside.receive(size)

    def close(self) -> None:
        pass


T = TypeVar("T")


def insist(what: Callable[[], T]) -> T:
    """Until it is done, as a guest's driver would."""
    while True:
        with contextlib.suppress(StoreError):
            return what()


@settings(max_examples=100)
@given(st.lists(st.integers(130, 12000), max_size=5), st.lists(st.integers(0, 7), min_size=1, max_size=12))
def test_nothing_that_was_acknowledged_is_lost_when_servers_die(deaths: list[int], writes: list[int]) -> None:
    durable, said = MemoryStore(8), Said()
    plan = iter(deaths)
    client = Nbd("x", "", lambda: Cut(Crashing(durable), next(plan, 1 << 30)), said)
    model = bytearray(8 * SECTOR)
    for i, sector in enumerate(writes):
        data = bytes([i + 1]) * SECTOR
        insist(lambda sector=sector, data=data: client.write(sector, data))  # type: ignore[misc]
        model[sector * SECTOR : (sector + 1) * SECTOR] = data
        assert insist(lambda: client.read(0, 8)) == bytes(model)
    insist(client.flush)
    assert durable.read(0, 8) == bytes(model)
    assert len(said) <= len(deaths)


def test_a_server_that_is_gone_is_an_error_and_one_line_until_it_is_back() -> None:
    said, there = Said(), [True]
    store = MemoryStore(8)

    def connect() -> InProcess:
        if not there[0]:
            raise ConnectionRefusedError(111, "Connection refused")
        return InProcess(NbdServer({"": store}))

    client = Nbd("x", "", connect, said)
    there[0] = False
    client._drop()
    for _ in range(4):
        with pytest.raises(StoreError):
            client.read(0, 1)
    assert said == ["remote disk x: Connection refused; trying again"]
    there[0] = True
    assert client.read(0, 1) == bytes(SECTOR)


def test_a_server_that_refuses_is_not_asked_again() -> None:
    class Refusing(MemoryStore):
        asked = 0

        def read(self, sector: int, count: int) -> bytes:
            Refusing.asked += 1
            raise StoreError("bad", sector)

    for kind in (NbdServer, Old):
        Refusing.asked = 0
        said = Said()
        client = Nbd("x", "", lambda kind=kind: InProcess(kind({"": Refusing(8)})), said)  # type: ignore[misc]
        with pytest.raises(StoreError, match="EIO"):
            client.read(2, 1)
        assert Refusing.asked == len(said) == 1


def test_an_export_of_another_size_is_not_taken_for_the_same_disk() -> None:
    stores = iter([MemoryStore(8), MemoryStore(16), MemoryStore(16), MemoryStore(16)])
    client = Nbd("x", "", lambda: InProcess(NbdServer({"": next(stores)})), Said())
    client._drop()
    with pytest.raises(StoreError):
        client.read(0, 1)
    assert client.sectors == 8


# --- over real sockets ----------------------------------------------------------------------------------------------


def test_the_client_over_a_socket(tmp_path: Path) -> None:
    store = MemoryStore(64)
    with serving(tmp_path / "socket", {"disk": store}):
        client = open_nbd(f"nbd+unix:///disk?socket={tmp_path / 'socket'}", Said())
        client.write(3, ONE * 40)
        client.flush()
        assert client.read(0, 64) == store.read(0, 64)
        client.close()


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_module, "REPLY_TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(HvError, match="does not answer"):
            open_nbd(f"nbd+unix:///?socket={tmp_path / 's'}", Said())


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(HvError, match="No such file"):
        open_nbd(f"nbd+unix:///?socket={tmp_path / 'none'}", Said())
