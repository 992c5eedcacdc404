"""Rows `aws-2013` and `aws-2017`: as `xen-hvm-4`, but network, and then local disks, are functions of real cards.

Their interrupts come to the hypervisor, which makes events of them: one exit each, none to end them, none to submit.
"""

from __future__ import annotations

import pytest

from hv.measure import NotThere, OpResult
from hv.ops import OPS
from tests.ec2_table.measuring import measure_table

KICK, EVENT = "hypercall.event_channel_op", "external_interrupt"
DIRECT, SPLIT = {EVENT: 1}, {KICK: 1, EVENT: 1}
NET = {"net.tx": {EVENT: 1}, "net.rx": {EVENT: 1}, "net.rr": {EVENT: 2}}
DISK = ("read4k", "write4k", "flush")
EXITS = {
    "aws-2013": NET | {f"{disk}.{op}": SPLIT for disk in ("local", "remote") for op in DISK},
    "aws-2017": NET | {f"local.{op}": DIRECT for op in DISK} | {f"remote.{op}": SPLIT for op in DISK},
}
CASES = [(row, op) for row, exits in EXITS.items() for op in exits]
BOTH = pytest.mark.parametrize("row", EXITS)


def ops(row: str) -> dict[str, OpResult | NotThere]:
    return measure_table(row, "net.*,local.*,remote.*,interrupts.*,boot.boot", iterations=4).rows[0].ops


def result(row: str, op: str) -> OpResult:
    found = ops(row)[op]
    assert isinstance(found, OpResult)
    return found


@BOTH
def test_no_column_is_blank(row: str) -> None:
    assert {op.partition(".")[0] for op in ops(row)} == {"net", "local", "remote", "interrupts", "boot"}
    absent = [op for op, found in ops(row).items() if isinstance(found, NotThere)]
    assert absent == ["interrupts.eoi"]


@pytest.mark.parametrize(("row", "op"), CASES)
def test_an_operation_exits_for_its_reasons(row: str, op: str) -> None:
    found = result(row, op)
    assert found.exits == {reason: n * found.iterations for reason, n in EXITS[row][op].items()}


@BOTH
@pytest.mark.parametrize("op", ["net.tx_burst", "local.read_qd32", "remote.read_qd32", "interrupts.device_irq"])
def test_each_interrupt_is_one_exit_without_an_end(row: str, op: str) -> None:
    found = result(row, op)
    assert found.exits.keys() <= {EVENT, KICK}
    assert found.exits[EVENT] <= found.iterations


@pytest.mark.parametrize("op", [op for op in OPS if op.startswith(("net.", "local.", "remote."))])
def test_the_guest_computes_the_same_in_both(op: str) -> None:
    assert result("aws-2013", op).result == result("aws-2017", op).result
