"""What holds across rows, seeds and iterations: equal results, exact sums, and the answers of QEMU."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from hv.measure import OpResult
from tests.ec2_table.measuring import BUILT_ROWS, CPU_OPERATIONS, measure, measure_table, operation

QEMU = {
    (op.removeprefix("cpu."), int(iterations), int(seed)): result
    for line in (Path(__file__).parent / "qemu_results.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for op, iterations, seed, result in [line.split()]
}


def test_the_reference_has_every_operation() -> None:
    assert set(QEMU) == set(itertools.product(CPU_OPERATIONS, (1, 3, 100, 1000), (0, 1)))


@pytest.mark.parametrize(
    ("row", "iterations", "seed"), [("metal", 1, 0), ("metal", 3, 1), ("nitro", 3, 0), ("nitro", 100, 1)]
)
def test_the_guest_computes_what_it_computes_under_qemu(row: str, iterations: int, seed: int) -> None:
    table = measure_table(row, iterations=iterations, seed=seed)
    got = {op: operation(table.rows[0], op).result for op in CPU_OPERATIONS}
    assert got == {op: QEMU[op, iterations, seed] for op in CPU_OPERATIONS}


def test_a_thousand_iterations_compute_what_they_compute_under_qemu() -> None:
    ops = ("syscall", "page_fault", "divzero", "context_switch", "callret")
    table = measure_table("nitro", ",".join(f"cpu.{op}" for op in ops), iterations=1000)
    assert {op: operation(table.rows[0], op).result for op in ops} == {op: QEMU[op, 1000, 0] for op in ops}


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_results_and_instructions_are_equal_across_rows(op: str) -> None:
    nitro, metal = measure("nitro", op), measure("metal", op)
    assert nitro.result == metal.result
    assert nitro.instructions_per_op == metal.instructions_per_op


def test_results_differ_between_seeds_and_operations() -> None:
    seen = [measure("nitro", op, seed=seed).result for op in CPU_OPERATIONS for seed in (0, 1, (1 << 63) - 1)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("row", BUILT_ROWS)
def test_exits_scale_exactly_with_the_iterations(row: str) -> None:
    one = measure_table(row, iterations=1).rows[0]
    for iterations in (10, 250):
        many = measure_table(row, iterations=iterations).rows[0]
        for op in CPU_OPERATIONS:
            single, several = operation(one, op), operation(many, op)
            assert several.exits == {reason: n * iterations for reason, n in single.exits.items()}, op
            assert several.assists == {name: n * iterations for name, n in single.assists.items()}, op


def test_instructions_are_a_constant_for_the_marks_and_a_constant_for_each_iteration() -> None:
    def retired(op: str, iterations: int) -> int:
        result = measure("nitro", op, iterations=iterations)
        total = result.instructions_per_op * iterations
        assert total == pytest.approx(round(total), abs=1e-6)
        return round(total)

    for op in ("syscall", "protection_fault", "mmap_unmap", "cpuid", "irq_mask", "in", "cr8wr", "callret", "ptemod"):
        each = (retired(op, 250) - retired(op, 10)) / 240
        assert retired(op, 10) - retired(op, 1) == 9 * each, op
        assert each > 0


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
def test_the_sum_of_the_exits_is_the_exits_of_all_iterations(cold: bool) -> None:
    for row in BUILT_ROWS:
        for name, result in measure_table(row, cold=cold).rows[0].ops.items():
            assert isinstance(result, OpResult), name
            assert sum(result.exits.values()) == result.exits_per_op * result.iterations
            assert sum(result.assists.values()) == result.assists_per_op * result.iterations
            assert all(count > 0 for count in (*result.exits.values(), *result.assists.values()))


def test_the_path_without_microcode_gives_the_same_cold_page_fault() -> None:
    """The warm operations: test_determinism.py."""
    assert measure_table("nitro", "cpu.page_fault", iterations=3, cold=True, portable=True) == measure_table(
        "nitro", "cpu.page_fault", iterations=3, cold=True
    )


def test_the_numbers_of_an_operation_do_not_depend_on_what_ran_before() -> None:
    together = measure_table("nitro,metal").rows
    for ops in ("cpu.in,cpu.fork_exit", "cpu.callret", "cpu.ptemod,cpu.page_fault"):
        for row, apart in zip(together[::-1], measure_table("metal,nitro", ops).rows, strict=True):
            assert apart.id == row.id
            assert apart.ops == {name: row.ops[name] for name in apart.ops}
