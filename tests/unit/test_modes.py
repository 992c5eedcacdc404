"""Modes: the contract, discovery by entry points, and a mode of a third party."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from hv.costs import CostModel
from hv.exits import REASONS
from hv.loader import Guest
from hv.mode import Mode, find_modes
from hv.silicon.x86_64.cpu import Exit, Shutdown
from hv.silicon.x86_64.machine import Ended, Idle
from hv.table import COLUMNS, DEFAULT_MODES, LETTERS
from hv.vcpu import Vcpu
from hv.vm import Vm
from modes.bare_metal import BareMetal
from modes.hw_assist.mode import HwAssist
from tests.conftest import RunHv


def plug_in(folder: Path, points: str, **modules: str) -> str:
    """A package in a folder, as pip would have installed it; returns its path for PYTHONPATH."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    info = folder / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[hv.modes]\n{points}\n", encoding="utf-8")
    return str(folder)


GOOD = """
from modes.hw_assist.mode import HwAssist
class Mine(HwAssist):
    id = "mine"
    summary = "hardware assistance, by somebody else"
"""
BAD: dict[str, tuple[str, dict[str, str]]] = {
    "a module that is not there": ("mine = no_such_module:MODE", {}),
    "a name that is not there": ("mine = mine:MODE", {"mine": ""}),
    "an import that fails": ("mine = mine:MODE", {"mine": "raise RuntimeError('two\\nlines')"}),
    "a syntax error": ("mine = mine:MODE", {"mine": "def"}),
    "an exit at import": ("mine = mine:MODE", {"mine": "import sys; sys.exit('gone')"}),
    "no class": ("mine = mine:MODE", {"mine": "MODE = 7"}),
    "another class": ("mine = mine:MODE", {"mine": "class MODE: id = 'mine'"}),
    "an object of a mode": ("mine = mine:MODE", {"mine": GOOD + "MODE = object.__new__(Mine)"}),
    "another id": ("mine = mine:MODE", {"mine": GOOD + "    id = 'yours'\nMODE = Mine"}),
    "no id": ("mine = mine:MODE", {"mine": "from hv.mode import Mode\nclass MODE(Mode): pass"}),
    "no summary": ("mine = mine:MODE", {"mine": "from hv.mode import Mode\nclass MODE(Mode): id = 'mine'; cells = {}"}),
    "a column that is none": ("mine = mine:MODE", {"mine": GOOD + "    cells = {'disk': 'VH'}\nMODE = Mine"}),
    "a letter that is none": ("mine = mine:MODE", {"mine": GOOD + "    cells = {'cpu': 'X'}\nMODE = Mine"}),
    "an object without a module": ("mine = ", {}),
}


@pytest.mark.parametrize("case", BAD)
def test_a_plug_in_that_is_no_mode_is_one_line(case: str, tmp_path: Path, run_hv: RunHv) -> None:
    points, modules = BAD[case]
    path = plug_in(tmp_path, points, **modules)
    done = run_hv("modes", env={"PYTHONPATH": path})
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.startswith("hv: mode mine ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_doctor_survives_a_broken_plug_in_and_names_it(tmp_path: Path, run_hv: RunHv) -> None:
    done = run_hv("doctor", env={"PYTHONPATH": plug_in(tmp_path, "mine = no_such_module:MODE"), "COLUMNS": "200"})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "mode mine" in done.stdout
    assert "no_such_module" in done.stdout


@pytest.fixture
def with_mine(tmp_path: Path) -> dict[str, str]:
    return {"PYTHONPATH": plug_in(tmp_path, "mine = mine:Mine", mine=GOOD)}


def test_a_mode_of_a_third_party_is_listed_and_runs_by_its_id(with_mine: dict[str, str], run_hv: RunHv) -> None:
    assert "somebody else" in run_hv("modes", env={**with_mine, "COLUMNS": "120"}).stdout

    def table(*more: str) -> subprocess.CompletedProcess[str]:
        return run_hv(
            "table", "--rows", "nitro", "--ops", "cpu.in", "--iterations", "3", "--csv", "-", *more, env=with_mine
        )

    usual, mine = table(), table("--set", "cpu=mine")
    assert mine.returncode == 0, mine.stderr
    assert mine.stdout == usual.stdout.replace("nitro,", "nitro+cpu=mine,")


def test_an_impossible_combination_is_refused_for_a_third_party_s_mode_too(
    with_mine: dict[str, str], run_hv: RunHv
) -> None:
    done = run_hv("table", "--rows", "metal", "--set", "cpu=mine", env=with_mine)
    assert done.returncode == 2
    assert "impossible" in done.stderr


# --- the contract -----------------------------------------------------------------------------------------------


def test_the_installed_modes_keep_the_contract(modes: Mapping[str, type[Mode]]) -> None:
    assert {"bare-metal", "hw-assist"} <= set(modes)
    for id, mode in modes.items():
        assert mode.id == id
        assert mode.summary
        assert "\n" not in mode.summary
        assert set(mode.cells) <= set(COLUMNS)
        assert set(mode.cells.values()) <= set(LETTERS)
        assert mode.reasons <= set(REASONS)
        for column, letter in mode.cells.items():
            assert letter in DEFAULT_MODES[column]


def test_find_modes_gives_them_by_id() -> None:
    found = find_modes()
    assert found["bare-metal"] is BareMetal
    assert found["hw-assist"] is HwAssist
    assert list(found) == sorted(found)


class Deaf(BareMetal):
    """Metal, but for the name: a mode can be run without being installed."""

    id = "deaf"


class NoCpuid(HwAssist):
    """A hypervisor that gives up at the first CPUID."""

    id = "no-cpuid"

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        reason = super().handle(vcpu, exit)
        if reason == "cpuid":
            raise Shutdown("no CPUID here")
        return reason


class Liar(HwAssist):
    """A mode that names a reason which is not in the table."""

    id = "liar"

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        super().handle(vcpu, exit)
        return "no-such-reason"


def test_a_mode_that_is_not_installed_runs_in_a_vm(guest: Guest, costs: CostModel) -> None:
    vm = Vm(Deaf, guest, costs)
    assert isinstance(vm.run(), Idle)
    assert vm.console.take().endswith("hv> ")
    assert vm.ledger.totals() == {}
    vm.close()


def test_a_shutdown_in_a_handler_ends_the_machine_and_is_itself_counted(guest: Guest, costs: CostModel) -> None:
    vm = Vm(NoCpuid, guest, costs)
    outcome = vm.run()
    assert isinstance(outcome, Ended)
    assert (outcome.cause, outcome.report) == ("crash", "no CPUID here")
    assert vm.ledger.totals()["shutdown"] == 1
    assert not vm.ledger.open
    assert vm.run() == outcome  # and so it stays
    vm.close()


def test_a_reason_that_is_not_in_the_table_is_a_programming_error(guest: Guest, costs: CostModel) -> None:
    vm = Vm(Liar, guest, costs)
    with pytest.raises(KeyError, match="no-such-reason"):
        vm.run()
    vm.close()


def test_a_mode_without_a_handler_says_whose_exit_it_was(guest: Guest, costs: CostModel) -> None:
    vm = Vm(Deaf, guest, costs)
    with pytest.raises(NotImplementedError, match="deaf takes no exits"):
        vm.vcpus[0].vm.mode.handle(vm.vcpus[0], Exit(0x72, 0, 0))
    vm.close()


def test_a_mode_without_a_cpu_says_so(guest: Guest, costs: CostModel) -> None:
    class Half(Mode):
        id = "half"
        cells = {"net": "VS"}

    with pytest.raises(NotImplementedError, match="half provides no CPU"):
        Vm(Half, guest, costs)


def test_an_exit_that_nobody_asked_for_ends_the_guest_with_its_code(guest: Guest, costs: CostModel) -> None:
    vm = Vm(HwAssist, guest, costs)
    vm.vcpus[0].dispatch(Exit(0x123, 0, 0))
    outcome = vm.run()
    assert isinstance(outcome, Ended)
    assert "0x123" in outcome.report
    vm.close()
