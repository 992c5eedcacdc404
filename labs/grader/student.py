"""Loads a student's file, and turns what goes wrong in it into a few plain words.

The file is loaded by its path, under a name that nothing else has: whatever else lies in the folder is never imported.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from hv.mode import Mode, what_is_wrong
from labs.grader.step import Finding, Lab

PRIVATE = "_hv_lab_student"
DEEPEST = 3  # lines of the student's own that an explanation shows


def load(path: Path, lab: Lab) -> type[Mode]:
    """The class that the student wrote. Raises Finding when there is none that can be used."""
    wanted = f"{lab.file} defines the class {lab.name}, a mode"
    spec = importlib.util.spec_from_file_location(PRIVATE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PRIVATE] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the student's code may do anything
        raise Finding(wanted, explain(error, path)) from None
    found = getattr(module, lab.name, None)
    if found is None:
        raise Finding(wanted, f"there is no {lab.name} in {lab.file}")
    wrong = what_is_wrong(found, getattr(found, "id", ""))
    if wrong is not None:
        raise Finding(wanted, f"{lab.name} {wrong}")
    mode: type[Mode] = found  # what_is_wrong has looked
    if mode.start is Mode.start:
        raise Finding(wanted, f"{lab.name} does not define start()")
    return mode


def explain(error: BaseException, path: Path) -> str:
    """What went wrong, and where in the student's own file; no line of anybody else's."""
    name = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = f": {error.text.strip()}" if error.text else ""
        return f"{path.name}, line {error.lineno}{line}\n{name}: {error.msg}"
    return "\n".join([*places(error, path), f"{name}: {error}".rstrip(": ")])


def places(error: BaseException, path: Path) -> list[str]:
    """The student's lines that the error came through, the innermost last."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return [f"{path.name}, line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[-DEEPEST:]]
