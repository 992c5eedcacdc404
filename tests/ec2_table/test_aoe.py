"""The remote disk as software in the guest: ATA over Ethernet, here over the emulated network card.

The same results as a drive gives, whatever the network loses; a row with a real card is in test_drives.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager

import pytest

from hv.costs import CostModel
from hv.host.aoe import MAC, TYPE
from hv.host.outside import Outside
from hv.host.pcap import Capture
from hv.host.store import MemoryStore, StoreError
from hv.loader import Guest
from hv.measure import OpResult
from hv.mode import Mode
from hv.silicon.timing import MILLI
from hv.vm import Vm
from tests.ec2_table.measuring import measure_table

LIMIT = 2_000_000_000 * MILLI
Shell = Callable[[str], str]
Start = Callable[..., Vm]


@pytest.fixture
def start(modes: Mapping[str, type[Mode]], guest: Guest, costs: CostModel) -> Start:
    """start(): a machine with a network card and no drive of its own. `lose(number)`: does this AoE frame get lost?"""

    def build(
        lose: Callable[[int], bool] = lambda number: False, served: bool = True, remote: MemoryStore | None = None
    ) -> Vm:
        emulated = dict.fromkeys(("net", "interrupts", "boot"), modes["full-emulation"])
        vm = Vm({"cpu": modes["hw-assist"], **emulated}, guest, costs, outside=Outside(remote=remote))
        if served:
            vm.outside.serve_blocks(costs)
        wire = vm.outside.wire
        assert wire is not None
        send, sent = wire.send, iter(range(1 << 30))

        def unreliable(port: int, frame: bytes, at: int) -> None:
            if frame[12:14] != TYPE or not lose(next(sent)):
                send(port, frame, at)

        wire.send = unreliable  # type: ignore[method-assign]
        return vm

    return build


@contextmanager
def shell(vm: Vm) -> Iterator[Shell]:
    """The guest's shell, once it has booted."""

    def say(line: str) -> str:
        vm.console.feed(line.encode() + b"\n")
        vm.run(vm.now + LIMIT)
        text = vm.console.take().replace("\r", "")
        assert text.endswith("hv> "), text
        return text.removeprefix(line + "\n").removesuffix("hv> ")

    with closing(vm):
        vm.run(LIMIT)
        assert vm.console.take().endswith("hv> ")
        yield say


def result(text: str) -> str:
    found = re.search(r"result=(\w+)", text)
    assert found, text
    return found[1]


@pytest.mark.parametrize("op", ["read4k", "write4k", "read_qd32", "flush"])
def test_the_results_are_those_of_a_drive(op: str, start: Start) -> None:
    (row,) = measure_table("emulated", "remote.*", iterations=2, seed=3).rows
    drive = row.ops[f"remote.{op}"]
    assert isinstance(drive, OpResult)
    with shell(start()) as say:
        assert result(say(f"bench remote.{op} 2 3")) == drive.result


def test_what_gets_lost_is_sent_again(start: Start) -> None:
    """Every eleventh frame, questions and answers; also of those that are sent again."""
    results = []
    for lose in (lambda number: False, lambda number: number % 11 == 10):
        with shell(start(lose)) as say:
            results.append([result(say(f"bench remote.{op} 1 0")) for op in ("read_qd32", "write4k")])
    assert results[0] == results[1]


def test_a_network_that_breaks_down_is_an_error_and_no_end(start: Start) -> None:
    down: list[bool] = []
    with shell(start(lambda number: bool(down))) as say:
        down.append(True)
        assert "error" in say("cat remote 2")
        down.clear()
        assert say("cat remote 2").startswith("0000  68 76 20 72 65 6d 6f 74 65")  # "hv remote"


def test_without_a_target_there_is_no_disk(start: Start) -> None:
    with shell(start(served=False)) as say:
        assert "remote" not in say("disks")


def test_the_guest_says_what_it_found(start: Start) -> None:
    with shell(start()) as say:
        assert "remote  hv AoE target, 4096 blocks" in say("disks")


class Noted(Capture):
    """What goes over the wire, kept."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def add(self, frame: bytes, at: int, now: int) -> None:
        self.frames.append(frame)

    def close(self) -> None:
        pass


class Broken(MemoryStore):
    """Sectors from 64 on cannot be read, and none can be written."""

    def read(self, sector: int, count: int) -> bytes:
        if sector + count > 64:
            raise StoreError("gone", sector)
        return super().read(sector, count)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        raise StoreError("gone", sector)


def test_errors_of_the_store_are_the_guest_s_errors(start: Start) -> None:
    with shell(start(remote=Broken(4096))) as say:
        assert "error" not in say("cat remote 7")
        assert "error" in say("cat remote 8")
        say("write remote 3 x")
        assert say("flush remote") == "flush: input/output error\n"


@pytest.mark.parametrize("cut", [300])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(cut: int, start: Start) -> None:
    """Cut in the middle of requests, with frames on their way and the target at work."""
    one, other = start(), start()
    with shell(one), shell(other):
        one.console.feed(b"bench remote.read_qd32 1 0\nbench remote.write4k 2 0\n")
        one.run(one.now + cut * 1000 * MILLI)
        saved = one.snapshot()
        ends = []
        for vm in (one, other):
            if vm is other:
                vm.restore(saved)
            vm.run(vm.now + LIMIT)
            ends.append((vm.now, vm.ledger.totals(), vm.console.take()[-60:]))
        assert ends[0] == ends[1]


def test_a_block_is_asked_for_in_four_pieces(start: Start) -> None:
    vm = start()
    wire = vm.outside.wire
    assert wire is not None
    wire.capture = capture = Noted()
    with shell(vm) as say:
        say("cat remote 1")
    asked = [frame for frame in capture.frames if frame[12:14] == TYPE and not frame[14] & 8]
    assert asked[0][:6] == b"\xff" * 6
    assert all(frame[:6] == MAC for frame in asked[-4:])
    assert [int.from_bytes(frame[28:34], "little") for frame in asked[-4:]] == [8, 10, 12, 14]
