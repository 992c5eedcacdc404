"""Row `emulated`: the kernel runs from a translation cache. What must come out: DESIGN.md, section 6."""

from __future__ import annotations

import contextlib

import pytest

from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.measure import Measured, RowRunner, Settings
from hv.mode import find_modes
from hv.ops import OPS
from modes.full_emulation.translator.cache import ADAPT, REVERT
from modes.full_emulation.translator.mode import FullEmulation
from tests.ec2_table.measuring import CPU_OPERATIONS, check_snapshot, measure, measure_table, row_named

TRAP = "emulated+cpu=trap-and-emulate"

# Exits of one operation, by reason, where each iteration has the same.
EXITS = {
    "compute": {},
    "callret": {},
    "syscall": {"syscall_bounce": 1, "swapgs": 2, "sysret": 1},
    "divzero": {"exception_bounce": 1, "swapgs": 2, "iret": 1},
    "protection_fault": {"guest_page_fault": 1, "swapgs": 2, "iret": 1},
    "irq_mask": {},
    "cpuid": {"cpuid": 1},
    "in": {},
    "cr8wr": {},
}


@pytest.mark.parametrize("op", sorted(EXITS))
def test_an_operation_exits_for_its_reasons(op: str) -> None:
    result = measure("emulated", op)
    assert result.exits == {reason: count * result.iterations for reason, count in EXITS[op].items()}


def test_writes_of_a_page_table_entry_fault_until_the_store_has_adapted() -> None:
    result, trapped = measure("emulated", "ptemod", iterations=100), measure(TRAP, "ptemod", iterations=100)
    assert result.exits_per_op == 1
    assert 0 < result.exits["page_table_write"] <= 4 * ADAPT  # it was one before, in vain
    assert result.exits["table_callout"] == 100 - result.exits["page_table_write"]
    assert result.cycles_per_op < trapped.cycles_per_op


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_the_guest_computes_what_it_does_on_metal(op: str) -> None:
    assert measure("emulated", op).result == measure("metal", op).result


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_the_silicon_assists_with_nothing(op: str) -> None:
    assert measure("emulated", op).assists == {}


def test_a_page_fault_is_the_guest_s_a_write_to_its_table_and_a_hidden_one() -> None:
    exits = dict(measure("emulated", "page_fault", iterations=100).exits)
    assert exits.pop("page_table_write", 0) + exits.pop("table_callout", 0) == 100
    assert exits == {"guest_page_fault": 100, "shadow_page_fault": 100, "swapgs": 200, "iret": 100}


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_there_are_no_more_exits_than_under_trap_and_emulate(op: str) -> None:
    """But for the call-outs in vain after which a store is a plain one again."""
    translated, trapped = measure("emulated", op), measure(TRAP, op)
    assert sum(translated.exits.values()) <= sum(trapped.exits.values()) + 2 * REVERT


def test_translating_is_over_after_the_first_round() -> None:
    """`--cold` counts it: jumps that lead to nothing yet, and what translating takes."""
    for op in CPU_OPERATIONS:
        assert not measure("emulated", op).exits.keys() & {"translate", "lookup_miss"}, op
    cold = measure("emulated", "callret", iterations=1, cold=True)
    warm = measure("emulated", "callret", iterations=1)
    assert cold.exits["translate"] > 0
    assert cold.cycles_per_op > warm.cycles_per_op


@pytest.mark.parametrize(
    ("op", "cheaper"), [("in", True), ("cr8wr", True), ("ptemod", False), ("syscall", False), ("divzero", False)]
)
def test_cheaper_and_dearer_than_native_as_published_in_2006(op: str, cheaper: bool) -> None:
    """Adams and Agesen, ASPLOS 2006, in cycles of the Pentium 4 on which they measured."""
    settings = Settings(load_guest(default_guest()), load("p4-672"), 10)
    cycles = []
    for name in ("emulated", "metal"):
        with contextlib.closing(RowRunner(row_named(name), find_modes(), settings)) as runner:
            measured = runner.run(OPS[f"cpu.{op}"])
            assert isinstance(measured, Measured)
            cycles.append(measured.result.cycles_per_op)
    translated, native = cycles
    assert (translated < native) is cheaper


def test_native_and_portable_agree_in_everything() -> None:
    assert measure_table("emulated", iterations=3, portable=True) == measure_table("emulated", iterations=3)


@pytest.mark.parametrize("cut", [50_000, 300_000, 1_000_000])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(cut: int) -> None:
    """Cut in the boot or in an operation: the cache and everything that leads to it are in it."""
    check_snapshot(FullEmulation, "cpu.fork_exit 3 1", cut)
