"""Rows in worker processes: the same bytes, errors as one line, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from hv import workers
from hv.costs import CostModel
from hv.errors import HvError
from hv.loader import Guest
from hv.measure import Settings, run_table, table_of
from hv.mode import Mode
from hv.ops import OPS, select
from hv.table import ROWS, Row
from hv.workers import measure_rows, worthwhile
from tests.conftest import ROOT, TIMEOUT, hv_environment

LONG = ("table", "--rows", "nitro,metal", "--ops", "*", "--iterations", "10000")  # minutes


def silent(row: str, what: str | None) -> None:
    """Progress that nobody wants to hear of."""


@pytest.fixture
def settings(guest: Guest, costs: CostModel) -> Settings:
    return Settings(guest, costs, 2)


def test_the_document_does_not_depend_on_the_number_of_workers(
    modes: Mapping[str, type[Mode]], settings: Settings
) -> None:
    rows, ops = [ROWS[row] for row in ("nitro", "metal", "xen-pv")], select("cpu.cr8wr")
    alone = msgspec.json.encode(run_table(rows, ops, modes, settings))
    for number in (2, 3):
        assert msgspec.json.encode(table_of(measure_rows(rows, ops, settings, silent, number), settings)) == alone


def test_progress_names_what_each_row_runs_and_its_end(settings: Settings) -> None:
    heard: list[tuple[str, str | None]] = []
    measure_rows([ROWS["nitro"], ROWS["metal"]], select("cpu.in"), settings, lambda *what: heard.append(what), 2)
    for row in ("nitro", "metal"):
        assert [what for id, what in heard if id == row] == ["boot", "cpu.in", None]


def test_an_error_in_a_worker_is_the_one_line(settings: Settings) -> None:
    row = ROWS["nitro"]
    broken = msgspec.structs.replace(row, id="broken", modes={**row.modes, "cpu": "magic"})
    with pytest.raises(HvError, match="row broken is not built yet: it needs mode magic") as error:
        measure_rows([row, broken], select("cpu.in"), settings, silent, 2)
    assert error.value.status == 1


def test_an_exception_in_a_worker_is_one_line_too(settings: Settings) -> None:
    row = msgspec.structs.replace(ROWS["nitro"], modes={})
    with pytest.raises(HvError, match="row nitro: KeyError: 'cpu'"):
        measure_rows([row], select("cpu.in"), settings, silent, 1)


def test_a_worker_that_dies_is_an_error_and_takes_the_others_with_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Watched(workers.Worker):
        def give(self, number: int, row: Row) -> None:
            started.append(self.process)
            super().give(number, row)

    monkeypatch.setattr(workers, "Worker", Watched)
    with pytest.raises(HvError, match=r"row (nitro|metal): the process that measured it has died \(signal 9\)"):
        measure_rows([ROWS["nitro"], ROWS["metal"]], [*OPS.values()], settings, lambda *_: started[0].kill(), 2)
    assert all(process.poll() is not None for process in started)


def test_small_tables_need_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_cpus", lambda: 4)
    assert worthwhile(1, len(OPS)) == 1
    assert worthwhile(2, 2) == 1
    assert worthwhile(9, len(OPS)) == 4
    assert worthwhile(2, len(OPS)) == 2
    assert worthwhile(0, 5) == 1


# --- whoever ends the program, and how --------------------------------------------------------------------------


def members(group: int) -> int:
    """How many processes are in a process group."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in listed.splitlines()]
    return sum(int(line[0]) == group and not line[1].startswith("Z") for line in lines)


def wait_for(group: int, number: int) -> None:
    end = time.monotonic() + TIMEOUT
    while members(group) != number:
        assert time.monotonic() < end
        time.sleep(0.1)


@contextmanager
def long_table(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`hv table` with two workers, in the middle of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hv", *LONG, *arguments],
        cwd=ROOT, env=hv_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(process.pid, 3)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(workers._cpus() < 2, reason="one CPU has no workers")
def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    with long_table("--json", str(tmp_path / "table.json")) as process:
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: all of them get it
        out, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, out, err) == (130, "", "hv: interrupted\n")
        assert members(process.pid) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(workers._cpus() < 2, reason="one CPU has no workers")
def test_no_worker_outlives_a_program_that_was_killed() -> None:
    with long_table() as process:
        process.kill()
        process.wait()
        wait_for(process.pid, 0)
