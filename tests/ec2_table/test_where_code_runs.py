"""Hypervisor code runs only inside a counted exit, and on metal none runs at all.

The interpreter itself is the witness: between the two marks of an operation it reports every Python function entered,
and every return into one. Functions of hv/silicon, and of the CPU that it wraps, are the hardware.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import unicorn

import hv
from hv.costs import load
from hv.ledger import Ledger
from hv.loader import default_guest, load_guest
from hv.measure import RowRunner, Settings
from hv.mode import find_modes
from hv.ops import OPS
from hv.vcpu import Vcpu
from modes.paravirt.backends.cpu import BackendCpu
from tests.ec2_table.measuring import CPU_OPERATIONS, row_named

ITERATIONS = 5
HARDWARE = (str(Path(hv.__file__).parent / "silicon"), str(Path(unicorn.__file__).parent))
LANGUAGE = (str(Path(contextlib.__file__).parent), "<frozen")  # the standard library acts for whoever calls it
INSTALLED = str(Path(unicorn.__file__).parent.parent)  # may lie below the standard library, but is no part of it
DOOR = Vcpu.dispatch.__code__  # the only way in
NEXT_DOOR = BackendCpu.advance.__code__  # domain 0's CPU: what runs there is not on the guest's
OWN = ("watching.<locals>.switch", "WatchedLedger.open")  # of this file: the marks, and the counter of openings


class WatchedLedger(Ledger):
    """A ledger that counts how often it is opened."""

    opened = 0
    is_open = False

    @property
    def open(self) -> bool:
        return self.is_open

    @open.setter
    def open(self, value: bool) -> None:
        assert not (value and self.is_open), "an exit inside an exit"
        self.is_open = value
        self.opened += value


class Witness:
    """What ran between the marks: names of functions by whether an exit was open."""

    def __init__(self, ledger: WatchedLedger) -> None:
        self.ledger = ledger
        self.hardware: set[str] = set()
        self.inside: set[str] = set()
        self.outside: list[str] = []
        self.doors = 0
        self.windows = 0
        self.opened = 0
        self.beside: set[str] = set()  # what ran on domain 0's CPU
        self.next_door: FrameType | None = None  # while it runs

    def see(self, frame: FrameType, event: str, _: Any) -> None:
        """A profile function: a call enters a frame, a return enters the frame behind it."""
        entered = frame if event == "call" else frame.f_back if event == "return" else None
        if entered is None:
            return
        code = entered.f_code
        if code.co_filename.startswith(LANGUAGE) and not code.co_filename.startswith(INSTALLED):
            return
        name = f"{Path(code.co_filename).name}:{code.co_qualname}"
        if code is NEXT_DOOR and event == "call" and not self.ledger.is_open:
            self.next_door = frame
        if self.next_door is not None:
            self.beside.add(name)
            if frame is self.next_door and event == "return":
                self.next_door = None
        elif code.co_filename.startswith(HARDWARE):
            self.hardware.add(name)
        elif code.co_qualname in OWN:
            pass
        elif self.ledger.is_open:
            self.inside.add(name)
        elif code is DOOR:
            self.doors += event == "call"
        else:
            self.outside.append(name)


@contextlib.contextmanager
def watching(row: str) -> Iterator[tuple[RowRunner, Witness]]:
    """A booted row whose probe turns the witness on and off."""
    settings = Settings(load_guest(default_guest()), load(), ITERATIONS, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hv.vm.Ledger", WatchedLedger)
        runner = RowRunner(row_named(row), find_modes(), settings)
    ledger = runner.vm.ledger
    assert isinstance(ledger, WatchedLedger)
    witness = Witness(ledger)
    probe = runner.vm.machine.probe
    hit = probe.hit

    def switch(which: int, *rest: Any) -> None:
        sys.setprofile(None)
        hit(which, *rest)
        if which == 1:
            witness.opened -= ledger.opened
            sys.setprofile(witness.see)
        else:
            witness.opened += ledger.opened
            witness.windows += 1

    probe.hit = switch  # type: ignore[assignment,method-assign]
    before = sys.getprofile()
    try:
        yield runner, witness
    finally:
        sys.setprofile(before)
        runner.close()


def run_in_exits(runner: RowRunner, witness: Witness, op: str) -> int:
    """Both rounds of an operation. Each door was opened for an exit that was counted; returns how many."""
    runner.run(OPS[op])
    assert witness.windows == 2
    counted = sum(
        tally.count
        for window in (3, 5)  # behind the boot's own
        for tally in runner.vm.ledger.tallies(window).values()
    )
    assert witness.doors == witness.opened == counted
    assert bool(witness.inside) == bool(counted)
    return counted


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_on_metal_everything_that_runs_is_hardware(op: str) -> None:
    with watching("metal") as (runner, witness):
        runner.run(OPS[f"cpu.{op}"])
        assert witness.windows == 2
        assert witness.outside == []
        assert witness.inside == set()
        assert witness.doors == witness.opened == 0
        assert witness.hardware


@pytest.mark.parametrize("op", CPU_OPERATIONS)
def test_under_hw_assist_hypervisor_code_runs_only_inside_counted_exits(op: str) -> None:
    with watching("nitro") as (runner, witness):
        run_in_exits(runner, witness, f"cpu.{op}")
        assert witness.outside == []
        measured = sum(tally.count for tally in runner.vm.ledger.tallies(5).values())  # all pages are backed by then
        assert measured == {"cpuid": 1, "in": 1}.get(op, 0) * ITERATIONS


@pytest.mark.parametrize("op", [op for op in CPU_OPERATIONS if op != "cr8wr"])
def test_under_xen_hypervisor_code_runs_only_inside_counted_exits(op: str) -> None:
    with watching("xen-pv") as (runner, witness):
        run_in_exits(runner, witness, f"cpu.{op}")
        assert witness.outside == []


@pytest.mark.parametrize("op", ["interrupts.timer_tick", "interrupts.ipi", "cpu.cpuid"])
@pytest.mark.parametrize("row", ["xen-hvm-3", "xen-hvm-4", "xen-hvm-4+cpu=hw-shadow"])
def test_xen_beside_a_pc_runs_only_inside_counted_exits(row: str, op: str) -> None:
    with watching(row) as (runner, witness):
        assert run_in_exits(runner, witness, op) > 0
        assert set(witness.outside) <= {"cpu.py:BackendCpu.advance"}  # domain 0's CPU, which has nothing to do here


@pytest.mark.parametrize("op", CPU_OPERATIONS)
@pytest.mark.parametrize("row", ["emulated", "nitro+cpu=hw-shadow"])
def test_over_shadow_tables_hypervisor_code_runs_only_inside_counted_exits(row: str, op: str) -> None:
    with watching(row) as (runner, witness):
        run_in_exits(runner, witness, f"cpu.{op}")
        assert witness.outside == []


@pytest.mark.parametrize("op", ["local.read4k", "remote.write4k", "remote.flush"])
@pytest.mark.parametrize("row", ["emulated", "nitro+local=VS+remote=VS"])
def test_emulated_disks_work_only_inside_counted_exits(row: str, op: str) -> None:
    with watching(row) as (runner, witness):
        assert run_in_exits(runner, witness, op) > 0
        assert set(witness.outside) <= {"cpu.py:BackendCpu.advance"}  # domain 0's CPU, which has nothing to do here


@pytest.mark.parametrize("op", ["tx", "rx", "rr", "tx_burst"])
@pytest.mark.parametrize("row", ["emulated", "nitro+net=VS"])
def test_an_emulated_card_and_its_wire_act_only_inside_counted_exits(row: str, op: str) -> None:
    with watching(row) as (runner, witness):
        runner.run(OPS[f"net.{op}"])
        assert witness.windows == 2
        assert witness.doors == witness.opened > 0
        assert witness.outside == []
        assert any("wire.py" in name for name in witness.inside)


@pytest.mark.parametrize(
    ("row", "op"),
    [
        ("xen-pv", "net.rr"), ("xen-pv", "net.tx_burst"), ("xen-pv", "remote.write4k"), ("xen-hvm-4", "net.rr"),
        ("xen-hvm-4", "local.read_qd32"), ("xen-hvm-4+cpu=hw-shadow", "net.rr"),
    ],
)  # fmt: skip
def test_a_back_end_works_on_domain_0_s_cpu_and_not_in_the_guest_s_time(row: str, op: str) -> None:
    with watching(row) as (runner, witness):
        runner.run(OPS[op])
        assert witness.windows == 2
        assert witness.doors == witness.opened > 0
        assert witness.outside == []
        works = "netback.py:Netback.advance" if op.startswith("net") else "blkback.py:Blkback.advance"
        assert any(name.startswith(works) for name in witness.beside)
        back_ends = {
            name.removesuffix(".<locals>.<genexpr>") for name in witness.inside if "back" in name.split(".")[0]
        }
        assert back_ends == {
            "backend.py:RingBackend.kicked", "backend.py:RingBackend.deadline",
            "netback.py:Netback.next_done", "blkback.py:Blkback.next_done",
        }, "in the guest's time they are only kicked, and asked when they have work next"  # fmt: skip


def test_the_witness_sees_a_stranger_on_metal() -> None:
    """So that the tests above can fail: a port that is answered from here."""
    with watching("metal") as (runner, witness):

        class Stranger:
            def port_read(self, offset: int, size: int) -> int:
                return 0

            def port_write(self, offset: int, size: int, value: int) -> None:
                raise AssertionError

        runner.vm.machine.ports.add(0x80, 1, Stranger())
        runner.run(OPS["cpu.in"])
        strangers = [name for name in witness.outside if "Stranger.port_read" in name]
        assert len(strangers) == 2 * (ITERATIONS)
