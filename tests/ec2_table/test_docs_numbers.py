"""README.md, ARCHITECTURE.md and docs/ have the numbers that runs give."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import pytest

from hv.measure import OpResult
from hv.ops import OPS
from hv.table import ROWS
from tests.conftest import RunHv
from tests.ec2_table.measuring import CPU_OPERATIONS, measure, measure_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "binary-translation.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURE = (ROOT / "docs" / "table.svg").read_text(encoding="utf-8")
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


def vague(session: str) -> list[str]:
    """A session's lines without the numbers that each change of the guest's code moves a little."""
    return re.sub(r"(?<=cycles=)\d+|\d+(?= frames)|[\d.]+(?= cycles)", "N", session).splitlines()


def test_the_session_in_the_readme_is_what_a_user_gets(run_hv: RunHv) -> None:
    shown = re.search(r"```\n\$ hv (.+)\n([^`]+)```", README)
    assert shown is not None
    assert vague(run_hv(*shlex.split(shown[1])).stdout) == [*vague(shown[2]), "hv> "]


def test_the_picture_of_the_table_has_the_numbers_of_a_run() -> None:
    """docs/table.svg is what hv table prints, as rich draws it."""
    lines: dict[str, str] = {}
    for y, text in re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>([^<]*)', PICTURE):
        lines[y] = f"{lines.get(y, '')} {html.unescape(text)}"
    drawn = {line.split()[0]: re.findall(r"\b(VS|VH|P|H)\s(\d+)", line) for line in lines.values() if line.split()}
    headlines = [op for op in OPS.values() if op.headline]
    for name, machine in ROWS.items():
        assert [letter for letter, _ in drawn[name]] == [machine.cells[op.column] for op in headlines]
    table = measure_table("emulated,xen-pv,aws-2017,nitro", ",".join(op.id for op in headlines), iterations=4)
    for row in table.rows:
        for op, (_, count) in zip(headlines, drawn[row.id], strict=True):
            result = row.ops[op.id]
            assert isinstance(result, OpResult)
            assert int(count) == pytest.approx(result.exits_per_op, rel=0.03 if op.once else 0), (row.id, op.id)
