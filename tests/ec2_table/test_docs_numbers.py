"""docs/binary-translation.md and ARCHITECTURE.md have the numbers that runs give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hv.measure import OpResult
from tests.ec2_table.measuring import CPU_OPERATIONS, measure, measure_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "binary-translation.md").read_text(encoding="utf-8")
WALK = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
LINES = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `cpu.")]
COMPARED = {
    line[0].strip("`").removeprefix("cpu."): [float(cell) for cell in line[1:]] for line in LINES if len(line) == 6
}


def test_every_operation_is_there() -> None:
    assert tuple(COMPARED) == CPU_OPERATIONS


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_the_numbers_are_those_of_the_runs(op: str) -> None:
    """Exits as they are; cycles within a few per cent, so that the page need not follow every change of the guest."""
    translated, trapped, metal = (
        measure(row, op, iterations=100) for row in ("emulated", "emulated+cpu=trap-and-emulate", "metal")
    )
    exits, cycles, trap_exits, trap_cycles, metal_cycles = COMPARED[op]
    assert (exits, trap_exits) == (translated.exits_per_op, trapped.exits_per_op)
    for said, result in ((cycles, translated), (trap_cycles, trapped), (metal_cycles, metal)):
        assert said == pytest.approx(result.cycles_per_op, rel=0.05, abs=1)


@pytest.mark.parametrize("row", ["nitro", "emulated"])
def test_the_exits_of_a_boot_are_as_many_as_is_said(row: str) -> None:
    """Rounded: each driver that is added to the guest makes it a few more."""
    (said,) = re.findall(rf"about ([\d,]+) on `{row}`", WALK)
    result = measure_table(row, "boot.boot").rows[0].ops["boot.boot"]
    assert isinstance(result, OpResult)
    assert int(said.replace(",", "")) == pytest.approx(result.exits_per_op, rel=0.03)
