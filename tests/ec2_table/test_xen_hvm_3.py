"""Row `xen-hvm-3`: as `xen-hvm-4`, but timer, interrupts and messages between CPUs are the emulated controllers'.

The split drivers' events come by the pin of Xen's platform device: an interrupt as any other, which the guest ends.
"""

from __future__ import annotations

import pytest

from hv.measure import NotThere, OpResult
from hv.ops import OPS
from tests.ec2_table.test_xen_hvm_4 import BURSTS, COLD, EVENT, EXITS, ops

END = "mmio"
# What the emulated controllers add or replace.
EMULATED = {
    "interrupts.timer_tick": {END: 2, EVENT: 1}, "interrupts.ipi": {END: 2, EVENT: 1}, "interrupts.eoi": {END: 1},
    "interrupts.hlt_wake": {END: 2, "hlt": 1},
}  # fmt: skip


def result(row: str, op: str) -> OpResult:
    found = ops(row)[op]
    assert isinstance(found, OpResult)
    return found


def test_the_row_has_no_blank() -> None:
    assert list(ops("xen-hvm-3")) == list(OPS)
    assert not any(isinstance(op, NotThere) for op in ops("xen-hvm-3").values())


@pytest.mark.parametrize("op", EMULATED)
def test_interrupts_are_the_emulated_controllers(op: str) -> None:
    found = result("xen-hvm-3", op)
    assert found.exits == {reason: n * found.iterations for reason, n in EMULATED[op].items()}


@pytest.mark.parametrize("op", [op for op in EXITS if op.startswith(("net.", "local.", "remote."))])
def test_each_event_of_a_device_costs_one_exit_more_its_end(op: str) -> None:
    mine, other = result("xen-hvm-3", op), result("xen-hvm-4", op)
    assert mine.exits == {**other.exits, END: other.exits[EVENT]}


@pytest.mark.parametrize("op", BURSTS)
def test_in_bursts_too(op: str) -> None:
    found = result("xen-hvm-3", op)
    assert found.exits[END] == found.exits[EVENT]


def test_a_device_s_interrupt_is_two_exits_or_more() -> None:
    assert result("xen-hvm-3", "interrupts.device_irq").exits_per_op >= 2


@pytest.mark.parametrize("op", [op for op in OPS if op.startswith("cpu.")])
def test_the_cpu_column_is_the_same(op: str) -> None:
    mine, other = result("xen-hvm-3", op), result("xen-hvm-4", op)
    assert (mine.exits, mine.instructions_per_op, mine.result) == (other.exits, other.instructions_per_op, other.result)


@pytest.mark.parametrize("op", [op for op in OPS if op not in (*COLD, "interrupts.eoi")])
def test_the_guest_computes_the_same(op: str) -> None:
    assert result("xen-hvm-3", op).result == result("xen-hvm-4", op).result
