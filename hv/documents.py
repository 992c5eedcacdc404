"""Documents: what a command writes to a file or to stdout, whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from hv.errors import HvError


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
