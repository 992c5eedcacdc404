"""docs/binary-translation.md has the numbers that its runs give."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ec2_table.measuring import CPU_OPERATIONS, measure

PAGE = (Path(__file__).parents[2] / "docs" / "binary-translation.md").read_text(encoding="utf-8")
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
