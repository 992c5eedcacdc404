"""SVM without nested paging, as of 2006: what has to do with page tables exits, and nothing else more than on nitro."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hv.measure import OpResult
from hv.silicon.timing import MILLI
from modes.bare_metal import BareMetal
from modes.hw_assist.shadow import HwShadow
from tests.ec2_table.measuring import CPU_OPERATIONS, check_snapshot, console, measure, measure_table
from tests.ec2_table.shell import shell

ROW = "nitro+cpu=hw-shadow"
XEN = "xen-hvm-3+cpu=hw-shadow"
OVERVIEW = (Path(__file__).parents[2] / "docs" / "overview.md").read_text(encoding="utf-8")


def results(said: str) -> list[str]:
    return re.findall(r"result=(\w+)", said)


# Exits of one operation, by reason, where each iteration has the same.
EXITS = {
    "compute": {},
    "callret": {},
    "syscall": {},
    "irq_mask": {},
    "divzero": {},
    "cr8wr": {},
    "protection_fault": {"guest_page_fault": 1},
    "context_switch": {"cr_access": 1},
    "cpuid": {"cpuid": 1},
    "in": {"ioio": 1},
    "ptemod": {"page_table_write": 1},
}


@pytest.mark.parametrize("op", sorted(EXITS))
def test_an_operation_exits_for_its_reasons(op: str) -> None:
    result = measure(ROW, op)
    assert result.exits == {reason: count * result.iterations for reason, count in EXITS[op].items()}


def test_a_page_fault_is_the_guest_s_a_write_to_its_table_and_a_hidden_one() -> None:
    result = measure(ROW, "page_fault", iterations=100)
    assert result.exits == {"guest_page_fault": 100, "page_table_write": 100, "shadow_page_fault": 100}


def test_the_guest_computes_and_retires_what_it_does_on_metal() -> None:
    """With one CPU: with two, a TLB flush looks who else needs it."""
    commands = "".join(f"bench cpu.{op} 10\n" for op in CPU_OPERATIONS)
    (shadowed, rounds), (metal, wanted) = (console(cpu, commands, 1) for cpu in (HwShadow, BareMetal))
    assert results(shadowed) == results(metal)
    assert len(results(metal)) == len(CPU_OPERATIONS)
    assert [round.retired for round in rounds] == [round.retired for round in wanted]


@pytest.mark.parametrize("op", ["syscall", "divzero", "irq_mask", "cr8wr", "callret", "compute"])
def test_where_no_table_is_touched_it_is_nitro(op: str) -> None:
    shadowed, nitro = measure(ROW, op), measure("nitro", op)
    assert (shadowed.exits, shadowed.assists, shadowed.cycles_per_op) == (
        nitro.exits,
        nitro.assists,
        nitro.cycles_per_op,
    )


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_it_exits_no_more_than_the_deprivileged_kernel(op: str) -> None:
    """The one whose instructions trap: a translator has fewer exits for IN (Adams and Agesen, 2006)."""
    assert measure(ROW, op).exits_per_op <= measure("emulated+cpu=trap-and-emulate", op).exits_per_op


def test_every_row_with_this_cpu_has_these_numbers() -> None:
    for row in ("emulated", "nitro"):
        assert measure_table(f"{row}+cpu=hw-shadow").rows[0].ops == measure_table(ROW).rows[0].ops


@pytest.mark.parametrize("row", ["xen-hvm-3", "aws-2017"])
def test_nested_paging_changed_nothing_for_devices_and_interrupts(row: str) -> None:
    ops = "net.r*,net.tx,local.read4k,local.flush,remote.read4k,interrupts.*"
    before, after = (measure_table(id, ops, iterations=4).rows[0].ops for id in (f"{row}+cpu=hw-shadow", row))
    assert before.keys() == after.keys()
    for op, result in before.items():
        nested = after[op]
        if isinstance(result, OpResult) and isinstance(nested, OpResult):
            assert (result.exits, result.result) == (nested.exits, nested.result), op
        else:
            assert result == nested


def test_the_overview_says_what_nested_paging_removed() -> None:
    said = re.search(r"a fork is (\d+) exits, a page fault (\d+), .* 64 pages (\d+), a context switch (\d+)", OVERVIEW)
    assert said is not None
    for op, number in zip(("fork_exit", "page_fault", "mmap_unmap", "context_switch"), said.groups(), strict=True):
        assert measure(XEN, op, iterations=4).exits_per_op == int(number), op
        assert measure("xen-hvm-3", op, iterations=4).exits_per_op == 0


def test_native_and_portable_agree_in_everything() -> None:
    assert measure_table(ROW, iterations=3, portable=True) == measure_table(ROW, iterations=3)


@pytest.mark.parametrize("cut", [50_000, 300_000, 1_000_000])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(cut: int) -> None:
    check_snapshot(HwShadow, "cpu.fork_exit 3 1", cut)


def test_with_xen_beside_it_too_with_blocks_on_their_way() -> None:
    """Cut again and again, each time taken up by another machine."""
    commands = b"bench remote.read_qd32 5\nbench cpu.fork_exit 2\n"
    with shell(f"{XEN}+interrupts=P") as one, shell(f"{XEN}+interrupts=P") as other:
        one.vm.console.feed(commands)
        start = one.vm.snapshot()
        straight = one.run(), one.vm.ledger.totals(), one.vm.now
        one.vm.restore(start)
        here, there = one, other
        for _ in range(8):
            here.vm.run(here.vm.now + 170_000 * MILLI)
            there.vm.restore(here.vm.snapshot())
            here, there = there, here
        assert (here.run(), here.vm.ledger.totals(), here.vm.now)[1:] == straight[1:]
