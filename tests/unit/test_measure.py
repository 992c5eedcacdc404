"""Measuring: what a run of an operation is made of, and what becomes of a guest that does not do its part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import hv.measure
from hv.costs import CostModel
from hv.errors import HvError
from hv.loader import Guest
from hv.measure import Measured, RowRunner, Settings, run_table
from hv.mode import Mode
from hv.ops import OPS, Op, select
from hv.silicon.timing import MILLI
from hv.table import ROWS, find_row


@pytest.fixture
def settings(guest: Guest, costs: CostModel) -> Settings:
    return Settings(guest, costs, iterations=4)


@pytest.fixture
def nitro(settings: Settings, modes: Mapping[str, type[Mode]]) -> Iterator[RowRunner]:
    runner = RowRunner(find_row("nitro"), modes, settings)
    yield runner
    runner.close()


def run(runner: RowRunner, op: str) -> Measured:
    measured = runner.run(OPS[op])
    assert isinstance(measured, Measured)
    return measured


def test_an_operation_can_be_run_again_with_the_same_numbers(nitro: RowRunner) -> None:
    first, end = run(nitro, "cpu.in"), nitro.vm.now
    run(nitro, "cpu.fork_exit")
    assert run(nitro, "cpu.in") == first
    assert nitro.vm.now == end  # it started at the same moment, from the same state
    assert len(nitro.vm.machine.probe.windows) == 3  # the boot, and two rounds


def test_the_detail_of_a_window_adds_up_to_its_result(nitro: RowRunner, costs: CostModel) -> None:
    measured = run(nitro, "cpu.in")
    tally = measured.tallies["ioio"]
    assert tally.count == measured.result.exits["ioio"] == 4
    assert tally.low <= tally.time / tally.count <= tally.high
    assert measured.time >= tally.time
    each = costs.switch + costs.work_of("ioio")
    assert (tally.low, tally.high) == (each, each)  # the switch there and back, and the handler's own work
    assert measured.time == measured.result.cycles_per_op * 4 * MILLI


def test_an_operation_that_the_kernel_does_not_know_is_one_line(nitro: RowRunner) -> None:
    with pytest.raises(HvError, match=r"row nitro: cpu\.levitate gave no result: 'bench: unknown operation") as error:
        nitro.run(Op("cpu.levitate", "not built"))
    assert error.value.status == 1
    assert "\n" not in str(error.value)
    assert run(nitro, "cpu.in").result.exits == {"ioio": 4}  # and the row goes on


def test_an_operation_that_takes_for_ever_is_one_line(nitro: RowRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hv.measure, "LIMIT", 1000 * MILLI)
    with pytest.raises(HvError, match=r"row nitro: cpu\.fork_exit did not finish in 1000 virtual cycles"):
        run(nitro, "cpu.fork_exit")


def test_a_guest_that_stops_is_one_line(nitro: RowRunner) -> None:
    with pytest.raises(
        HvError, match=r"row nitro: the guest stopped in cpu\.in\npoweroff|the guest stopped in"
    ) as error:
        nitro.run(Op("cpu.in\npoweroff\n", "a line too many"))
    assert error.value.status == 1


def test_a_row_whose_mode_is_missing_is_refused(settings: Settings) -> None:
    with pytest.raises(HvError, match="row nitro is not built yet: it needs mode hw-assist") as error:
        RowRunner(find_row("nitro"), {}, settings)
    assert error.value.status == 1


def test_progress_is_told_before_each_step(settings: Settings, modes: Mapping[str, type[Mode]]) -> None:
    told: list[tuple[str, str | None]] = []
    run_table(
        [ROWS["metal"]], select("cpu.in,cpu.callret"), modes, settings, lambda row, what: told.append((row, what))
    )
    assert told == [("metal", "boot"), ("metal", "cpu.in"), ("metal", "cpu.callret"), ("metal", None)]


def test_a_failed_row_gives_its_memory_back(
    settings: Settings, modes: Mapping[str, type[Mode]], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[RowRunner] = []
    close = RowRunner.close

    def watched(runner: RowRunner) -> None:
        closed.append(runner)
        close(runner)

    def fail(*_: Any) -> None:
        raise HvError("no", 1)

    monkeypatch.setattr(RowRunner, "close", watched)
    monkeypatch.setattr(RowRunner, "run", fail)
    with pytest.raises(HvError):
        run_table([ROWS["metal"]], select("cpu.in"), modes, settings)
    assert len(closed) == 1
