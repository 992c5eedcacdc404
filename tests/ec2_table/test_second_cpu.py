"""The kernel's second CPU: it starts in every mode that can have one, answers, and changes no other exit."""

from __future__ import annotations

from contextlib import closing

import pytest

from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.measure import OpResult
from hv.mode import Mode
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Idle
from hv.vm import Vm
from modes.bare_metal import BareMetal
from modes.full_emulation.mode import TrapAndEmulate
from modes.hw_assist.mode import HwAssist
from modes.hw_assist.shadow import HwShadow
from tests.ec2_table.measuring import measure_table

# Exits of interrupts.ipi, by reason (DESIGN.md, section 6): the sender's command and the end of the interrupt, both
# registers of the local APIC; the interrupt; and what ring 3 adds.
EXITS = {
    "metal": {},
    "nitro+interrupts=VS": {"mmio": 2, "external_interrupt": 1},
    "emulated": {"mmio": 2, "external_interrupt": 1, "iret": 1},
}
MODES = [BareMetal, HwAssist, TrapAndEmulate]
LIMIT = 20_000_000_000 * MILLI


def console(mode: type[Mode], commands: str, smp: int, *, portable: bool = False) -> tuple[str, list[dict[str, int]]]:
    """What the shell says to commands, and the exits of each measured window."""
    with closing(Vm(mode, load_guest(default_guest()), load(), smp=smp, portable=portable)) as vm:
        vm.console.feed(commands.encode())
        assert isinstance(vm.run(LIMIT), Idle)
        windows = [
            {name: tally.count for name, tally in vm.ledger.tallies(2 * number + 1).items()}
            for number in range(len(vm.machine.probe.windows))
        ]
        return vm.console.take().replace("\r", ""), windows


def ipi(row: str, **settings: int) -> OpResult:
    result = measure_table(row, "interrupts.ipi", **settings).rows[0].ops["interrupts.ipi"]
    assert isinstance(result, OpResult)
    return result


@pytest.mark.parametrize("row", EXITS)
@pytest.mark.parametrize("iterations", [1, 10])
def test_an_interrupt_to_another_cpu_exits_for_its_reasons(row: str, iterations: int) -> None:
    exits = ipi(row, iterations=iterations).exits
    wanted = {reason: n * iterations for reason, n in EXITS[row].items()}
    # The answer is seen before the other CPU has returned from its handler: the last return may come too late.
    assert {**exits, "iret": 0} == {**wanted, "iret": 0}
    assert wanted.get("iret", 0) - exits.get("iret", 0) in (0, 1)


def test_the_result_is_equal_across_rows_and_differs_between_seeds() -> None:
    assert len({ipi(row).result for row in EXITS}) == 1
    assert ipi("metal", seed=1).result != ipi("metal").result


@pytest.mark.parametrize("row", EXITS)
def test_it_is_byte_for_byte_the_same_without_the_compiled_microcode(row: str) -> None:
    assert ipi(row, portable=True) == ipi(row)


def test_the_better_technique_takes_less_time() -> None:
    metal, assisted, emulated = (ipi(row).cycles_per_op for row in EXITS)
    assert metal < assisted <= emulated


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


@pytest.mark.parametrize("mode", [*MODES, HwShadow])
def test_with_one_cpu_there_is_no_interrupt_to_another(mode: type[Mode]) -> None:
    said, windows = console(mode, "bench interrupts.ipi 3\nshootdown\n", 1)
    assert "\nbench interrupts.ipi na: this machine has one CPU\n" in said
    assert "\nshootdown: this machine has one CPU\n" in said
    assert windows == []


@pytest.mark.parametrize("mode", MODES)
def test_a_second_cpu_that_sleeps_changes_no_exit(mode: type[Mode]) -> None:
    commands = "".join(f"bench cpu.{op} 5\n" for op in ("syscall", "page_fault", "fork_exit", "mmap_unmap", "cr8wr"))
    assert console(mode, commands, 1)[1] == console(mode, commands, 2)[1]
