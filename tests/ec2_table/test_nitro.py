"""Row `nitro`: under hardware assistance only what the hypervisor must see exits: CPUID, a port, a cold frame."""

from __future__ import annotations

import pytest

from tests.ec2_table.measuring import CPU_OPERATIONS, measure, measure_table

# Exits of one operation, by reason (DESIGN.md, section 6). Those that are not here have none.
EXITS = {"cpuid": {"cpuid": 1}, "in": {"ioio": 1}}


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_an_operation_exits_only_for_its_reason(op: str) -> None:
    result = measure("nitro", op)
    expected = {reason: count * result.iterations for reason, count in EXITS.get(op, {}).items()}
    assert result.exits == expected
    assert result.exits_per_op == sum(EXITS.get(op, {}).values())


@pytest.mark.parametrize("iterations", [1, 10, 250])
def test_a_cold_page_fault_is_one_nested_page_fault_and_nothing_else(iterations: int) -> None:
    table = measure_table("nitro", "cpu.page_fault", iterations=iterations, cold=True)
    result = table.rows[0].ops["cpu.page_fault"]
    assert result.exits == {"npf": iterations}  # type: ignore[union-attr]
    assert result.exits_per_op == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize("op", sorted(set(CPU_OPERATIONS) - {"page_fault"}))
def test_the_first_round_of_other_operations_exits_as_the_second_does(op: str) -> None:
    """Their frames are all backed before the marks."""
    assert measure("nitro", op, cold=True).exits == measure("nitro", op).exits


@pytest.mark.parametrize("op", sorted(set(CPU_OPERATIONS) - {"cpuid", "in"}))
def test_where_nothing_exits_the_silicon_does_what_it_does_on_metal(op: str) -> None:
    nitro, metal = measure("nitro", op), measure("metal", op)
    assert nitro.assists == metal.assists


@pytest.mark.parametrize("op", ["cpuid", "in"])
def test_what_exits_is_the_hypervisor_s_work_and_no_assist(op: str) -> None:
    result = measure("nitro", op)
    assert result.assists == {}


@pytest.mark.parametrize("op", ["page_fault", "protection_fault", "mmap_unmap", "context_switch", "fork_exit"])
def test_two_dimensional_page_walks_cost_cycles_without_exits(op: str) -> None:
    """Each of these makes the TLB forget; a walk under nested paging takes more memory references."""
    assert measure("nitro", op).cycles_per_op > measure("metal", op).cycles_per_op


def test_an_exit_costs_more_than_the_instruction_on_metal() -> None:
    assert measure("nitro", "cpuid").cycles_per_op > 5 * measure("metal", "cpuid").cycles_per_op
