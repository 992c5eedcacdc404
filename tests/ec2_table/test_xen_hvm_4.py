"""Row `xen-hvm-4`: hardware virtualizes the CPU; devices and interrupts are Xen's. What must come out: DESIGN.md, 6.

No interrupt's life has an exit to an emulated controller: events come by vector, and so do the timer's and other CPUs'.
"""

from __future__ import annotations

import contextlib

import pytest

from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.measure import NotThere, OpResult
from hv.mode import find_modes
from hv.ops import OPS
from hv.silicon.timing import MILLI
from hv.table import find_row, machine_modes
from hv.vm import Vm
from tests.ec2_table.measuring import measure_table

N = 4
KICK, EVENT, TIMER = "hypercall.event_channel_op", "external_interrupt", "hypercall.set_timer_op"
# Exits of one operation, by reason. Those of the cpu column are nitro's.
EXITS = {
    "cpu.cpuid": {"cpuid": 1}, "cpu.in": {"ioio": 1},
    "net.tx": {KICK: 1, EVENT: 1}, "net.rx": {EVENT: 1}, "net.rr": {KICK: 1, EVENT: 2},
    **{f"{disk}.{op}": {KICK: 1, EVENT: 1} for disk in ("local", "remote") for op in ("read4k", "write4k", "flush")},
    "interrupts.timer_tick": {TIMER: 1, EVENT: 1}, "interrupts.device_irq": {EVENT: 1},
    "interrupts.ipi": {KICK: 1, EVENT: 1}, "interrupts.hlt_wake": {TIMER: 1, "hlt": 1},
}  # fmt: skip
BURSTS = ("net.tx_burst", "local.read_qd32", "remote.read_qd32")
COMPARED = [op for op in EXITS if not op.startswith("cpu.")]
COLD = ("boot.boot", "boot.pci_scan", "boot.timer_calibration")


def ops(row: str, which: str = "*") -> dict[str, OpResult | NotThere]:
    return measure_table(row, which, iterations=N).rows[0].ops


def test_the_row_has_no_blank() -> None:
    assert list(ops("xen-hvm-4")) == list(OPS)
    absent = {id: result.na for id, result in ops("xen-hvm-4").items() if isinstance(result, NotThere)}
    assert absent == {"interrupts.eoi": "an event channel needs no end of interrupt"}


@pytest.mark.parametrize("op", [id for id in OPS if id not in (*BURSTS, *COLD, "interrupts.eoi")])
def test_an_operation_exits_for_its_reasons(op: str) -> None:
    result = ops("xen-hvm-4")[op]
    assert isinstance(result, OpResult)
    assert result.exits == {reason: n * result.iterations for reason, n in EXITS.get(op, {}).items()}


@pytest.mark.parametrize("op", BURSTS)
def test_a_burst_is_a_few_kicks_and_its_answers(op: str) -> None:
    result = ops("xen-hvm-4")[op]
    assert isinstance(result, OpResult)
    assert result.exits.keys() == {KICK, EVENT}
    assert result.exits[KICK] < 0.2 * result.iterations


@pytest.mark.parametrize("op", COMPARED)
def test_the_guest_computes_what_it_does_with_emulated_devices(op: str) -> None:
    mine, emulated = ops("xen-hvm-4")[op], ops("emulated", ",".join(COMPARED))[op]
    assert isinstance(mine, OpResult)
    assert isinstance(emulated, OpResult)
    assert mine.result == emulated.result


def test_the_boot_asks_no_emulated_clock_how_fast_it_runs() -> None:
    """Xen says it, so two milliseconds of polls are missing."""
    boots = [ops(row)["boot.boot"] for row in ("xen-hvm-3", "xen-hvm-4")]
    assert all(isinstance(boot, OpResult) for boot in boots)
    assert boots[0].exits["ioio"] - boots[1].exits["ioio"] > 2000  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", [1_000_000, 4_000_000, 6_500_000])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(cut: int) -> None:
    """Cut in the firmware, in the kernel's start, in an operation: what Xen knows of the guest is all in it."""
    row, modes = find_row("xen-hvm-4"), find_modes()
    guest, costs = load_guest(default_guest()), load()

    def start() -> Vm:
        vm = Vm(machine_modes(row, modes), guest, costs)
        vm.console.feed(b"bench net.rr 3 1\nbench interrupts.ipi 3 1\n")
        return vm

    def end(vm: Vm) -> tuple[int, dict[str, int], str]:
        vm.run()
        return vm.now, vm.ledger.totals(), vm.console.take()

    with contextlib.closing(start()) as vm, contextlib.closing(start()) as other:
        vm.run(cut * MILLI)
        vm.console.take()
        saved = vm.snapshot()
        wanted = end(vm)
        other.run(3_000_000 * MILLI)
        other.restore(saved)
        other.console.take()
        assert end(other) == wanted
        assert wanted[2].count("result=") == 2
