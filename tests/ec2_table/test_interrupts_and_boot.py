"""The columns interrupts and boot: DESIGN's table of exits, results, and where the reasons come from."""

from __future__ import annotations

import pytest

from hv.measure import NotThere, OpResult, RowResult
from hv.ops import OPS, select
from tests.ec2_table.measuring import measure_table

INTERRUPTS = [id.partition(".")[2] for id, op in OPS.items() if op.column == "interrupts"]
BOOT = [id.partition(".")[2] for id, op in OPS.items() if op.column == "boot"]
METAL, UNDER_HW, DEPRIVILEGED = "metal", "nitro+net=VS+interrupts=VS", "emulated+cpu=trap-and-emulate"
EVERYWHERE = [METAL, UNDER_HW, DEPRIVILEGED]

# One register access is one exit: `mmio` the local APIC's, `ioio` a port's. A deprivileged kernel also traps when it
# returns from its handler (`iret`) and when it changes IF (`sti`, `cli`).
EXITS = {
    "timer_tick": {"mmio": 2, "external_interrupt": 1},  # arm, expiry, end of interrupt
    "device_irq": {"external_interrupt": 1, "mmio": 2},  # the frame's arrival, the card's cause register, EOI
    "ipi": {"mmio": 2, "external_interrupt": 1},  # the command, its arrival, end of interrupt
    "eoi": {"mmio": 1},
    "hlt_wake": {"mmio": 2, "hlt": 1},  # a CPU that sleeps is not interrupted: it is woken
}
MORE_WHEN_DEPRIVILEGED = {
    "timer_tick": {"iret": 1},
    "device_irq": {"iret": 1},
    "ipi": {"iret": 1},
    "eoi": {},
    "hlt_wake": {"iret": 1, "sti": 1, "cli": 1},
}


def measured(where: str, iterations: int = 4, seed: int = 0, portable: bool = False) -> RowResult:
    return measure_table(
        where, "interrupts.*,boot.*", iterations=iterations, seed=seed, portable=portable
    ).rows[0]  # fmt: skip


def results(where: str, iterations: int = 4, seed: int = 0, portable: bool = False) -> dict[str, OpResult]:
    ops = measured(where, iterations, seed, portable).ops
    return {id: op for id, op in ops.items() if isinstance(op, OpResult)}


@pytest.mark.parametrize("where", EVERYWHERE)
def test_every_operation_is_there(where: str) -> None:
    row = measured(where)
    assert list(row.ops) == [op.id for op in select("interrupts.*,boot.*")]
    absent = {op for op, result in row.ops.items() if isinstance(result, NotThere)}
    assert absent == (set() if "net" in row.modes else {"interrupts.device_irq"})


@pytest.mark.parametrize("op", [*(f"interrupts.{op}" for op in INTERRUPTS), *(f"boot.{op}" for op in BOOT)])
def test_on_metal_nothing_exits(op: str) -> None:
    result = measured(METAL).ops[op]
    assert isinstance(result, NotThere) or result.exits == {}


@pytest.mark.parametrize("op", INTERRUPTS)
def test_emulated_interrupts_exit_for_their_reasons(op: str) -> None:
    assert results(UNDER_HW)[f"interrupts.{op}"].exits == {reason: 4 * n for reason, n in EXITS[op].items()}
    more = {**EXITS[op], **MORE_WHEN_DEPRIVILEGED[op]}
    assert results(DEPRIVILEGED)[f"interrupts.{op}"].exits == {reason: 4 * n for reason, n in more.items()}


@pytest.mark.parametrize("where", EVERYWHERE[1:])
def test_a_boot_exits_thousands_of_times_and_most_of_it_is_ports(where: str) -> None:
    boot = results(where)["boot.boot"]
    assert boot.iterations == 1
    assert 1000 < boot.exits_per_op < 20_000
    assert boot.exits["ioio"] > boot.exits_per_op / 2


@pytest.mark.parametrize("where", EVERYWHERE[1:])
def test_a_configuration_register_read_is_two_port_accesses(where: str) -> None:
    """The address, then the data. 32 slots, the functions that are there, and a bridge's eight."""
    assert results(where)["boot.pci_scan"].exits == {"ioio": results(where)["boot.pci_scan"].exits_per_op}
    assert results(where)["boot.pci_scan"].exits_per_op % 2 == 0


def test_results_are_equal_across_rows_and_differ_between_seeds_and_operations() -> None:
    for where in EVERYWHERE[1:]:
        assert {id: op.result for id, op in results(METAL).items()}.items() <= {
            id: op.result for id, op in results(where).items()
        }.items()
    seen = {op.result for seed in (0, 1) for op in results(UNDER_HW, seed=seed).values()}
    assert len(seen) == 2 * len(results(UNDER_HW))


def test_without_microcode_the_numbers_are_the_same() -> None:
    assert results(UNDER_HW, iterations=1, portable=True) == results(UNDER_HW, iterations=1)
