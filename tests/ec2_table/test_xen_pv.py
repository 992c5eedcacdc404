"""Row `xen-pv`: the kernel at ring 3 on Xen's ABI. What must come out: DESIGN.md, section 6."""

from __future__ import annotations

import contextlib

import pytest

from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.measure import Measured, NotThere, OpResult, RowRunner, Settings
from hv.mode import find_modes
from hv.ops import OPS
from hv.table import customize, find_row
from modes.paravirt.mode import Paravirt
from tests.ec2_table.measuring import CPU_OPERATIONS, check_snapshot, measure, measure_table

HAS = [op for op in CPU_OPERATIONS if op != "cr8wr"]

# Exits of one operation, by reason, where each iteration has the same.
EXITS = {
    "compute": {},
    "callret": {},
    "irq_mask": {},
    "syscall": {"syscall_bounce": 1, "hypercall.iret": 1},
    "divzero": {"exception_bounce": 1, "hypercall.iret": 1},
    "protection_fault": {"guest_page_fault": 1, "hypercall.iret": 1},
    "page_fault": {"guest_page_fault": 1, "hypercall.mmu_update": 1, "hypercall.iret": 1},
    "cpuid": {"cpuid": 1},
    "in": {"ioio": 1},
    "ptemod": {"hypercall.mmu_update": 1},
    # the call yield, both base pointers and the kernel's stack in one multicall, the return
    "context_switch": {"syscall_bounce": 1, "hypercall.multicall": 1, "hypercall.iret": 1},
    # two calls; 64 entries made in one hypercall, 64 cleared and the TLB flushed in another
    "mmap_unmap": {"syscall_bounce": 2, "hypercall.mmu_update": 1, "hypercall.multicall": 1, "hypercall.iret": 2},
}


@pytest.mark.parametrize("op", sorted(EXITS))
def test_an_operation_exits_for_its_reasons(op: str) -> None:
    result = measure("xen-pv", op)
    assert result.exits == {reason: count * result.iterations for reason, count in sorted(EXITS[op].items())}


def test_a_fork_and_an_exit_are_a_few_batches() -> None:
    """Three calls, two copies on write, and whatever tables change hands: the parent's entries, the child's tables."""
    result = measure("xen-pv", "fork_exit")
    assert result.exits_per_op <= 16
    assert result.exits["hypercall.multicall"] <= 6 * result.iterations


@pytest.mark.parametrize("op", HAS)
def test_the_guest_computes_what_it_does_on_metal(op: str) -> None:
    assert measure("xen-pv", op).result == measure("metal", op).result


def test_there_is_no_task_priority_to_write() -> None:
    table = measure_table("xen-pv", iterations=10)
    assert table.rows[0].ops["cpu.cr8wr"] == NotThere("a PV domain has no task priority register")


@pytest.mark.parametrize("op", HAS)
def test_only_the_counter_is_the_silicon_s_own(op: str) -> None:
    assert set(measure("xen-pv", op).assists) <= {"rdtsc"}


def test_native_and_portable_agree_in_everything() -> None:
    assert measure_table("xen-pv", iterations=3, portable=True) == measure_table("xen-pv", iterations=3)


def unbatched(op: str) -> Measured:
    settings = Settings(load_guest(default_guest()), load(), 10)
    row = customize(find_row("xen-pv"), ["cpu=paravirt-unbatched"], find_modes())
    with contextlib.closing(RowRunner(row, find_modes(), settings)) as runner:
        result = runner.run(OPS[op])
    assert isinstance(result, Measured)
    return result


def test_without_batching_every_change_is_a_hypercall() -> None:
    result = unbatched("cpu.fork_exit").result
    assert result.exits_per_op > 2 * measure("xen-pv", "fork_exit").exits_per_op
    assert "hypercall.multicall" not in result.exits
    assert result.result == measure("metal", "fork_exit").result


@pytest.mark.parametrize("cut", [50_000, 300_000, 1_000_000])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(cut: int) -> None:
    """Cut in the boot or in an operation: frames and their types, vCPU and event channels are all in it."""
    check_snapshot(Paravirt, "cpu.fork_exit 3 1", cut)


# --- interrupts and boot ----------------------------------------------------------------------------------------------

INTERRUPTS = {
    "interrupts.timer_tick": {"external_interrupt": 1, "hypercall.iret": 1, "hypercall.set_timer_op": 1},
    "interrupts.device_irq": {"external_interrupt": 1, "hypercall.iret": 1},
    "interrupts.hlt_wake": {"hypercall.iret": 1, "hypercall.sched_op": 1, "hypercall.set_timer_op": 1},
}
ABSENT = {
    "interrupts.eoi": "an event channel needs no end of interrupt",
    "boot.pci_scan": "a PV domain has no PCI bus",
    "boot.timer_calibration": "a PV domain is told how fast its clock runs",
}


def other_columns(row: str) -> dict[str, OpResult | NotThere]:
    return measure_table(row, "interrupts.*,boot.*", iterations=4).rows[0].ops


@pytest.mark.parametrize("op", sorted(INTERRUPTS))
def test_an_interrupt_is_an_event_and_its_return_a_hypercall(op: str) -> None:
    result = other_columns("xen-pv")[op]
    if isinstance(result, NotThere):
        pytest.skip(result.na)  # no network card yet
    assert result.exits == {reason: count * result.iterations for reason, count in INTERRUPTS[op].items()}


def test_a_message_to_another_cpu_is_sent_taken_and_returned_from() -> None:
    """The last return is the other CPU's, and may lie behind the end."""
    result = other_columns("xen-pv")["interrupts.ipi"]
    assert isinstance(result, OpResult)
    n = result.iterations
    assert result.exits["hypercall.event_channel_op"] == result.exits["external_interrupt"] == n
    assert n - 1 <= result.exits["hypercall.iret"] <= n


def test_what_a_pv_domain_has_not_is_named() -> None:
    ops = other_columns("xen-pv")
    assert {op: ops[op] for op in ABSENT} == {op: NotThere(why) for op, why in ABSENT.items()}


def test_it_boots_without_a_port_a_page_fault_or_a_device() -> None:
    result = other_columns("xen-pv")["boot.boot"]
    assert isinstance(result, OpResult)
    assert {reason for reason in result.exits if not reason.startswith("hypercall.")} <= {"cpuid", "external_interrupt"}


def test_the_other_columns_results_are_metal_s() -> None:
    xen, metal = other_columns("xen-pv"), other_columns("metal")
    assert set(xen) == set(metal)
    for op, result in xen.items():
        if isinstance(result, OpResult):
            wanted = metal[op]
            assert isinstance(wanted, OpResult)
            assert result.result == wanted.result, op
