"""Fixtures for all tests: the guest, the installed modes, the cost model, and the command `hv` as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import hypothesis
import pytest

from hv.costs import CostModel, load
from hv.host.image import default_image
from hv.loader import Guest, default_guest, load_guest
from hv.mode import Mode, find_modes

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 120  # seconds; only a hang takes so long

# The same examples in every run, and no clock: this machine may be busy.
hypothesis.settings.register_profile("hv", deadline=None, derandomize=True)
hypothesis.settings.load_profile("hv")

RunHv = Callable[..., "subprocess.CompletedProcess[str]"]


def hv_environment(**extra: str) -> dict[str, str]:
    """The environment of a plain 80-column terminal without colour wishes, with some variables added."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
    return {**kept, "TERM": "xterm-256color", **extra}


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Default disks of the tests' own, so that nobody's are touched and no test is the one that makes them."""
    folder = tmp_path_factory.mktemp("data")
    os.environ["XDG_DATA_HOME"] = str(folder)
    for name in ("local", "remote"):
        default_image(name, lambda text: None)
    return folder


@pytest.fixture(scope="session")
def guest() -> Guest:
    return load_guest(default_guest())


@pytest.fixture(scope="session")
def modes() -> Mapping[str, type[Mode]]:
    return find_modes()


@pytest.fixture(scope="session")
def costs() -> CostModel:
    return load()


@pytest.fixture(scope="session")
def run_hv() -> RunHv:
    """run_hv("table", "--json", "-", stdin="...", env={...}): the command in a process of its own."""

    def run(*arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hv", *arguments],
            input=stdin, env=hv_environment(**(env or {})), cwd=ROOT, capture_output=True, encoding="utf-8",
            timeout=TIMEOUT, check=False,
        )  # fmt: skip

    return run
