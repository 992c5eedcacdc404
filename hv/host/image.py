"""Disk images: a raw file as a block store, and the small default ones that `hv run` makes on first use.

A file that is not whole sectors reads as if zeros followed, as under QEMU. A write is in the file when it returns, so
it survives this process; a flush is fdatasync, so it survives the host. After a flush that has failed every flush
fails, as in QEMU: the kernel may have dropped what it could not write, and would say so only once. One writer at a time
(flock).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from hv.errors import HvError
from hv.host.store import DEFAULT_SECTORS, PAGE, PATTERN_SECTORS, SECTOR, StoreError, pattern


class Image:
    """A raw image. `say(text)` tells the user of trouble, once for each kind."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Raises HvError where there is no disk to be had."""
        self.path, self.say = path, say
        self.said: set[str] = set()
        self.read_only = self.unsure = False
        try:
            self.file = self._open()
        except OSError as error:
            raise HvError(f"disk image {path}: {error.strerror}", 1) from None
        try:
            self.size = self._size()
            self.sectors = -(-self.size // SECTOR)
            if not self.sectors:
                raise HvError(f"disk image {path} is empty; a disk has at least one sector of {SECTOR} bytes", 1)
            self._lock()
        except BaseException:
            os.close(self.file)
            raise

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        self.read_only = True
        self._tell("is read-only: the guest's writes fail")
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def _size(self) -> int:
        """In bytes, of a file or a block device."""
        if not (stat.S_ISREG(mode := os.fstat(self.file).st_mode) or stat.S_ISBLK(mode)):
            raise HvError(f"disk image {self.path} is neither a file nor a block device", 1)
        try:
            return os.lseek(self.file, 0, os.SEEK_END)
        except OSError as error:  # files in /proc are like that
            raise HvError(f"disk image {self.path} does not tell its size: {error.strerror}", 1) from None

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, (fcntl.LOCK_SH if self.read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            raise HvError(f"disk image {self.path} is in use by another process", 1) from None

    def _tell(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.say(f"disk image {self.path} {text}")

    # --- the store --------------------------------------------------------------------------------------------

    def read(self, sector: int, count: int) -> bytes:
        start, wanted = sector * SECTOR, count * SECTOR
        data = bytearray()
        try:
            while len(data) < wanted and (part := os.pread(self.file, wanted - len(data), start + len(data))):
                data += part
        except OSError as error:
            self._tell(f"cannot be read: {error.strerror}")
            raise StoreError(str(error), sector) from None
        if start + len(data) < min(start + wanted, self.size):
            self._tell("has become shorter: the guest's reads fail")
            raise StoreError("short read", sector + len(data) // SECTOR)
        return bytes(data.ljust(wanted, b"\0"))

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self.file, data[done:], sector * SECTOR + done)
        except OSError as error:
            self._tell(f"cannot be written: {error.strerror}")
            raise StoreError(str(error), sector + done // SECTOR) from None
        self.size = max(self.size, sector * SECTOR + len(data))
        if durable:
            self.flush()

    def flush(self) -> None:
        try:
            os.fsync(self.file) if not hasattr(os, "fdatasync") else os.fdatasync(self.file)
        except OSError as error:
            self.unsure = True
            self._tell(f"cannot be flushed: {error.strerror}; what the guest has written may be lost")
            raise StoreError(str(error)) from None
        if self.unsure:
            raise StoreError("an earlier flush has failed")

    def state(self) -> None:
        """The file lies outside: a snapshot does not take it back."""

    def set_state(self, state: None) -> None:
        pass

    def close(self) -> None:
        os.close(self.file)


def default_folder() -> Path:
    """Where the default images are: $XDG_DATA_HOME/hv, or ~/.local/share/hv (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "hv"


def default_image(name: str, say: Callable[[str], None]) -> Path:
    """The default image of this name; made if it is not there, in one step, so that no half of it is ever seen."""
    path = default_folder() / f"{name}.img"
    if path.exists():
        return path
    new = path.with_suffix(f".new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            for page in range(PATTERN_SECTORS // PAGE):
                file.write(pattern(name, page))
            file.truncate(DEFAULT_SECTORS * SECTOR)
        with contextlib.suppress(FileExistsError):  # somebody else was faster: theirs it is
            os.link(new, path)
    except OSError as error:
        raise HvError(f"cannot make the default disk {path}: {error.strerror}", 1) from None
    finally:
        with contextlib.suppress(OSError):
            new.unlink()
    say(f"made a disk of {DEFAULT_SECTORS * SECTOR >> 20} MiB for the guest: {path}")
    return path
