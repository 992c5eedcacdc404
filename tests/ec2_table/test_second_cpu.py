"""The kernel's second CPU: it starts in every mode that can have one, answers, and changes no other exit."""

from __future__ import annotations

import pytest

from hv.measure import OpResult
from hv.mode import Mode
from modes.bare_metal import BareMetal
from modes.full_emulation.mode import TrapAndEmulate
from modes.hw_assist.mode import HwAssist
from modes.hw_assist.shadow import HwShadow
from tests.ec2_table.measuring import console, measure_table

# Exits of interrupts.ipi, by reason (DESIGN.md, section 6): the sender's command and the end of the interrupt, both
# registers of the local APIC; the interrupt; and what ring 3 adds.
EXITS = {
    "metal": {},
    "nitro+interrupts=VS": {"mmio": 2, "external_interrupt": 1},
    "emulated": {"mmio": 2, "external_interrupt": 1, "iret": 1},
}
MODES = [BareMetal, HwAssist, HwShadow, TrapAndEmulate]


def ipi(row: str, **settings: int) -> OpResult:
    result = measure_table(row, "interrupts.ipi", **settings).rows[0].ops["interrupts.ipi"]
    assert isinstance(result, OpResult)
    return result


@pytest.mark.parametrize("row", EXITS)
@pytest.mark.parametrize("iterations", [2, 10, 100])  # one alone does not warm up the way round its loop
def test_an_interrupt_to_another_cpu_exits_for_its_reasons(row: str, iterations: int) -> None:
    assert ipi(row, iterations=iterations).exits == {reason: n * iterations for reason, n in EXITS[row].items()}


def test_the_result_is_equal_across_rows_and_differs_between_seeds() -> None:
    assert len({ipi(row).result for row in EXITS}) == 1
    assert ipi("metal", seed=1).result != ipi("metal").result


@pytest.mark.parametrize("row", EXITS)
def test_it_is_byte_for_byte_the_same_without_the_compiled_microcode(row: str) -> None:
    assert ipi(row, portable=True) == ipi(row)


def test_the_better_technique_takes_less_time() -> None:
    metal, assisted, emulated = (ipi(row).cycles_per_op for row in EXITS)
    assert metal < assisted < emulated


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cpus", [2, 4])
def test_the_kernel_starts_all_cpus(mode: type[Mode], cpus: int) -> None:
    said, _ = console(mode, "cpus\n", cpus)
    assert [line for line in said.split("\n") if line.startswith("CPU ")] == [
        "CPU 0 runs the processes",
        *(f"CPU {number} waits for work" for number in range(1, cpus)),
    ]


@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
@pytest.mark.parametrize("mode", MODES)
def test_the_tlb_shoot_down(mode: type[Mode], portable: bool) -> None:
    said, _ = console(mode, "shootdown\n", 2, portable=portable)
    assert "CPU 1 saw 1111, flushed its TLB 1 times, sees 2222\nshootdown: it works\n" in said


@pytest.mark.parametrize("mode", MODES)
def test_with_one_cpu_there_is_no_interrupt_to_another(mode: type[Mode]) -> None:
    said, windows = console(mode, "bench interrupts.ipi 3\nshootdown\n", 1)
    assert "\nbench interrupts.ipi na: this machine has one CPU\n" in said
    assert "\nshootdown: this machine has one CPU\n" in said
    assert windows == []


@pytest.mark.parametrize("mode", MODES)
def test_a_second_cpu_that_sleeps_changes_no_exit(mode: type[Mode]) -> None:
    commands = "".join(f"bench cpu.{op} 5\n" for op in ("syscall", "page_fault", "fork_exit", "mmap_unmap", "cr8wr"))
    alone, beside = ([round.exits for round in console(mode, commands, cpus)[1]] for cpus in (1, 2))
    assert alone == beside
