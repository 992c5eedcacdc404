"""The columns local and remote of real cards: NVMe drives that the guest owns, or has a virtual function of."""

from __future__ import annotations

import pytest

from hv.host.store import MemoryStore
from hv.ops import OPS
from tests.ec2_table.measuring import measure_table
from tests.ec2_table.shell import check_continued, shell
from tests.ec2_table.test_disks import DISK_OPERATIONS, operation
from tests.ec2_table.test_where_code_runs import watching

ROWS = ("nitro", "aws-metal", "metal")
EMULATED_INTERRUPTS = "nitro+interrupts=VS"
# There the function's interrupt is a physical one, and the emulated local APIC wants to hear of its end.
ONE = {"external_interrupt": 1, "mmio": 1}
# hv/host: what is behind the drives, and at the other end of the network card's line.
OUTSIDE = (
    "store.py",
    "nbd.py",
    "nbd_protocol.py",
    "nbd_server.py",
    "wire.py",
    "peer.py",
    "pcap.py",
    "wire.py",
    "aoe.py",
)


@pytest.mark.parametrize("op", DISK_OPERATIONS)
def test_with_posted_interrupts_nothing_exits(op: str) -> None:
    result = operation(measure_table("nitro", "local.*,remote.*").rows[0], op)
    assert result.exits == {}
    assert result.assists["posted_interrupt"] <= result.assists["virtual_interrupt"] == result.assists["apic_access"]


@pytest.mark.parametrize("op", DISK_OPERATIONS)
def test_a_virtual_function_exits_for_its_interrupt_only(op: str) -> None:
    result = operation(measure_table(EMULATED_INTERRUPTS, "local.*,remote.*").rows[0], op)
    if op.endswith("qd32"):
        # While one interrupt is handled, the next ones come and wait; several end as one.
        assert result.exits["external_interrupt"] == result.iterations
        assert set(result.exits) <= {"external_interrupt", "interrupt_window", "mmio"}
        assert result.exits["mmio"] <= result.iterations
    else:
        assert result.exits == {reason: n * result.iterations for reason, n in ONE.items()}


@pytest.mark.parametrize("row", ["aws-metal", "metal"])
@pytest.mark.parametrize("op", DISK_OPERATIONS)
def test_on_metal_nothing_exits(row: str, op: str) -> None:
    result = operation(measure_table(row, "local.*,remote.*").rows[0], op)
    assert result.exits == {}
    if (row, op.partition(".")[0]) != ("metal", "remote"):  # that one is software of the guest's, over its network card
        assert result.assists["mmio"] == 3 * result.iterations or op.endswith("qd32")  # two doorbells, and the EOI


@pytest.mark.parametrize("row", ROWS)
def test_results_are_those_of_emulated_disks(row: str) -> None:
    ours, theirs = (measure_table(r, "local.*,remote.*", seed=1).rows[0] for r in (row, "emulated"))
    for op in DISK_OPERATIONS:
        assert operation(ours, op).result == operation(theirs, op).result


@pytest.mark.parametrize("disk", ["local", "remote"])
def test_each_row_is_faster_than_the_one_above(disk: str) -> None:
    order = ("emulated", "nitro+local=VS+remote=VS", *ROWS[:2])
    rows = [measure_table(row, "local.*,remote.*").rows[0] for row in order]
    for op in ("read4k", "write4k", "read_qd32", "flush"):
        cycles = [operation(row, f"{disk}.{op}").cycles_per_op for row in rows]
        assert cycles == sorted(set(cycles), reverse=True)


def test_nvme_has_a_queue() -> None:
    table = measure_table("nitro", "local.*,remote.*", iterations=32).rows[0]
    one, burst = operation(table, "local.read4k").cycles_per_op, operation(table, "local.read_qd32").cycles_per_op
    assert burst < one / 4


@pytest.mark.parametrize("row", ["nitro", "metal"])
def test_native_and_portable_agree(row: str) -> None:
    native, portable = (
        measure_table(row, "remote.read4k", iterations=1, portable=portable) for portable in (False, True)
    )
    assert native == portable


@pytest.mark.parametrize("op", ["local.read4k", "remote.write4k", "local.flush"])
@pytest.mark.parametrize("row", [EMULATED_INTERRUPTS, "nitro", "metal"])
def test_hypervisor_code_runs_only_inside_counted_exits(row: str, op: str) -> None:
    """Between the marks; what lies behind a card is the world outside, and no hypervisor."""
    with watching(row) as (runner, witness):
        runner.run(OPS[op])
        assert witness.windows == 2
        assert [name for name in witness.outside if name.split(":")[0] not in OUTSIDE] == []
        assert bool(witness.inside) == bool(witness.doors) == (row == EMULATED_INTERRUPTS)


@pytest.mark.parametrize("row", ["nitro", "metal"])
@pytest.mark.parametrize("cut", [1_000_000, 2_500_000, 3_333_333])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(row: str, cut: int) -> None:
    with shell(row) as one, shell(row) as other:
        one.vm.console.feed(b"bench local.read_qd32 64\nbench remote.write4k 20\n")
        check_continued(one, other, cut * 1000)


@pytest.mark.parametrize("row", ROWS)
def test_a_read_only_drive_refuses_to_be_written(row: str) -> None:
    store = MemoryStore(4096)
    store.read_only = True
    with shell(row, store) as guest:
        guest.type("write local 3 x")
        assert guest.type("flush local") == "flush: input/output error\n"
    assert store.pages == {}


def test_the_guest_says_which_drives_it_found() -> None:
    with shell("nitro") as guest:
        text = guest.type("disks")
        assert "Amazon EC2 NVMe Instance Storage" in text
        assert "Amazon Elastic Block Store" in text
