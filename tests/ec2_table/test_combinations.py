"""Machines that are no row of the table: each change of a row gives one that runs, or is refused in one sentence.

Here all single changes are judged, and machines run in which every device meets every kind of interrupts under shadow
page tables and under nested ones. `make fuzz ARGS=combinations` runs any.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from hv.measure import Measured, RowRunner
from hv.ops import OPS
from hv.table import COLUMNS, ROWS, Row
from tests.ec2_table.measuring import row_named
from tests.fuzz.combinations import PROBES, cells, installed, on_metal, refusal, settings

# net, local, remote: each pair of modes meets once; and interrupts, so that each meets each device.
MACHINES = (
    "VS VS VS VS", "VS P VH P", "VS VH P VH", "P VS P P", "P P VS VH", "P VH VH VS", "VH VS VH VH", "VH P P VS",
    "VH VH VS P",
)  # fmt: skip


def test_every_change_of_a_row_is_a_machine_or_is_refused_in_a_sentence() -> None:
    for base in ROWS.values():
        for column in COLUMNS:
            for cell in cells(column):
                machine = refusal(base, [f"{column}={cell}"])
                if isinstance(machine, Row):
                    assert cell in (machine.cells[column], machine.modes[column])


@pytest.mark.parametrize("cpu", ["hw-shadow", "hw-assist"])
@pytest.mark.parametrize("letters", MACHINES)
def test_any_devices_under_any_interrupts(cpu: str, letters: str) -> None:
    columns = ("net", "local", "remote", "interrupts")
    changes = [f"{column}={cell}" for column, cell in zip(columns, letters.split(), strict=True)]
    with closing(RowRunner(row_named("+".join(["nitro", f"cpu={cpu}", *changes])), installed(), settings())) as runner:
        for column in columns:
            outcome = runner.run(OPS[PROBES[column]])
            assert isinstance(outcome, Measured), column
            assert outcome.result.result == on_metal(column), column
