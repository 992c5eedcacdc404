"""Down the table exits never rise where the technique improves (DESIGN, section 6); the overview says how they fall.

A pair of rows counts for an operation when no column that it goes through is worse in the lower one: its own, the
CPU's, and the interrupts'. What rises elsewhere is in docs/overview.md, with the reason.
"""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path

import pytest

from hv.measure import OpResult, RowResult
from hv.mode import find_modes
from hv.ops import OPS
from hv.table import ROWS, Row, missing_mode
from tests.ec2_table.measuring import measure_table

PAGE = (Path(__file__).parents[2] / "docs" / "overview.md").read_text(encoding="utf-8")
FALLING = [
    id
    for id, op in OPS.items()
    if op.column in ("net", "local", "remote")
    or id
    in ("cpu.page_fault", "cpu.ptemod", "cpu.mmap_unmap", "cpu.fork_exit", "interrupts.device_irq", "interrupts.ipi")
]
RANK = {"VS": 0, "P": 1, "VH": 2, "H": 3}
BUILT = [row for row in ROWS.values() if missing_mode(row, find_modes()) is None]
# In a burst several events may wait for one another; how many exits that saves is a matter of timing.
SLACK = {"net.tx_burst": 0.1, "local.read_qd32": 0.1, "remote.read_qd32": 0.1}


@functools.cache
def measured(row: str) -> RowResult:
    return measure_table(row, ",".join(FALLING), iterations=4).rows[0]


def exits(row: str, op: str) -> float | None:
    result = measured(row).ops.get(op)
    return result.exits_per_op if isinstance(result, OpResult) else None


def improves(upper: Row, lower: Row, column: str) -> bool:
    return all(RANK[upper.cells[c]] <= RANK[lower.cells[c]] for c in {"cpu", "interrupts", column})


@pytest.mark.parametrize("op", FALLING)
def test_exits_never_rise_where_the_technique_improves(op: str) -> None:
    for upper, lower in itertools.combinations(BUILT, 2):
        before, after = exits(upper.id, op), exits(lower.id, op)
        if before is not None and after is not None and improves(upper, lower, OPS[op].column):
            assert after <= before + SLACK.get(op, 0), (upper.id, lower.id)


def test_the_overview_goes_down_all_rows() -> None:
    assert re.findall(r"(?m)^## `(.+)`$", PAGE) == list(ROWS)


def test_the_overview_s_numbers_are_those_of_a_run() -> None:
    """Lines | `operation` | exits of each row |, under a heading with the rows' names."""
    heading, *lines = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")
    ]
    assert heading == ["operation", *ROWS]
    for op, *said in lines:
        for row, number in zip(ROWS, said, strict=True):
            assert not number or float(number) == exits(row, op), (row, op)
