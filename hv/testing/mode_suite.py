"""The comparison suite: what every mode must do, whoever wrote it. Run it with `pytest --hv-mode NAME`.

Results are equal to bare metal's; two runs give the same bytes; only declared reasons are counted; a hostile guest has
a clear end. Simplified: few iterations, so that it takes seconds, and only columns that have operations yet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from hv.costs import CostModel, load
from hv.loader import Guest, Segment, XenNotes, default_guest, load_guest
from hv.measure import OpResult, RowRunner, Settings, TableResult, run_table
from hv.mode import Mode, find_modes, what_is_wrong
from hv.ops import OPS, Op
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Ended, Paused
from hv.table import COLUMNS, ROWS, Row, machine_modes
from hv.vm import SMALLEST_MIB, Vm

METAL = "bare-metal"
ITERATIONS = 3
ENTRY = 0x10_0000
BUDGET = 20_000_000 * MILLI  # virtual time for a hostile guest

KERNEL_BASE = 0xFFFF_FFFF_8000_0000  # for a PV domain
# Guests in 32-bit protected mode without descriptor tables, or in 64-bit mode at ring 3 without a trap table: there any
# exception is the end.
JUMP_INTO_NOTHING = b"\xb8" + struct.pack("<I", 0x7000_0000) + b"\xff\xe0"  # mov eax, 0x70000000; jmp eax
HOSTILE = {
    "a triple fault": b"\x0f\x0b",  # ud2
    "a jump into nothing": JUMP_INTO_NOTHING,
    "a read of a table at nothing": b"\x0f\x01\x18\x0f\x0b",  # lidt [eax]; ud2
    "a HLT with interrupts off, then nothing": b"\xfa\xf4",  # cli; hlt
}
SPIN = b"\xeb\xfe"  # jmp $


@pytest.fixture(scope="session")
def modes() -> dict[str, type[Mode]]:
    return find_modes()


@pytest.fixture(scope="session")
def mode(modes: dict[str, type[Mode]], hv_mode: str) -> type[Mode]:
    return modes[hv_mode]


@pytest.fixture(scope="session")
def costs() -> CostModel:
    return load()


@pytest.fixture(scope="session")
def settings(costs: CostModel) -> Settings:
    return Settings(load_guest(default_guest()), costs, ITERATIONS)


@pytest.fixture(scope="session")
def ops(mode: type[Mode]) -> list[Op]:
    """The operations of the columns that the mode provides."""
    chosen = [op for op in OPS.values() if op.column in mode.cells]
    if "cpu" not in mode.cells:
        pytest.skip(f"{mode.id} provides no cpu column: there is nothing to run it on yet")
    return chosen


def row_of(mode: type[Mode]) -> Row:
    """A row with the mode in each column that it provides; the rules about combinations are not its business."""
    like = ROWS["metal" if mode.cells.get("cpu") == "H" else "nitro"]
    mine = dict.fromkeys(mode.cells, mode.id)
    return Row(mode.id, mode.id, like.type, like.drivers, {**like.cells, **mode.cells}, {**like.modes, **mine})


@pytest.fixture(scope="session")
def measured(mode: type[Mode], modes: dict[str, type[Mode]], settings: Settings, ops: list[Op]) -> TableResult:
    return run_table([row_of(mode)], ops, modes, settings)


@pytest.fixture(scope="session")
def on_metal(modes: dict[str, type[Mode]], settings: Settings, ops: list[Op]) -> TableResult:
    return run_table([row_of(modes[METAL])], ops, modes, settings)


def test_the_mode_keeps_the_contract(mode: type[Mode], hv_mode: str) -> None:
    assert what_is_wrong(mode, hv_mode) is None
    assert set(mode.cells) <= set(COLUMNS)
    assert "\n" not in mode.summary


def test_results_are_equal_to_bare_metal_s(measured: TableResult, on_metal: TableResult) -> None:
    """The digest that the guest computes over its payload does not depend on who runs it.

    Metal has every operation; a mode's machine may lack some.
    """

    def results(table: TableResult) -> dict[str, str]:
        return {id: op.result for id, op in table.rows[0].ops.items() if isinstance(op, OpResult)}

    assert results(measured).items() <= results(on_metal).items()


def test_two_runs_give_the_same_bytes(
    mode: type[Mode], modes: dict[str, type[Mode]], settings: Settings, ops: list[Op], measured: TableResult
) -> None:
    again = run_table([row_of(mode)], ops, modes, settings)
    assert msgspec.json.format(msgspec.json.encode(again)) == msgspec.json.format(msgspec.json.encode(measured))


def test_the_order_of_operations_changes_nothing(
    mode: type[Mode], modes: dict[str, type[Mode]], settings: Settings, ops: list[Op], measured: TableResult
) -> None:
    """Each starts from a snapshot, so what the mode remembers must be in its state()."""
    backwards = run_table([row_of(mode)], ops[::-1], modes, settings)
    assert backwards.rows[0].ops == measured.rows[0].ops


def test_only_declared_reasons_are_counted(
    mode: type[Mode], modes: dict[str, type[Mode]], settings: Settings, ops: list[Op]
) -> None:
    """By the mode, or by those of the row's other columns; from the first instruction of the boot on."""
    row = row_of(mode)
    declared = mode.reasons.union(*(kind.reasons for kind in machine_modes(row, modes).values()))
    counted: set[str] = set()
    with closing(RowRunner(row, modes, settings)) as runner:
        for op in ops:
            try:
                runner.run(op)
            except KeyError as error:
                pytest.fail(f"{mode.id} counts {error}, which its `reasons` do not declare", pytrace=False)
            counted |= set(runner.vm.ledger.totals())
    assert counted <= declared


@pytest.fixture
def hostile_vm(mode: type[Mode], costs: CostModel, request: pytest.FixtureRequest) -> Iterator[Vm]:
    """A VM with the code that the test is parametrized with."""
    if "cpu" not in mode.cells:
        pytest.skip(f"{mode.id} provides no cpu column")
    code: bytes = request.param
    notes = XenNotes(KERNEL_BASE + ENTRY, KERNEL_BASE + ENTRY + 0x1000, KERNEL_BASE, 0)
    guest = Guest(Path("hostile"), "", ENTRY, [Segment(ENTRY, 0x2000, code)], {}, b"", notes)
    with closing(Vm(mode, guest, costs, mib=SMALLEST_MIB)) as vm:
        yield vm


@pytest.mark.parametrize("hostile_vm", HOSTILE.values(), ids=HOSTILE, indirect=True)
def test_a_hostile_guest_has_a_clear_end(hostile_vm: Vm) -> None:
    """It is ended with one line that says why, or it sleeps for ever; it does not go on, and nothing is raised."""
    outcome = hostile_vm.run(BUDGET)
    assert not isinstance(outcome, Paused)
    if isinstance(outcome, Ended):
        assert outcome.report
        assert "\n" not in outcome.report
    assert not hostile_vm.ledger.open


@pytest.mark.parametrize("hostile_vm", [SPIN], ids=["spin"], indirect=True)
def test_a_guest_that_spins_is_stopped_by_its_budget(hostile_vm: Vm) -> None:
    """Time passes while it spins, and the loop comes back when the budget is used up."""
    assert isinstance(hostile_vm.run(BUDGET), Paused | Ended)
    assert hostile_vm.now >= BUDGET
