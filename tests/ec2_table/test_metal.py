"""Row `metal`: the guest owns the silicon, so nothing exits, whatever it does."""

from __future__ import annotations

import pytest

from hv.ops import OPS
from tests.ec2_table.measuring import CPU_OPERATIONS, measure, measure_table

# What real silicon does alone in each operation, and Unicorn only with help. It is no exit, and counted apart.
ASSISTS = {
    "compute": {},
    "syscall": {"syscall": 1},
    "page_fault": {"exception": 1},
    "protection_fault": {"exception": 1},
    "mmap_unmap": {"syscall": 2},
    "context_switch": {"syscall": 1},
    "fork_exit": {"exception": 2, "syscall": 3},  # copy-on-write in parent and child; fork, exit, wait
    "cpuid": {"cpuid": 1},
    "irq_mask": {},
    "in": {"port_io": 1},
    "cr8wr": {},
    "callret": {},
    "divzero": {"exception": 1},
    "ptemod": {},
}


def test_the_column_has_its_14_operations() -> None:
    assert [op.partition(".")[2] for op in OPS if op.startswith("cpu.")] == list(CPU_OPERATIONS)
    assert set(measure_table("metal").rows[0].ops) == {f"cpu.{op}" for op in CPU_OPERATIONS}


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_nothing_exits(op: str, cold: bool) -> None:
    result = measure("metal", op, cold=cold)
    assert result.exits == {}
    assert result.exits_per_op == 0
    assert result.cycles_per_op > 0


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_the_silicon_assists_once_for_each_event_of_the_operation(op: str) -> None:
    result = measure("metal", op)
    assert result.assists == {name: count * result.iterations for name, count in ASSISTS[op].items()}
