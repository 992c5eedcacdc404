"""Runs operations on rows and puts the numbers together: the document that `hv table --json` prints.

A row is booted once. Each operation then starts from a snapshot taken at the shell's prompt, so that its numbers do
not depend on which others were run before it. The guest runs every operation in two rounds; the second is counted,
with `cold` the first. Those of the boot column run once, and boot.boot is the boot itself. In the bursts each packet
or block is an iteration: 100 bursts are 3200.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import msgspec

from hv.costs import CostModel
from hv.errors import HvError
from hv.ledger import Tally
from hv.loader import Guest
from hv.mode import Mode
from hv.ops import BOOT, Op
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Ended, Idle
from hv.table import COLUMNS, Row, machine_modes
from hv.vm import Vm, VmSnapshot

SCHEMA = "hv-table/1"
PROMPT = "hv> "
LIMIT = 100_000_000_000 * MILLI  # an operation that takes longer than this virtual time is broken
BOOT_LIMIT = 2_000_000_000 * MILLI
RESULT = re.compile(r"bench (\S+) iterations=(\d+) cycles=(\d+) result=([0-9a-f]{16})\s")
Progress = Callable[[str, str | None], None]  # told of a row's id and what is run of it now; None: it is done
ABSENT = re.compile(r"bench (\S+) na: ([^\r\n]+)[\r\n]")


class OpResult(msgspec.Struct):
    """One operation on one row. Exits and assists are counts over all iterations; cycles are virtual."""

    iterations: int
    exits_per_op: float
    exits: dict[str, int]
    assists_per_op: float
    assists: dict[str, int]
    instructions_per_op: float
    cycles_per_op: float
    result: str


class NotThere(msgspec.Struct):
    """An operation that this row's machine does not have."""

    na: str


class RowResult(msgspec.Struct):
    id: str
    label: str
    cells: dict[str, str]
    modes: dict[str, str]
    ops: dict[str, OpResult | NotThere]


class TableResult(msgspec.Struct):
    schema: str
    guest_sha256: str
    cost_model: str
    seed: int
    columns: list[str]
    rows: list[RowResult]


class Settings(msgspec.Struct, frozen=True):
    """What all rows of a table have in common. `iterations`: of an operation that goes in bursts, how many bursts."""

    guest: Guest
    costs: CostModel
    iterations: int = 100
    seed: int = 0
    cold: bool = False
    portable: bool = False


class Measured(msgspec.Struct):
    """An operation's window with all its detail."""

    result: OpResult
    tallies: dict[str, Tally]
    time: int  # of the whole window, in millicycles


class RowRunner:
    """A booted row, ready to run operations from its prompt."""

    def __init__(self, row: Row, modes: Mapping[str, type[Mode]], settings: Settings) -> None:
        chosen = machine_modes(row, modes)
        self.row, self.settings = row, settings
        self.modes = {column: mode.id for column, mode in chosen.items()}
        self.vm = Vm(chosen, settings.guest, settings.costs, portable=settings.portable)
        try:
            self.prompt = self._boot()
        except BaseException:
            self.vm.close()
            raise

    def _boot(self) -> VmSnapshot:
        """Run to the shell's prompt, and keep that moment."""
        self._check(self.vm.run(BOOT_LIMIT), "boot")
        if not self.vm.console.take().endswith(PROMPT):
            raise HvError(f"row {self.row.id}: the guest did not reach its prompt", 1)
        return self.vm.snapshot()

    def _check(self, outcome: Ended | Idle | object, what: str) -> None:
        if isinstance(outcome, Ended):
            raise HvError(f"row {self.row.id}: the guest stopped in {what}: {outcome.report}", 1)
        if not isinstance(outcome, Idle):
            raise HvError(f"row {self.row.id}: {what} did not finish in {LIMIT // MILLI} virtual cycles", 1)

    def has(self, op: Op) -> bool:
        """Is the mode of the operation's column built?"""
        return op.column in self.modes

    def run(self, op: Op) -> Measured | NotThere:
        """Run one operation from the prompt."""
        if not self.has(op):
            raise HvError(
                f"row {self.row.id} has no {op.column} column yet: it needs mode {self.row.modes[op.column]}", 1
            )
        s, vm = self.settings, self.vm
        n = 1 if op.once else s.iterations
        vm.restore(self.prompt)
        first = 0 if op.id == BOOT else len(vm.machine.probe.windows)
        vm.console.feed(f"bench {op.id} {n} {s.seed}\n".encode())
        n *= op.burst
        self._check(vm.run(vm.now + LIMIT), op.id)
        text = vm.console.take()
        absent = ABSENT.search(text)
        if absent is not None and absent[1] == op.id:
            return NotThere(absent[2])
        match = RESULT.search(text)
        windows = vm.machine.probe.windows[first:]
        if match is None or (match[1], match[2]) != (op.id, str(n)) or len(windows) != (1 if op.once else 2):
            said = [line.strip() for line in text.splitlines() if line.startswith("bench:")]
            raise HvError(f"row {self.row.id}: {op.id} gave no result: {said[0] if said else text.strip()!r}", 1)
        index = 0 if s.cold or op.once else 1
        tallies = vm.ledger.tallies(2 * (first + index) + 1)
        window = windows[index]
        exits = {reason: tally.count for reason, tally in tallies.items()}
        result = OpResult(
            iterations=n,
            exits_per_op=sum(exits.values()) / n,
            exits=exits,
            assists_per_op=sum(window.assists.values()) / n,
            assists=window.assists,
            instructions_per_op=window.retired / n,
            cycles_per_op=window.time / MILLI / n,
            result=match[4],
        )
        return Measured(result, tallies, window.time)

    def close(self) -> None:
        self.vm.close()


def run_table(
    rows: Sequence[Row], ops: Sequence[Op], modes: Mapping[str, type[Mode]], settings: Settings,
    progress: Progress = lambda row, what: None,
) -> TableResult:  # fmt: skip
    """Run every operation on every row that has its column, one after the other in this process."""
    return table_of([measure_row(row, ops, modes, settings, progress) for row in rows], settings)


def table_of(rows: list[RowResult], settings: Settings) -> TableResult:
    """Measured rows as a table."""
    return TableResult(SCHEMA, settings.guest.sha256, settings.costs.name, settings.seed, list(COLUMNS), rows)


def measure_row(
    row: Row, ops: Sequence[Op], modes: Mapping[str, type[Mode]], settings: Settings, progress: Progress
) -> RowResult:
    """Run every operation whose column the row has."""
    progress(row.id, "boot")
    with closing(RowRunner(row, modes, settings)) as runner:
        result = RowResult(row.id, row.label, row.cells, runner.modes, {})
        for op in filter(runner.has, ops):
            progress(row.id, op.id)
            outcome = runner.run(op)
            result.ops[op.id] = outcome.result if isinstance(outcome, Measured) else outcome
    progress(row.id, None)
    return result
