"""Row `aws-2017`: as `xen-hvm-4`, but network and local disks are functions of real cards.

Their interrupts come to the hypervisor, which makes events of them: one exit each, and none to end them.
"""

from __future__ import annotations

import pytest

from hv.measure import OpResult
from tests.ec2_table.measuring import measure_table

EVENT = "external_interrupt"


def result(row: str, op: str) -> OpResult:
    found = measure_table(row, "local.*", iterations=4).rows[0].ops[op]
    assert isinstance(found, OpResult)
    return found


@pytest.mark.parametrize("op", ["local.read4k", "local.write4k", "local.flush"])
def test_a_request_to_the_drive_is_its_interrupt_and_nothing_else(op: str) -> None:
    found = result("aws-2017", op)
    assert found.exits == {EVENT: found.iterations}


def test_a_queue_of_32_has_no_more_interrupts_than_blocks() -> None:
    found = result("aws-2017", "local.read_qd32")
    assert found.exits.keys() == {EVENT}
    assert found.exits_per_op <= 1


@pytest.mark.parametrize("op", ["local.read4k", "local.write4k", "local.read_qd32", "local.flush"])
def test_the_guest_reads_what_a_split_driver_reads(op: str) -> None:
    assert result("aws-2017", op).result == result("aws-2013", op).result
