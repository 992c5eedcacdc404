"""`python -m tests.fuzz` runs every fuzzer that there is, and says so when one fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_every_module_is_a_fuzzer_and_runs() -> None:
    done = fuzz("--cases", "1", "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.stem for path in (ROOT / "tests" / "fuzz").glob("[a-z]*.py")}
    assert names >= {"instructions", "page_tables", "random_bytes"}
    for name in names:
        assert f"{name}: 1 cases, 0 failed; reached " in done.stdout


def test_a_failure_is_printed_with_the_seed_that_reproduces_it() -> None:
    program = "import sys; from tests.fuzz import page_tables as p; sys.argv[1:] = ['page_tables', '--cases', '1']\n"
    program += "p.case = lambda seed: 1 / 0\nimport runpy; runpy.run_module('tests.fuzz', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python -m tests.fuzz page_tables --seed 0 --cases 1" in done.stdout
    assert "ZeroDivisionError" in done.stdout
