"""The comparison suite as somebody outside uses it: on our modes, on one in a package of its own, on broken ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, TIMEOUT, hv_environment
from tests.unit.test_modes import plug_in

THIRD_PARTY = ROOT / "tests" / "third_party_mode"
TESTS = 10  # in the suite


def suite(folder: Path, name: str, *more: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`pytest --hv-mode NAME` in a folder, with the packages in `path` installed."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "--hv-mode", name, "-p", "no:cacheprovider", *more], cwd=folder,
        env=hv_environment(PYTHONPATH="" if path is None else str(path)), capture_output=True, encoding="utf-8",
        timeout=TIMEOUT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["bare-metal", "hw-assist", "paravirt"])
def test_our_own_modes_pass(name: str, tmp_path: Path) -> None:
    done = suite(tmp_path, name)
    assert done.returncode == 0, done.stdout
    assert f"{TESTS} passed" in done.stdout


def test_it_runs_alone_also_in_a_project_with_tests_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_mine.py").write_text("def test_mine():\n    assert False\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nfilterwarnings = error\n")
    done = suite(tmp_path, "hw-assist", "-k", "contract or mine")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    both = suite(tmp_path, "hw-assist", "-k", "contract or mine", "tests")
    assert "1 failed, 1 passed" in both.stdout


def test_a_mode_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    done = suite(tmp_path, "nobody")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no mode is called 'nobody'; installed are avic, bare-metal, commodity" in done.stderr


@pytest.fixture(scope="module")
def curious(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The third party's package, built and installed by pip without a network."""
    target = tmp_path_factory.mktemp("curious")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(target), str(THIRD_PARTY)], capture_output=True,
        encoding="utf-8", timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def test_a_third_party_s_mode_is_installed_and_passes(curious: Path, tmp_path: Path) -> None:
    done = suite(tmp_path, "curious", path=curious)
    assert done.returncode == 0, done.stdout
    assert f"{TESTS} passed" in done.stdout


COUNT = """
from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.mode import find_modes
from hv.vm import Vm
for name in ("hw-assist", "curious"):
    vm = Vm(find_modes()[name], load_guest(default_guest()), load())
    vm.run()
    print(vm.ledger.totals()["msr"])
"""


def test_the_third_party_s_mode_does_what_it_says(curious: Path, tmp_path: Path) -> None:
    """It sees MSR accesses that ours lets pass."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", COUNT], cwd=tmp_path, env=hv_environment(PYTHONPATH=str(curious)),
        capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, theirs = map(int, done.stdout.split())
    assert theirs > ours > 0


# Each breaks one promise: (what it does instead, the test that must fail).
HEAD = """
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import Shutdown
from hv.silicon.x86_64.state import RDX
from modes.hw_assist.mode import HwAssist
calls = 0
class MODE(HwAssist):
    id = "mine"
    summary = "broken"
"""
BROKEN = {
    "wrong results": (
        """
    def handle(self, vcpu, exit):
        reason = super().handle(vcpu, exit)
        if reason == "cpuid":
            vcpu.cpu.regs[RDX] ^= 1 << 15
        return reason
""",
        "test_results_are_equal_to_bare_metal_s",
    ),
    "memory of its own beside its state": (
        """
    def handle(self, vcpu, exit):
        global calls
        calls += 1
        vcpu.cpu.charge(calls)
        return super().handle(vcpu, exit)
""",
        "test_two_runs_give_the_same_bytes",
    ),
    "an undeclared reason": ("    reasons = HwAssist.reasons - {'npf'}\n", "test_only_declared_reasons_are_counted"),
    "no end": (
        """
    def handle(self, vcpu, exit):
        if exit.code == svm.SHUTDOWN:
            return "npf"
        return super().handle(vcpu, exit)
""",
        "test_a_hostile_guest_has_a_clear_end",
    ),
    "an exception": (
        """
    def handle(self, vcpu, exit):
        if exit.code == svm.SHUTDOWN:
            raise ValueError("what now?")
        return super().handle(vcpu, exit)
""",
        "test_a_hostile_guest_has_a_clear_end",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_mode_fails_the_test_that_is_meant_for_it(name: str, tmp_path: Path) -> None:
    body, test = BROKEN[name]
    plug_in(tmp_path, "mine = mine:MODE", mine=HEAD + body)
    done = suite(tmp_path, "mine", "-k", test, path=tmp_path)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert test in done.stdout
    assert "error" not in done.stdout.splitlines()[-1]


def test_hv_itself_does_not_need_pytest() -> None:
    script = "import sys; sys.modules['pytest'] = None; from hv.cli import main; main(['modes'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=hv_environment(), capture_output=True, encoding="utf-8",
        timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
