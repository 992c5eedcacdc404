"""Measures rows of the table for the tests, each row and setting only once in a run of pytest."""

from __future__ import annotations

import functools
from contextlib import closing

import msgspec

from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.measure import OpResult, RowResult, Settings, TableResult, run_table
from hv.mode import Mode, find_modes
from hv.ops import OPS, select
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Idle
from hv.table import Row, customize, find_row
from hv.vm import Vm

CPU_OPERATIONS = (
    "compute", "syscall", "page_fault", "protection_fault", "mmap_unmap", "context_switch", "fork_exit", "cpuid",
    "irq_mask", "in", "cr8wr", "callret", "divzero", "ptemod",
)  # fmt: skip
BUILT_ROWS = ("nitro", "metal")
LIMIT = 20_000_000_000 * MILLI


@functools.cache
def measure_table(
    rows: str, ops: str = "cpu.*", *, iterations: int = 10, seed: int = 0, cold: bool = False, portable: bool = False
) -> TableResult:
    """What `hv table --rows ROWS --ops OPS ...` measures."""
    settings = Settings(load_guest(default_guest()), load(), iterations, seed, cold, portable)
    return run_table([row_named(row) for row in rows.split(",")], select(ops), find_modes(), settings)


def row_named(name: str) -> Row:
    """A row by its id, or a custom one such as nitro+cpu=hw-shadow."""
    id, *changes = name.split("+")
    return customize(find_row(id), changes, find_modes()) if changes else find_row(id)


def measure(
    row: str, op: str, *, iterations: int = 10, seed: int = 0, cold: bool = False, portable: bool = False
) -> OpResult:
    """One operation of the cpu column. All of the row are measured together, and kept."""
    table = measure_table(row, iterations=iterations, seed=seed, cold=cold, portable=portable)
    return operation(table.rows[0], op)


def operation(row: RowResult, op: str) -> OpResult:
    """An operation of a row that has it."""
    result = row.ops[f"cpu.{op}"]
    assert isinstance(result, OpResult)
    assert set(row.ops) <= set(OPS)
    return result


class Round(msgspec.Struct):
    """What lay between two marks."""

    exits: dict[str, int]
    retired: int


def console(cpu: type[Mode], commands: str, smp: int, *, portable: bool = False) -> tuple[str, list[Round]]:
    """A machine that is a CPU and nothing else: what the shell says to commands, and each round that it measured."""
    with closing(Vm(cpu, load_guest(default_guest()), load(), smp=smp, portable=portable)) as vm:
        vm.console.feed(commands.encode())
        assert isinstance(vm.run(LIMIT), Idle)
        rounds = [
            Round({name: tally.count for name, tally in vm.ledger.tallies(2 * number + 1).items()}, window.retired)
            for number, window in enumerate(vm.machine.probe.windows)
        ]
        return vm.console.take().replace("\r", ""), rounds
