"""The process that runs a student's code: `python -P -m labs.grader.child FOLDER-OF-THE-LAB FILE VERDICTS`.

It writes one line of JSON a step. A timer breaks Python code that does not come back, so that its line can be named.
What the student prints goes to stdout.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from labs.catalogue import find_lab
from labs.grader.step import Finding, Lab, TooSlow, Verdict
from labs.grader.student import load, places

LIMIT = 3.0  # seconds for a step; a good one takes a twentieth
AGAIN = 0.2  # an exception in the wrong moment is lost, so the timer comes back
MOST_PRINTED = 1 << 20  # bytes


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in code that takes longer."""

    def ring(_: int, __: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def verdicts(lab: Lab, path: Path) -> Iterator[Verdict]:
    """Check step after step. The first one that does not come back is the last."""
    try:
        with time_limit(LIMIT):
            mode = load(path, lab)
    except (Finding, TooSlow) as error:
        yield msgspec.structs.replace(_failed(error, path), loaded=False)
        return
    for step in lab.steps:
        try:
            with time_limit(LIMIT):
                step.check(mode)
            yield Verdict(True)
        except Finding as finding:
            yield _failed(finding, path)
        except TooSlow as slow:
            yield _failed(slow, path)
            return


def _failed(error: Finding | TooSlow, path: Path) -> Verdict:
    if isinstance(error, Finding):
        return Verdict(False, error.expected, error.happened, error.exits)
    where = "\n".join(places(error, path)[-1:])
    return Verdict(False, "an answer at once", f"a loop that does not end\n{where}".strip())


def main(number: str, file: str, out: str) -> None:
    """Check, and write the verdicts."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_PRINTED, MOST_PRINTED))
    with Path(out).open("ab", buffering=0) as sink:
        found = verdicts(find_lab(int(number)).lab, Path(file))
        sink.writelines(msgspec.json.encode(verdict) + b"\n" for verdict in found)


if __name__ == "__main__":
    main(*sys.argv[1:])
