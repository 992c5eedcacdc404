"""Row `emulated` with cpu=trap-and-emulate: the kernel at ring 3. What must come out: DESIGN.md, section 6."""

from __future__ import annotations

import contextlib

import pytest

from hv.costs import load
from hv.errors import HvError
from hv.loader import default_guest, load_guest
from hv.measure import Measured, RowRunner, Settings
from hv.mode import find_modes
from hv.ops import OPS
from hv.table import customize, find_row
from modes.full_emulation.mode import TrapAndEmulate
from modes.full_emulation.naive import TrapAndEmulateNaive
from tests.ec2_table.measuring import CPU_OPERATIONS, check_snapshot, measure, measure_table

TRAP = "emulated+cpu=trap-and-emulate"

# Exits of one operation, by reason, where each iteration has the same.
EXITS = {
    "compute": {},
    "callret": {},
    "syscall": {"syscall_bounce": 1, "swapgs": 2, "sysret": 1},
    "divzero": {"exception_bounce": 1, "swapgs": 2, "iret": 1},
    "protection_fault": {"guest_page_fault": 1, "swapgs": 2, "iret": 1, "cr_access": 1},
    "irq_mask": {"cli": 1, "sti": 1},
    "cpuid": {"cpuid": 1},
    "in": {"ioio": 1},
    "cr8wr": {"cr8_write": 1},
    "ptemod": {"page_table_write": 1},
}


@pytest.mark.parametrize("op", sorted(EXITS))
def test_an_operation_exits_for_its_reasons(op: str) -> None:
    result = measure(TRAP, op)
    assert result.exits == {reason: count * result.iterations for reason, count in EXITS[op].items()}


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_the_guest_computes_and_retires_what_it_does_on_metal(op: str) -> None:
    emulated, metal = measure(TRAP, op), measure("metal", op)
    assert emulated.result == metal.result
    assert emulated.instructions_per_op == metal.instructions_per_op


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_the_silicon_assists_nothing_because_everything_traps(op: str) -> None:
    assert measure(TRAP, op).assists == {}


def test_a_page_fault_is_the_guest_s_a_write_to_its_table_and_a_hidden_one() -> None:
    result = measure(TRAP, "page_fault", iterations=100)
    once = {
        "guest_page_fault": 1,
        "swapgs": 2,
        "cr_access": 1,
        "page_table_write": 1,
        "iret": 1,
        "shadow_page_fault": 1,
    }
    assert result.exits == {reason: count * 100 for reason, count in once.items()}


def test_a_table_that_is_out_of_sync_is_written_without_exits() -> None:
    """So few pages are unmapped with INVLPG each, a burst after which no load of CR3 traces the table again."""
    assert "page_table_write" not in measure(TRAP, "page_fault", iterations=10).exits


@pytest.mark.parametrize("op", ["mmap_unmap", "fork_exit"])
def test_a_burst_of_table_writes_does_not_exit_for_every_entry(op: str) -> None:
    result = measure(TRAP, op)
    assert result.exits["page_table_write"] <= 20 * result.iterations


def test_native_and_portable_agree_in_everything() -> None:
    assert measure_table(TRAP, iterations=3, portable=True) == measure_table(TRAP, iterations=3)


@pytest.mark.parametrize("cut", [50_000, 300_000, 1_000_000])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(cut: int) -> None:
    """Cut in the boot or in an operation: the shadow, the breakpoints and the virtual CPU are all in it."""
    check_snapshot(TrapAndEmulate, "cpu.fork_exit 3 1", cut)


def naive_result(op: str) -> str:
    """An operation's digest under trap-and-emulate-naive."""
    settings = Settings(load_guest(default_guest()), load(), 10)
    row = customize(find_row("emulated"), ["cpu=trap-and-emulate-naive"], find_modes())
    with contextlib.closing(RowRunner(row, find_modes(), settings)) as runner:
        measured = runner.run(OPS[op])
        assert isinstance(measured, Measured)
        return measured.result.result


def test_without_patching_the_first_lie_ends_the_run_and_is_named() -> None:
    with pytest.raises(HvError, match=r"pushfq at RIP 0x\w+ lied to the guest: IF reads 1, its own is 0"):
        naive_result("cpu.irq_mask")


def test_without_patching_and_without_that_end_the_kernel_computes_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It believes that interrupts are on when it has switched them off. What asks for no flags is right."""
    monkeypatch.setattr(TrapAndEmulateNaive, "ends_at_a_lie", False)
    assert naive_result("cpu.irq_mask") != measure("metal", "irq_mask").result
    assert naive_result("cpu.divzero") == measure("metal", "divzero").result
