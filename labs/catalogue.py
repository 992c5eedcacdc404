"""Which labs there are: each folder NN_name beside this file, with a module `name` that holds the lab as `LAB`."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import msgspec

from hv.errors import HvError
from labs.grader.step import Lab

HERE = Path(__file__).parent


class Entry(msgspec.Struct, frozen=True):
    number: int
    folder: Path
    lab: Lab


def all_labs() -> list[Entry]:
    """In their order."""
    entries = []
    for folder in sorted(HERE.glob("[0-9][0-9]_*")):
        number, _, name = folder.name.partition("_")
        module = importlib.import_module(f"labs.{folder.name}.{name}")
        entries.append(Entry(int(number), folder, module.LAB))
    return entries


def find_lab(number: int) -> Entry:
    """The lab with this number."""
    entries = all_labs()
    for entry in entries:
        if entry.number == number:
            return entry
    known = ", ".join(str(entry.number) for entry in entries)
    raise HvError(f"there is no lab {number}; there are: {known}")


def lab_in(folder: Path) -> Entry | None:
    """The lab whose file lies here. Its folder's name decides between labs with files of the same name."""
    here = [entry for entry in all_labs() if (folder / entry.lab.file).is_file()]
    digits = re.search(r"\d+$", folder.resolve().name)
    named = [entry for entry in here if digits is not None and entry.number == int(digits[0])]
    return next(iter(named or here), None)
