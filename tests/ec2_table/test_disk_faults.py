"""What goes wrong outside, at the disks of every technique: the guest gets an I/O error, the user one line.

Emulated IDE, Xen's split driver beside its own kernel and beside a PC, a virtual function of an NVMe drive, the whole
drive, and ATA over Ethernet. Each guest goes on afterwards, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hv.host import nbd as nbd_client
from hv.host.image import Image
from hv.host.nbd import Nbd
from hv.host.store import MemoryStore, StoreError
from tests.ec2_table.shell import Shell, shell
from tests.ec2_table.test_disks import BLOCK
from tests.nbd_serving import FickleServer

ROWS = ("emulated", "xen-pv", "xen-hvm-4", "nitro", "aws-metal", "metal")
EACH = pytest.mark.parametrize("row", ROWS)
FAILED = "input/output error\n"


class Refusing(MemoryStore):
    """Nothing can be read from block 100 on."""

    def read(self, sector: int, count: int) -> bytes:
        if sector + count > 800:
            raise StoreError("bad", sector)
        return super().read(sector, count)


class Server(FickleServer):
    """With a cache, which a kill loses."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(nbd_client, "PAUSES", (0.0, 0.0))
        self.disk, self.cache = Refusing(8192), Refusing(8192)
        super().__init__(self.cache)
        self.said: list[str] = []
        self.cache.flush = self._flush  # type: ignore[method-assign]

    def _flush(self) -> None:
        self.disk.pages = dict(self.cache.pages)

    def kill(self) -> None:
        self.there, self.cache.pages = False, dict(self.disk.pages)

    def client(self) -> Nbd:
        return Nbd("x", "", self.connect, self.said.append)


def goes_on(guest: Shell, disk: str = "remote") -> None:
    assert guest.type(f"cat {disk} 12").startswith("0000  00")


@EACH
def test_a_server_that_dies_and_comes_back_has_all_that_it_acknowledged(
    row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times: it dies with a write in its cache, is away for a while, and is there again."""
    server = Server(monkeypatch)
    with shell(row, remote=server.client()) as guest:
        for number in (1, 2, 3):
            guest.type(f"write remote {number} kept {number}")
            server.kill()
            assert guest.type(f"cat remote {50 + number}") == f"cat: {FAILED}"
            assert guest.type("flush remote") == f"flush: {FAILED}"
            assert len(server.said) == number
            assert "\n" not in server.said[-1]
            server.there = True
            assert guest.type("flush remote") == "flush: done\n"
            assert server.disk.read(8 * number, 1).startswith(f"kept {number}\n".encode())
        goes_on(guest)


@EACH
def test_errors_and_replies_that_end_too_early_are_errors_of_the_disk(
    row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(monkeypatch)
    with shell(row, remote=server.client()) as guest:
        for block in (100, 101):
            assert guest.type(f"cat remote {block}") == f"cat: {FAILED}"
        assert server.said == ["remote disk x: the server refuses a request for sector 800: EIO"]
        goes_on(guest)
        server.short = True
        assert guest.type("cat remote 7") == f"cat: {FAILED}"
        assert len(server.said) == 2
        server.short = False
        assert guest.type("cat remote 7").startswith("0000  00")


@EACH
def test_an_image_that_shrinks_under_the_guest(row: str, tmp_path: Path) -> None:
    path, said = tmp_path / "disk.img", list[str]()
    path.write_bytes(bytes(64 * BLOCK))
    with shell(row, Image(path, said.append)) as guest:
        goes_on(guest, "local")
        os.truncate(path, 32 * BLOCK)
        assert guest.type("cat local 40") == f"cat: {FAILED}"
        assert guest.type("cat local 41") == f"cat: {FAILED}"
        assert said == [f"disk image {path} has become shorter: the guest's reads fail"]
        guest.type("write local 20 still here")
        assert guest.type("flush local") == "flush: done\n"
    assert path.read_bytes()[20 * BLOCK :].startswith(b"still here\n")


@EACH
def test_an_image_that_may_not_be_written(row: str, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(64 * BLOCK))
    image = Image(path, print)
    image.read_only = True  # as where the file's rights forbid it; root may write all the same
    with shell(row, image) as guest:
        guest.type("write local 20 x")
        assert guest.type("flush local") == f"flush: {FAILED}"
        goes_on(guest, "local")
    assert path.read_bytes() == bytes(64 * BLOCK)


@EACH
def test_an_image_too_small_for_a_measurement(row: str, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1000))
    with shell(row, Image(path, print)) as guest:
        assert guest.type("bench local.read4k 1") == "bench local.read4k na: the disk is too small\n"
        assert guest.type("cat local 0") == "cat: no such block\n"
