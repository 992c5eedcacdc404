"""`hv doctor`: can hv run here, and how well?"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import msgspec

from hv.costs import load
from hv.errors import HvError
from hv.loader import default_guest, load_guest
from hv.mode import find_modes
from hv.silicon.x86_64.layout import SiliconError
from hv.silicon.x86_64.microcode import library_path
from hv.silicon.x86_64.selftest import self_test

OPTIONAL = {"gdb": "debugging", "tcpdump": "reading captures", "nbdkit": "serving remote disks"}


class Finding(msgspec.Struct, frozen=True):
    """`state` is "ok", "missing" (hv does without it) or "bad" (hv does not work)."""

    what: str
    state: str
    detail: str


def examine() -> Iterator[Finding]:
    """Look at everything that hv needs, then at what it can use."""
    yield Finding("Python", "ok" if sys.version_info >= (3, 11) else "bad", platform.python_version())
    for package in ("unicorn", "capstone", "pyelftools", "msgspec", "rich", "cyclopts", "textual"):
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(package, "bad", "not installed")
    yield _silicon("native path", portable=False)
    yield _silicon("portable path", portable=True)
    yield _guest()
    yield _modes()
    size = shutil.get_terminal_size()
    detail = f"{size.columns}x{size.lines}" if sys.stdout.isatty() else "output is not a terminal"
    yield Finding("terminal", "ok" if sys.stdout.isatty() else "missing", detail)
    for tool, purpose in OPTIONAL.items():
        path = shutil.which(tool)
        yield Finding(tool, "ok" if path else "missing", path or f"optional: {purpose}")


def _silicon(what: str, *, portable: bool) -> Finding:
    if not portable and library_path() is None:
        return Finding(what, "missing", "the microcode was not built for this platform; --portable works")
    try:
        self_test(load("skylake-sp").timing, portable=portable)
    except SiliconError as error:
        return Finding(what, "bad", str(error))
    return Finding(what, "ok", "self-test passed: exits, exceptions, interrupts, code writes")


def _guest() -> Finding:
    try:
        guest = load_guest(default_guest())
    except HvError as error:
        return Finding("guest kernel", "bad", str(error))
    return Finding("guest kernel", "ok", f"sha256 {guest.sha256[:16]}")


def _modes() -> Finding:
    try:
        return Finding("modes", "ok", ", ".join(find_modes()))
    except HvError as error:
        return Finding("modes", "bad", str(error))
