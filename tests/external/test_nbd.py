"""NBD with programs of other makers: our client with nbdkit and qemu-nbd, their clients with our embedded server.

Run by `make test-external`, which installs what is needed.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hv.errors import HvError
from hv.host.nbd import open_nbd
from hv.host.store import SECTOR, MemoryStore, StoreError
from tests.conftest import RunHv
from tests.nbd_serving import serving

pytestmark = pytest.mark.external
MIB = 1 << 20
SECTORS = 16 * MIB // SECTOR
BLOCK = 4096


@contextlib.contextmanager
def running(*command: str, ready: Path | int) -> Iterator[subprocess.Popen[bytes]]:
    """A server, until the context ends; `ready` is its Unix socket, or its TCP port."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        for _ in range(200):
            assert process.poll() is None, f"{command[0]} has ended"
            with socket.socket(socket.AF_UNIX if isinstance(ready, Path) else socket.AF_INET) as probe:
                if probe.connect_ex(str(ready) if isinstance(ready, Path) else ("localhost", ready)) == 0:
                    break
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def tool(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def silent(text: str) -> None:
    raise AssertionError(f"the user is told: {text}")


def exercise(url: str) -> None:
    """Random reads and writes against an array of bytes."""
    chance, model = random.Random(1), bytearray(SECTORS * SECTOR)
    disk = open_nbd(url, silent)
    assert disk.sectors == SECTORS
    for _ in range(100):
        sector, count = chance.randrange(SECTORS - 300), chance.randrange(1, 300)
        part = slice(sector * SECTOR, (sector + count) * SECTOR)
        if chance.random() < 0.6:
            model[part] = chance.randbytes(count * SECTOR)
            disk.write(sector, bytes(model[part]), durable=chance.random() < 0.3)
        else:
            assert disk.read(sector, count) == model[part]
        if chance.random() < 0.2:
            disk.flush()
    assert disk.read(0, SECTORS) == bytes(model)
    disk.close()


# --- our client -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--no-sr",), ("--mask-handshake=2",), ("--mask-handshake=0",)])
def test_the_client_with_nbdkit(tmp_path: Path, options: tuple[str, ...]) -> None:
    """With structured replies, without, and with servers that do not know options."""
    path = tmp_path / "socket"
    with running("nbdkit", "-f", "-U", str(path), *options, "memory", "16M", ready=path):
        exercise(f"nbd+unix:///?socket={path}")


def test_the_client_with_qemu_nbd_over_tcp(tmp_path: Path) -> None:
    image, port = tmp_path / "disk.img", free_port()
    image.write_bytes(bytes(16 * MIB))
    with running("qemu-nbd", "-f", "raw", "-t", "-x", "a disk", "-p", str(port), str(image), ready=port):
        exercise(f"nbd://localhost:{port}/a%20disk")
        with pytest.raises(HvError, match="there is no export 'another'"):
            open_nbd(f"nbd://localhost:{port}/another", silent)
    data = image.read_bytes()
    with running("qemu-nbd", "-f", "raw", "-t", "-r", "-p", str(port), str(image), ready=port):
        disk = open_nbd(f"nbd://localhost:{port}/", silent)
        assert disk.read_only
        assert disk.read(0, SECTORS) == data
        disk.close()


def test_a_server_that_is_killed_and_started_again_loses_nothing(tmp_path: Path) -> None:
    image, path = tmp_path / "disk.img", tmp_path / "socket"
    image.write_bytes(bytes(16 * MIB))
    command = ("nbdkit", "-f", "-U", str(path), "file", str(image))
    said: list[str] = []
    with running(*command, ready=path) as server:
        disk = open_nbd(f"nbd+unix:///?socket={path}", said.append)
        disk.write(5, b"a" * SECTOR)
        server.kill()
        server.wait()
    path.unlink()
    with pytest.raises(StoreError):
        disk.read(5, 1)
    with running(*command, ready=path):
        disk.write(6, b"b" * SECTOR)
        disk.flush()
        disk.close()
    assert len(said) == 1
    assert image.read_bytes()[5 * SECTOR : 7 * SECTOR] == b"a" * SECTOR + b"b" * SECTOR


# --- the guest's remote disk ----------------------------------------------------------------------------------------


def test_a_block_that_the_guest_wrote_is_read_back_through_nbdkit(run_hv: RunHv, tmp_path: Path) -> None:
    path, copy = tmp_path / "socket", tmp_path / "copy.img"
    with running("nbdkit", "-f", "-U", str(path), "memory", "16M", ready=path):
        url = f"nbd+unix:///?socket={path}"
        done = run_hv("run", "emulated", "-nbd", url, stdin="write remote 5 from the guest\nflush remote\n")
        assert "flush: done" in done.stdout
        assert done.stderr == ""
        tool("nbdcopy", url, str(copy))
        assert copy.read_bytes()[5 * BLOCK :].startswith(b"from the guest\n")
        done = run_hv("run", "emulated", "-nbd", url, "-c", "cat remote 5")
        assert "from the guest." in done.stdout


def test_an_error_of_the_server_is_one_of_the_guest_s_disk(run_hv: RunHv, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    fails = ("error=EIO", "error-pread-rate=1")
    with running("nbdkit", "-f", "-U", str(path), "--filter=error", "memory", "16M", *fails, ready=path):
        done = run_hv("run", "emulated", "-nbd", f"nbd+unix:///?socket={path}", "-c", "cat remote 5")
    assert "cat: input/output error" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "the server refuses a request for sector 40: EIO" in done.stderr


# --- our server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[MemoryStore, str]]:
    """A store behind the embedded server, and its URL."""
    store = MemoryStore(SECTORS, "remote")
    with serving(tmp_path / "server", {"disk": store}):
        yield store, f"nbd+unix:///disk?socket={tmp_path / 'server'}"


def test_nbdinfo_says_what_the_server_has(served: tuple[MemoryStore, str]) -> None:
    info = json.loads(tool("nbdinfo", "--json", served[1]))
    assert info["protocol"] == "newstyle-fixed"
    (export,) = info["exports"]
    assert export["export-size"] == SECTORS * SECTOR
    assert (export["can_flush"], export["can_fua"], export["can_trim"], export["can_zero"]) == (True, True, True, True)
    assert export["block_size_minimum"] == SECTOR
    listed = json.loads(tool("nbdinfo", "--list", "--json", served[1].replace("/disk?", "/?")))
    assert [export["export-name"] for export in listed["exports"]] == ["disk"]


def test_nbdcopy_both_ways(served: tuple[MemoryStore, str], tmp_path: Path) -> None:
    store, url = served
    copy = tmp_path / "copy.img"
    tool("nbdcopy", url, str(copy))
    assert copy.read_bytes() == store.read(0, SECTORS)
    data = random.Random(2).randbytes(4 * MIB) + bytes(8 * MIB) + random.Random(3).randbytes(4 * MIB)
    copy.write_bytes(data)
    tool("nbdcopy", "--flush", str(copy), url)
    assert store.read(0, SECTORS) == data


def test_qemu_reads_writes_and_flushes(served: tuple[MemoryStore, str], tmp_path: Path) -> None:
    store, url = served
    tool("qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "write -z 2M 64k", "-c", "flush", url)
    tool("qemu-io", "-f", "raw", "-c", "write -f -P 0x5b 3M 512", "-c", "discard 4M 64k", url)
    assert store.read(MIB // SECTOR, 128) == b"\x5a" * 65536
    assert store.read(2 * MIB // SECTOR, 128) == bytes(65536)
    assert store.read(3 * MIB // SECTOR, 1) == b"\x5b" * SECTOR
    tool("qemu-img", "convert", "-f", "raw", "-O", "raw", url, str(tmp_path / "copy.img"))
    assert (tmp_path / "copy.img").read_bytes() == store.read(0, SECTORS)
