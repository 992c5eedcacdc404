"""Interrupts in hardware: row `nitro`, and its variant `avic`. DESIGN's table of exits, and who does what instead."""

from __future__ import annotations

import pytest

from hv.measure import OpResult
from hv.ops import OPS
from tests.ec2_table.measuring import measure_table
from tests.ec2_table.test_where_code_runs import watching

NITRO, AVIC, EMULATED = "nitro", "nitro+interrupts=avic", "nitro+interrupts=VS"
# What such hardware leaves to the hypervisor: arming a timer, its expiry, HLT, and interrupts to other CPUs.
EXITS = {
    "timer_tick": {"apic_write": 1, "external_interrupt": 1},
    "ipi": {"apic_write": 1},
    "eoi": {},
    "hlt_wake": {"apic_write": 1, "hlt": 1},
}


def measured(row: str, op: str) -> OpResult:
    table = measure_table(row, "interrupts.*", iterations=4)
    result = table.rows[0].ops[f"interrupts.{op}"]
    assert isinstance(result, OpResult)
    return result


@pytest.mark.parametrize("op", EXITS)
@pytest.mark.parametrize("row", [NITRO, AVIC])
def test_what_is_left_to_exit(row: str, op: str) -> None:
    expected = {} if (row, op) == (AVIC, "ipi") else EXITS[op]
    assert measured(row, op).exits == {reason: 4 * n for reason, n in expected.items()}


@pytest.mark.parametrize("op", EXITS)
def test_results_are_those_of_emulated_interrupts_and_exits_are_fewer(op: str) -> None:
    posted, emulated = measured(NITRO, op), measured(EMULATED, op)
    assert posted.result == emulated.result
    assert posted.exits_per_op < emulated.exits_per_op
    assert posted.cycles_per_op <= emulated.cycles_per_op


def test_the_silicon_does_what_the_hypervisor_did() -> None:
    assert measured(NITRO, "timer_tick").assists == {"apic_access": 8, "virtual_interrupt": 4}  # count and EOI
    assert measured(NITRO, "eoi").assists == {"apic_access": 4}
    assert measured(EMULATED, "timer_tick").assists.get("apic_access", 0) == 0


@pytest.mark.parametrize("posting", ["posted-interrupts", "avic"])
def test_beside_split_devices_an_upcall_is_the_platform_device_s_line(posting: str) -> None:
    """Level-triggered: its end exits. All else is the hardware's, and Xen is called for kicks only."""
    row = f"nitro+net=P+interrupts={posting}"
    assert measured(row, "device_irq").exits == {"external_interrupt": 4, "virtual_eoi": 4}
    assert measured(row, "timer_tick").exits == {"apic_write": 4, "external_interrupt": 4}
    assert measured(row, "ipi").exits_per_op == (0 if posting == "avic" else 1)
    assert {op: measured(row, op).result for op in EXITS} == {op: measured(NITRO, op).result for op in EXITS}


def test_without_microcode_the_numbers_are_the_same() -> None:
    """Of `avic`, which has all of it; test_drives.py compares `nitro`."""
    native, portable = (
        measure_table(AVIC, "interrupts.*", iterations=1, portable=portable).rows[0].ops for portable in (False, True)
    )
    assert native == portable


@pytest.mark.parametrize(("row", "op"), [(NITRO, "timer_tick"), (NITRO, "ipi"), (NITRO, "eoi"), (AVIC, "ipi")])
def test_hypervisor_code_runs_only_inside_counted_exits(row: str, op: str) -> None:
    with watching(row) as (runner, witness):
        runner.run(OPS[f"interrupts.{op}"])
        assert witness.windows == 2
        assert witness.outside == []
        assert witness.doors == witness.opened
        assert bool(witness.inside) == bool(EXITS[op] and row != AVIC)
