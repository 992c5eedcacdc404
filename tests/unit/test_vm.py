"""A virtual machine as a whole: boot, input, budgets, snapshots, and two at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hv.costs import CostModel
from hv.loader import Guest
from hv.mode import Mode
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Ended, Idle, Paused
from hv.vm import Vm
from modes.bare_metal import BareMetal
from modes.hw_assist.mode import HwAssist

MODES = [pytest.param(BareMetal, id="metal"), pytest.param(HwAssist, id="nitro")]
BENCH = b"bench cpu.fork_exit 3\n"
MakeVm = Callable[..., Vm]


@pytest.fixture
def make_vm(guest: Guest, costs: CostModel) -> Iterator[MakeVm]:
    """make_vm(mode): a VM that is closed at the end of the test."""
    made: list[Vm] = []

    def make(mode: type[Mode], mib: int = 16) -> Vm:
        made.append(Vm(mode, guest, costs, mib=mib))
        return made[-1]

    yield make
    for vm in made:
        vm.close()


def type_line(vm: Vm, line: bytes) -> str:
    """Type a line at the prompt; what the guest answers."""
    vm.console.feed(line)
    assert isinstance(vm.run(), Idle)
    return vm.console.take()


@pytest.mark.parametrize("mode", MODES)
def test_it_boots_to_its_prompt_and_then_waits(mode: type[Mode], make_vm: MakeVm) -> None:
    vm = make_vm(mode)
    assert isinstance(vm.run(), Idle)
    assert vm.console.take().endswith("hv> ")
    before = vm.now
    assert isinstance(vm.run(), Idle)
    assert vm.now == before  # nothing happens while nothing happens


@pytest.mark.parametrize("mode", MODES)
def test_input_that_comes_in_pieces_is_the_same_input(mode: type[Mode], make_vm: MakeVm) -> None:
    whole, pieces = make_vm(mode), make_vm(mode)
    for vm in (whole, pieces):
        vm.run()
        vm.console.take()
    text = type_line(whole, b"echo abcdefghijklmnopqrstuvwxyz\n")
    other = "".join(type_line(pieces, bytes([byte])) for byte in b"echo abcdefghijklmnopqrstuvwxyz\n")
    assert text == other
    assert text.splitlines()[1] == "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_pauses_it_and_the_pauses_leave_no_trace(mode: type[Mode], make_vm: MakeVm) -> None:
    """The end of a slice is never an exit, nor counted anywhere."""
    straight, paused = make_vm(mode), make_vm(mode)
    straight.run()
    pauses = 0
    while not isinstance(outcome := paused.run(paused.now + 50_000 * MILLI), Idle):
        assert isinstance(outcome, Paused)
        pauses += 1
    assert pauses > 5
    assert paused.console.take() == straight.console.take()
    assert paused.ledger.totals() == straight.ledger.totals()
    assert paused.now == straight.now
    assert paused.machine.cpus[0].m.retired == straight.machine.cpus[0].m.retired


@pytest.mark.parametrize("mode", MODES)
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(mode: type[Mode], make_vm: MakeVm) -> None:
    straight, copied = make_vm(mode), make_vm(mode)
    straight.run()
    straight.console.take()
    saved = straight.snapshot()
    said = type_line(straight, BENCH)
    copied.restore(saved)
    assert type_line(copied, BENCH) == said
    assert copied.ledger.state == straight.ledger.state
    assert copied.machine.probe.state == straight.machine.probe.state
    assert copied.now == straight.now
    assert copied.snapshot().machine.memory == straight.snapshot().machine.memory


@pytest.mark.parametrize("mode", MODES)
def test_a_snapshot_may_be_taken_in_the_middle_of_an_operation(mode: type[Mode], make_vm: MakeVm) -> None:
    straight, copied = make_vm(mode), make_vm(mode)
    straight.run()
    straight.console.take()
    straight.console.feed(BENCH)
    start = straight.now
    assert isinstance(straight.run(start + 60_000 * MILLI), Paused)
    saved = straight.snapshot()
    straight.console.take()
    straight.run()
    copied.restore(saved)
    copied.run()
    rest = straight.console.take()
    assert "result=" in rest
    assert copied.console.take() == rest
    assert copied.machine.probe.state == straight.machine.probe.state
    assert copied.ledger.state == straight.ledger.state


def test_input_that_the_guest_has_not_read_is_in_the_snapshot(make_vm: MakeVm) -> None:
    vm = make_vm(BareMetal)
    vm.run()
    vm.console.take()
    vm.console.feed(b"echo later\n")
    saved = vm.snapshot()
    vm.run()
    first = vm.console.take()
    vm.restore(saved)
    vm.run()
    assert vm.console.take() == first
    assert "later\r\n" in first


def test_a_snapshot_stays_as_it_is_while_the_machine_runs_on(make_vm: MakeVm) -> None:
    vm = make_vm(HwAssist)
    vm.run()
    vm.console.take()
    saved = vm.snapshot()
    said = [type_line(vm, BENCH)]
    for _ in range(2):
        vm.restore(saved)
        said.append(type_line(vm, BENCH))
    assert said[0] == said[1] == said[2]
    assert "result=" in said[0]


def test_two_machines_side_by_side_do_not_disturb_each_other(make_vm: MakeVm) -> None:
    alone = make_vm(HwAssist)
    alone.run()
    expected = alone.console.take() + type_line(alone, BENCH)
    metal, nitro = make_vm(BareMetal), make_vm(HwAssist)
    for vm in (metal, nitro):
        vm.console.feed(BENCH)
    outcomes = {id(vm): vm.run(0) for vm in (metal, nitro)}
    while not all(isinstance(outcome, Idle) for outcome in outcomes.values()):
        for vm in (metal, nitro):
            outcomes[id(vm)] = vm.run(vm.now + 30_000 * MILLI)
    assert nitro.console.take() == expected
    assert nitro.ledger.totals() == alone.ledger.totals()
    assert metal.ledger.totals() == {}


@pytest.mark.parametrize("mode", MODES)
def test_power_off_is_an_end_that_lasts(mode: type[Mode], make_vm: MakeVm) -> None:
    vm = make_vm(mode)
    vm.run()
    vm.console.feed(b"poweroff\n")
    outcome = vm.run()
    assert isinstance(outcome, Ended)
    assert outcome.cause == "power-off"
    assert vm.run() == outcome


def test_backed_memory_costs_one_nested_page_fault_a_page(make_vm: MakeVm) -> None:
    """No page is backed twice: there are no more npf exits than pages."""
    vm = make_vm(HwAssist)
    vm.run()
    type_line(vm, BENCH)
    type_line(vm, b"echo\n")  # what it takes is touched now, its code among it
    counted = vm.ledger.totals()["npf"]
    assert 0 < counted <= 16 * 256
    type_line(vm, b"echo\n")
    assert vm.ledger.totals()["npf"] == counted
