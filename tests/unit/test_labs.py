"""The labs: the reference passes, each wrong solution is caught for the right reason, mistakes are explained."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from labs.catalogue import all_labs, find_lab
from labs.grader import child, parent, report
from labs.grader.step import Verdict
from tests.conftest import ROOT, TIMEOUT, hv_environment

HV = Path(sys.executable).with_name("hv")  # as a user runs it: not with the current folder on its path
INSTRUCTOR = ROOT / "instructor" / "01_first_exit"
FIRST = find_lab(1)
REFERENCE = (INSTRUCTOR / "solution" / FIRST.lab.file).read_text(encoding="utf-8")
STARTER = (FIRST.folder / "starter" / FIRST.lab.file).read_text(encoding="utf-8")
WRONG: list[dict[str, Any]] = tomllib.loads((INSTRUCTOR / "wrong.toml").read_text(encoding="utf-8"))["wrong"]


def hv(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a folder."""
    return subprocess.run(
        [str(HV), *arguments], cwd=folder, env=hv_environment(), capture_output=True, encoding="utf-8",
        timeout=TIMEOUT, check=False,
    )  # fmt: skip


def work(folder: Path, text: str) -> Path:
    """A student's file."""
    path = folder / FIRST.lab.file
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    """The reference with one change."""
    assert REFERENCE.count(old) == 1, old
    return REFERENCE.replace(old, new)


def checked(folder: Path, text: str) -> tuple[list[Verdict], str]:
    """Check in this process: the verdicts and the report."""
    verdicts = list(child.verdicts(FIRST.lab, work(folder, text)))
    return verdicts, report.text(1, FIRST.lab, parent.Outcome(verdicts, ""), 1000)


# --- the solutions ----------------------------------------------------------------------------------------------


def test_the_reference_gets_all_points(tmp_path: Path) -> None:
    work(tmp_path, REFERENCE)
    done = hv(tmp_path, "lab", "check")
    assert done.returncode == 0, done.stdout
    assert "100 of 100 points" in done.stdout
    assert "hint" not in done.stdout
    assert done.stderr == ""


def test_there_are_ten_wrong_solutions_and_each_step_catches_some() -> None:
    assert len(WRONG) >= 10
    assert {wrong["step"] for wrong in WRONG} == set(range(1, len(FIRST.lab.steps) + 1))


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong["name"] for wrong in WRONG])
def test_a_wrong_solution_is_caught_for_the_right_reason(wrong: dict[str, Any], tmp_path: Path) -> None:
    verdicts, text = checked(tmp_path, changed(wrong["old"], wrong["new"]))
    first = next(number for number, verdict in enumerate(verdicts, 1) if not verdict.passed)
    assert first == wrong["step"], text
    happened = verdicts[first - 1].expected + "\n" + verdicts[first - 1].happened
    assert wrong["says"] in happened
    assert verdicts[first - 1].exits
    assert f"Next, step {first}: " in text
    assert " ".join(FIRST.lab.steps[first - 1].hint.split()) in text


def test_the_solution_grows_out_of_the_starter_a_step_at_a_time(tmp_path: Path) -> None:
    """What the starter imports is what the solution needs, and its first check already explains something."""
    verdicts, text = checked(tmp_path, STARTER)
    assert [verdict.passed for verdict in verdicts] == [False] * len(FIRST.lab.steps)
    assert "the same instruction exits again and again" in text
    one = STARTER.replace(
        '            return "hlt"\n',
        '            cpu.skip(1)\n            cpu.halted = True\n            return "hlt"\n',
    )
    verdicts, text = checked(tmp_path, one)
    assert [verdict.passed for verdict in verdicts] == [True] + [False] * (len(FIRST.lab.steps) - 1)
    assert "20 of 100 points" in text
    assert "exit 0x72" in text


# --- mistakes ---------------------------------------------------------------------------------------------------

HLT = "            cpu.skip(1)\n"
MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "a syntax error": (
        changed("if exit.code == svm.HLT:", "if exit.code = svm.HLT:"),
        ("Next: my_mode.py must load", "line 23: if exit.code =", "SyntaxError"),
    ),
    "an import that is not there": ("import no_such_thing\n", ("line 1", "no_such_thing")),
    "bytes that are no text": ("x\0y", ("SyntaxError: source code string cannot contain null bytes",)),
    "an empty file": ("", ("there is no MyMode in my_mode.py",)),
    "no mode": ("class MyMode: pass\n", ("MyMode is not a class that inherits from hv.mode.Mode",)),
    "a class without start()": (
        "from hv.mode import Mode\nclass MyMode(Mode):\n  id = summary = 'm'\n  cells = {'cpu': 'VH'}\n",
        ("MyMode does not define start()",),
    ),
    "a program that leaves": ("raise SystemExit(0)\n", ("SystemExit: 0", "line 1")),
    "an exception in the handler": (
        changed(HLT, "            cpu.skp(1)\n"),
        ("line 24, in handle: cpu.skp(1)", "AttributeError"),
    ),
    "an exit in the handler": (
        changed(HLT, "            raise SystemExit(3)\n"),
        ("line 24, in handle", "SystemExit: 3"),
    ),
    "an exception in a method of its own": (
        changed("ecx |= HYPERVISOR_BIT", "ecx |= HYPERVISOR"),
        ("in handle: self.cpuid(cpu)", "in cpuid: ecx", "NameError"),
    ),
    "a handler without an end": (
        changed(HLT, "            while True: pass\n"),
        ("a loop that does not end", "line 24, in handle"),
    ),
    "a handler that holds on": (
        changed(HLT, "            while True:\n                try: 1 / 0\n                except Exception: pass\n"),
        ("a loop that does not end", "in handle"),
    ),
    "a module without an end": ("while True: pass\n", ("a loop that does not end", "line 1, in <module>")),
    "no reason": (changed('            return "hlt"\n', "            return\n"), ("it returned nothing",)),
    "a number as reason": (changed('return "hlt"', "return 7"), ("it returned 7 (int)",)),
    "a reason that does not exist": (
        changed('return "hlt"', 'return "halt"'),
        ("it returned 'halt'", "external_interrupt"),
    ),
    "a reason that is not declared": (
        changed('{"hlt", ', "{"),
        ("it returned 'hlt', which is not in `reasons`",),
    ),
    "a declared reason that does not exist": (
        changed('{"hlt", ', '{"halt", '),
        ("declares reasons that do not exist: halt",),
    ),
    "reasons in a list": (changed('frozenset({"hlt", "cpuid", "ioio", "msr"})', '["hlt"]'), ("not a frozenset",)),
    "a handler with too few arguments": (
        changed("def handle(self, vcpu: Vcpu, exit: Exit)", "def handle(self, vcpu: Vcpu)"),
        ("TypeError",),
    ),
    "a recursion without an end": (
        changed(HLT, "            return self.handle(vcpu, exit)\n"),
        ("RecursionError", "line 24"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained_in_a_few_words(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LIMIT", 0.5)
    monkeypatch.chdir(tmp_path)
    text, words = MISTAKES[name]
    verdicts, said = checked(tmp_path, text)
    first = next(verdict for verdict in verdicts if not verdict.passed)
    for word in words:
        assert word in said, said
    assert "Traceback" not in said
    assert f"{os.sep}labs{os.sep}" not in said
    assert len(first.happened.splitlines()) <= 5


def test_code_that_will_not_be_stopped_is_stopped_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "LIMIT", 3)
    file = work(
        tmp_path, "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\nwhile True: pass\n"
    )
    outcome = parent.check(1, 6, file)
    assert "no answer within 3 seconds" in report.text(1, FIRST.lab, outcome, 1000)


def test_code_that_prints_without_end_is_stopped_and_shown_in_part(tmp_path: Path) -> None:
    work(tmp_path, changed(HLT, "            while True: print('x' * 5000)\n"))
    done = hv(tmp_path, "lab", "check")
    assert done.returncode == 1
    assert "File too large" in done.stdout
    assert len(done.stdout) < 10_000


def test_code_that_ends_its_process_is_reported(tmp_path: Path) -> None:
    work(tmp_path, "import os\nprint('so far', flush=True)\nos._exit(0)\n")
    done = hv(tmp_path, "lab", "check")
    assert done.returncode == 1
    assert "the process that runs it stopped" in done.stdout
    assert "your code printed:\n  so far" in done.stdout


def test_the_limits_leave_room_for_an_answer_in_ten_seconds() -> None:
    assert child.LIMIT < parent.LIMIT < 9


# --- the command ------------------------------------------------------------------------------------------------


def test_list_in_a_pipe_is_for_scripts(tmp_path: Path) -> None:
    done = hv(tmp_path, "lab", "list")
    assert done.stdout == "".join(f"{e.number}\t{e.lab.title}\t{e.lab.points}\n" for e in all_labs())
    assert "1\tfirst exit\t100\n" in done.stdout


def test_list_on_a_terminal_is_for_people(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([str(HV), "lab", "list"], stdout=theirs, cwd=tmp_path, env=hv_environment()) as running:
        os.close(theirs)
        assert running.wait(TIMEOUT) == 0
        said = os.read(ours, 4096).decode()
    os.close(ours)
    assert "first exit" in said
    assert "hv lab start 1" in said


def test_start_makes_the_folder_and_never_overwrites_it(tmp_path: Path) -> None:
    assert hv(tmp_path, "lab", "start", "1").returncode == 0
    made = {path.name for path in (tmp_path / "lab1").iterdir()}
    assert made == {"handout.md", "my_mode.py"}
    work(tmp_path / "lab1", "mine")
    again = hv(tmp_path, "lab", "start", "1")
    assert again.returncode == 2
    assert again.stderr.startswith("hv: lab1 is there already")
    assert (tmp_path / "lab1" / "my_mode.py").read_text() == "mine"
    beside = hv(tmp_path, "lab", "check")  # one folder above the work
    assert beside.returncode == 1
    assert "there is no MyMode" in beside.stdout or "NameError" in beside.stdout


def test_what_is_asked_for_wrongly_is_one_line(tmp_path: Path) -> None:
    for arguments, words in (
        (("start", "99"), "there is no lab 99; there are: 1"),
        (("check", "99"), "there is no lab 99"),
        (("check",), "no my_mode.py here"),
        (("check", "1"), "hv lab start 1"),
        (("start",), "lab start needs NUMBER"),
    ):
        done = hv(tmp_path, "lab", *arguments)
        assert done.returncode == 2, done
        assert done.stderr.startswith("hv: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_handout_can_be_read_and_names_every_step(tmp_path: Path) -> None:
    handout = hv(tmp_path, "lab", "read", "1").stdout
    assert handout == (FIRST.folder / "handout.md").read_text(encoding="utf-8")
    for number, step in enumerate(FIRST.lab.steps, 1):
        assert f"\n{number}. **" in handout
        assert f"({step.points}" in handout


def test_a_folder_with_our_names_in_it_breaks_nothing(tmp_path: Path) -> None:
    """Nothing is imported from the current folder, neither by hv nor by what the student's file imports."""
    for name in ("hv", "modes", "tui", "labs", "msgspec", "capstone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('from the current folder')\n")
    for name in ("resource.py", "signal.py", "kit.py"):
        (tmp_path / name).write_text("raise RuntimeError('from the current folder')\n")
    work(tmp_path, REFERENCE)
    done = hv(tmp_path, "lab", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert hv(tmp_path, "modes").returncode == 0
    assert hv(tmp_path, "lab", "start", "1").returncode == 0


def test_a_command_that_cannot_be_loaded_says_so_and_harms_nobody(tmp_path: Path) -> None:
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hv.commands]\nbad = no_such_module:app\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(HV), *arguments], env=hv_environment(PYTHONPATH=str(tmp_path)), capture_output=True, encoding="utf-8",
            timeout=TIMEOUT, check=False,
        )  # fmt: skip

    assert run("--help").returncode == 0
    assert "hw-assist" in run("modes").stdout
    bad = run("bad", "some", "words")
    assert bad.returncode == 1
    assert bad.stderr == "hv: command bad (no_such_module:app) cannot be loaded: No module named 'no_such_module'\n"
