"""Documents: what a command writes to a file or to stdout, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

from hv.errors import HvError


def check_target(target: str) -> None:
    """Refuse early what cannot be written, as far as one can know. Raises HvError."""
    path = Path(target).resolve()
    folder = path.parent
    if target != "-" and (path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
        code = errno.EISDIR if path.is_dir() else errno.EACCES if folder.is_dir() else errno.ENOENT
        raise HvError(f"cannot write {target}: {os.strerror(code)}", 1)


def write_document(target: str, text: str) -> None:
    """Write to a file, or to stdout for `-`. A file appears, or changes, only when it is complete. Raises HvError."""
    if target == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        return
    try:
        path = Path(target).resolve()
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # a device or a pipe, which cannot be replaced
        else:
            _replace(path, text)
    except OSError as error:
        raise HvError(f"cannot write {target}: {error.strerror}", 1) from None


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
