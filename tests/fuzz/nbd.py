"""Nonsense on an NBD connection: mutilated conversations to the embedded server, and from a server to the client.

The server raises nothing, stays within its exports and hangs up or goes on. The client gives data, StoreError or
HvError, stops after a bounded time, and never waits for ever.
`python -m tests.fuzz.nbd SEED TRIES` prints what was reached.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterable

from hv.errors import HvError
from hv.host import nbd as client_module
from hv.host import nbd_protocol as nbd
from hv.host.nbd import InProcess, Nbd, NbdError
from hv.host.nbd_server import MOST_OPTION, NbdServer
from hv.host.store import SECTOR, MemoryStore, StoreError
from tests.fuzz._coverage import Coverage

OPTIONS = (nbd.OPT_EXPORT_NAME, nbd.OPT_ABORT, nbd.OPT_LIST, nbd.OPT_INFO, nbd.OPT_GO, nbd.OPT_STRUCTURED, 5, 9, 10)
COMMANDS = (nbd.READ, nbd.WRITE, nbd.DISCONNECT, nbd.FLUSH, nbd.TRIM, nbd.WRITE_ZEROES, 5, 7, 99)
CLIENT = ("data", "write done", "flushed", "store error", "no connection")
EXPECTED = [
    *(f"option {option}" for option in OPTIONS),
    *(f"command {command}" for command in COMMANDS),
    *(f"client: {what}" for what in CLIENT),
    *("server: hung up", "server: goes on", "server: error", "server: done"),
]
SECTORS = 64


class Fenced(MemoryStore):
    """Notices when somebody reaches for what it has not."""

    def read(self, sector: int, count: int) -> bytes:
        assert 0 <= sector < sector + count <= self.sectors, "outside the export"
        return super().read(sector, count)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        assert 0 <= sector < sector + len(data) // SECTOR <= self.sectors, "outside the export"
        assert len(data) % SECTOR == 0
        super().write(sector, data)


def mutilate(data: bytes, chance: random.Random) -> bytes:
    """Bits flipped, bytes dropped, doubled or invented; often nothing."""
    kind = chance.random()
    if kind < 0.6 or not data:
        return data
    at, size = chance.randrange(len(data)), chance.randrange(1, 9)
    if kind < 0.8:
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    if kind < 0.87:
        return data[:at] + data[at + size :]
    if kind < 0.94:
        return data[:at] + data[at : at + size] + data[at:]
    return data[:at] + chance.randbytes(size) + data[at:]


# --- the server -----------------------------------------------------------------------------------------------------


def _option(chance: random.Random, coverage: Coverage) -> bytes:
    option = chance.choice(OPTIONS)
    coverage.hit(f"option {option}")
    name = chance.choice((b"", b"disk", b"nothing"))
    body = {
        nbd.OPT_EXPORT_NAME: name,
        nbd.OPT_GO: struct.pack(">I", len(name)) + name + bytes(2),
        nbd.OPT_INFO: struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, chance.randrange(9)),
    }.get(option, chance.choice((b"", b"", chance.randbytes(chance.randrange(20)))))
    length = len(body) if chance.random() < 0.95 else chance.choice((0, MOST_OPTION, MOST_OPTION + 1, 0xFFFF_FFFF))
    return nbd.OPTION.pack(nbd.I_HAVE_OPT, option, length) + body


def _command(chance: random.Random, coverage: Coverage) -> bytes:
    command = chance.choice(COMMANDS)
    coverage.hit(f"command {command}")
    offset = chance.choice((0, 512 * chance.randrange(SECTORS + 2), chance.getrandbits(64)))
    length = chance.choice((0, 512, 4096, SECTORS * SECTOR, chance.getrandbits(16), chance.getrandbits(32)))
    data = bytes(length) if command == nbd.WRITE and length <= 1 << 16 else b""
    return nbd.REQUEST_HEADER.pack(nbd.REQUEST, chance.randrange(4), command, 7, offset, length) + data


def attack_server(chance: random.Random, coverage: Coverage) -> None:
    """One connection: a greeting, some options, some commands, any of it mutilated, in pieces of any size."""
    server = NbdServer({"disk": Fenced(SECTORS)})
    parts = [struct.pack(">I", chance.choice((3, 3, 3, 1, 0, chance.getrandbits(32))))]
    parts += [_option(chance, coverage) for _ in range(chance.randrange(4))]
    parts.append(nbd.OPTION.pack(nbd.I_HAVE_OPT, nbd.OPT_EXPORT_NAME, 0))
    parts += [_command(chance, coverage) for _ in range(chance.randrange(6))]
    stream = b"".join(mutilate(part, chance) if chance.random() < 0.2 else part for part in parts)
    answer = server.feed(b"")
    while stream:
        size = chance.choice((1, 7, 4096, len(stream)))
        answer += server.feed(stream[:size])
        stream = stream[size:]
    coverage.hit("server: hung up" if server.closed else "server: goes on")
    assert answer.startswith(b"NBDMAGICIHAVEOPT")
    replies = answer.split(struct.pack(">I", nbd.SIMPLE_REPLY))[1:]
    for reply in replies:
        coverage.hit("server: error" if int.from_bytes(reply[:4], "big") else "server: done")


# --- the client -----------------------------------------------------------------------------------------------------


class Mutilated(InProcess):
    """A server whose answers arrive mutilated, and which is silent when they do not suffice."""

    def __init__(self, server: NbdServer, chance: random.Random) -> None:
        self.chance = chance
        super().__init__(server)
        self.waiting = bytearray(mutilate(bytes(self.waiting), chance) if chance.random() < 0.1 else self.waiting)

    def send(self, data: bytes) -> None:
        answer = self.server.feed(data)
        self.waiting += mutilate(answer, self.chance) if self.chance.random() < 0.3 else answer

    def receive(self, size: int) -> bytes:
        assert size <= 1 << 21, "the client believes any length"
        if len(self.waiting) < size:
            raise NbdError("silence")
        return super().receive(size)


def attack_client(chance: random.Random, coverage: Coverage) -> None:
    """One disk whose server talks nonsense now and then."""
    store = Fenced(SECTORS)
    said: list[str] = []
    try:
        disk = Nbd("x", "disk", lambda: Mutilated(NbdServer({"disk": store}), chance), said.append)
    except HvError as error:
        if "\n" in str(error):
            raise AssertionError("more than a line") from None
        coverage.hit("client: no connection")
        return
    for _ in range(6):
        # A lie about the size is believed; a drive would not go beyond what the disk says that it has.
        sector, count = chance.randrange(SECTORS), chance.randrange(1, 9)
        try:
            what = chance.randrange(3)
            if what == 0:
                assert len(disk.read(sector, count)) == count * SECTOR
            elif what == 1:
                disk.write(sector, bytes(count * SECTOR), durable=chance.random() < 0.3)
            else:
                disk.flush()
            coverage.hit(f"client: {('data', 'write done', 'flushed')[what]}")
        except StoreError:
            coverage.hit("client: store error")
    assert all("\n" not in line for line in said)


def run(seed: int, tries: int) -> Coverage:
    """So many connections of either kind."""
    chance, coverage = random.Random(seed), Coverage(EXPECTED)
    pauses, client_module.PAUSES = client_module.PAUSES, (0.0, 0.0, 0.0)
    try:
        for _ in range(tries):
            (attack_server if chance.random() < 0.5 else attack_client)(chance, coverage)
    finally:
        client_module.PAUSES = pauses
    return coverage


def case(seed: int) -> Iterable[str]:
    """50 connections, for `make fuzz`."""
    return run(seed, 50).reached


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])).report())
