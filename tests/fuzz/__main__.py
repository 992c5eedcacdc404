"""Runs fuzzers for a time that they share evenly: python -m tests.fuzz [NAME...] --seconds N --seed S [--cases N]

Prints each fuzzer's first seed, how many cases it had and what they reached. A failing case is printed with the command
that runs it alone; the others go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

NAMES = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name[0] != "_")


class Fuzzer:
    """One module, and what has come of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        module = importlib.import_module(f"tests.fuzz.{name}")
        self.case: Callable[[int], Iterable[str]] = module.case
        self.reached: Counter[str] = Counter()
        self.cases = self.failures = 0
        self.seconds = 0.0

    def run(self, seed: int) -> None:
        """One case."""
        self.cases += 1
        start = time.monotonic()
        try:
            self.reached.update(self.case(seed))
        except Exception:  # noqa: BLE001 - a fuzzer's case may fail in any way
            self.failures += 1
            print(f"\n{self.name}: seed {seed} FAILED; again: python -m tests.fuzz {self.name} --seed {seed} --cases 1")
            traceback.print_exc(file=sys.stdout)
        self.seconds += time.monotonic() - start

    def __str__(self) -> str:
        reached = ", ".join(f"{name} {count}" for name, count in sorted(self.reached.items()))
        return f"{self.name}: {self.cases} cases, {self.failures} failed; reached {reached or 'nothing'}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random cases, made from seeds.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *NAMES], help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next has the next number")
    parser.add_argument("--cases", type=int, help="so many of each fuzzer, instead of a time")
    options = parser.parse_args()
    fuzzers = [Fuzzer(name) for name in options.names or NAMES]
    print(f"seed {options.seed}: {', '.join(fuzzer.name for fuzzer in fuzzers)}", flush=True)
    end = time.monotonic() + options.seconds
    while time.monotonic() < end or options.cases is not None:
        waiting = [fuzzer for fuzzer in fuzzers if fuzzer.cases != options.cases]
        if not waiting:
            break
        fuzzer = min(waiting, key=lambda fuzzer: fuzzer.seconds)
        fuzzer.run(options.seed + fuzzer.cases)
    for fuzzer in fuzzers:
        print(fuzzer)
    return int(any(fuzzer.failures for fuzzer in fuzzers))


sys.exit(main())
