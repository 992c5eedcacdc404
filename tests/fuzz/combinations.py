"""Any machine that `--set` can describe runs and gives metal's results, or is refused in one sentence.

A case is a row with one to three changes, each a letter or the id of an installed mode. What can be had boots, and runs
one operation of a changed column.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from contextlib import closing

from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.measure import Measured, NotThere, RowRunner, Settings
from hv.mode import find_modes
from hv.ops import OPS
from hv.table import COLUMNS, LETTERS, ROWS, Impossible, Row, customize
from modes.full_emulation.naive import TrapAndEmulateNaive

MOST_CHANGES = 3
# One operation a column; of the cpu's the one that has most to do with page tables.
PROBES = {
    "cpu": "cpu.fork_exit", "net": "net.rr", "local": "local.write4k", "remote": "remote.read4k",
    "interrupts": "interrupts.ipi", "boot": "boot.boot",
}  # fmt: skip


installed = functools.cache(find_modes)


@functools.cache
def settings() -> Settings:
    return Settings(load_guest(default_guest()), load(), iterations=2)


def cells(column: str) -> list[str]:
    """What `--set` takes for a column: its letters, and the modes that provide it, but for the one that is to fail."""
    modes = [id for id, mode in installed().items() if column in mode.cells and mode is not TrapAndEmulateNaive]
    return [letter for letter in LETTERS if column != "boot" or letter != "VH"] + modes


def run(row: Row, column: str) -> str:
    """The result of the column's operation, or why the guest has none there."""
    with closing(RowRunner(row, installed(), settings())) as runner:
        assert set(runner.modes) == set(COLUMNS), f"{row.id} has {', '.join(runner.modes)} only"
        outcome = runner.run(OPS[PROBES[column]])
    if isinstance(outcome, NotThere):
        return outcome.na
    assert isinstance(outcome, Measured)
    return outcome.result.result


@functools.cache
def on_metal(column: str) -> str:
    return run(ROWS["metal"], column)


def refusal(base: Row, changes: list[str]) -> Row | str:
    """The machine, or the sentence with which it is refused."""
    try:
        return customize(base, changes, installed())
    except Impossible as refused:
        text = str(refused)
        prefix = f"{base.id} with {' '.join(changes)} is impossible: "
        assert text.startswith(prefix)
        assert "\n" not in text
        assert len(text) > len(prefix) + 20
        return text


def case(seed: int) -> Iterable[str]:
    r = random.Random(seed)
    columns = r.sample(COLUMNS, r.randint(1, MOST_CHANGES))
    machine = refusal(r.choice(list(ROWS.values())), [f"{column}={r.choice(cells(column))}" for column in columns])
    if isinstance(machine, str):
        return ["refused"]
    column = r.choice(columns)
    assert run(machine, column) == on_metal(column), f"{machine.id}: {PROBES[column]} gives another result"
    return [f"ran, {column} by {machine.modes[column]}"]
