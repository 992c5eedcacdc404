"""The two disks of `hv run`: a disk image and an NBD export that the user names, or small default images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hv.errors import HvError
from hv.host.image import Image, default_image
from hv.host.nbd import embedded, open_nbd
from hv.host.store import MemoryStore, Store

Say = Callable[[str], None]


def local_disk(path: Path | None, say: Say) -> Store:
    """The disk in the machine."""
    return _default("local", say) if path is None else Image(path, say)


def remote_disk(url: str | None, say: Say, idle: Callable[[], None]) -> Store:
    """The disk behind a network: an NBD server's, or a default image behind the embedded server."""
    return embedded(_default("remote", say), say) if url is None else open_nbd(url, say, idle)


def _default(name: str, say: Say) -> Store:
    """The default image. Where it cannot be had, because another guest has it for one, a disk in memory."""
    try:
        return Image(default_image(name, say), say)
    except HvError as error:
        say(f"{error}; the guest's {name} disk is in memory and will be gone")
        return MemoryStore(name=name)
