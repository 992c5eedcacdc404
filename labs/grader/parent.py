"""Runs the check in a process of its own, and ends that process when it takes too long."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from labs.grader.step import Verdict

LIMIT = 8  # seconds; the child's own timer rings long before


class Outcome(msgspec.Struct):
    """What the child found out, one verdict a step as far as it came, and what the student's code printed."""

    verdicts: list[Verdict]
    printed: str


def check(number: int, steps: int, file: Path) -> Outcome:
    """Check a student's file in another process, without the folder that it lies in on its path."""
    with tempfile.TemporaryDirectory() as folder:
        out, printed = Path(folder) / "verdicts", Path(folder) / "printed"
        command = [sys.executable, "-P", "-m", "labs.grader.child", str(number), str(file), str(out)]
        why = "the process that runs it stopped"
        with printed.open("wb") as sink:
            try:
                subprocess.run(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False)
            except subprocess.TimeoutExpired:
                why = f"no answer within {LIMIT} seconds: is there a loop that does not end?"
        lines = out.read_bytes().splitlines() if out.exists() else []
        verdicts = [msgspec.json.decode(line, type=Verdict) for line in lines]
        if len(verdicts) < steps and (not verdicts or verdicts[-1].passed):
            verdicts.append(Verdict(False, "an answer", why))
        return Outcome(verdicts, printed.read_text(encoding="utf-8", errors="replace"))
