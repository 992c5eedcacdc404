"""Two guests on one card: each drives its own function, at the same time, as if it were alone."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator

import pytest

from hv.costs import load
from hv.host.outside import Outside
from hv.host.store import MemoryStore
from hv.loader import default_guest, load_guest
from hv.mode import find_modes
from hv.neighbours import Neighbours
from hv.table import machine_modes
from hv.vm import Vm
from tests.conftest import RunHv
from tests.ec2_table.measuring import row_named
from tests.guests.test_assignment import DriveGuest

ROWS = ("nitro", "nitro+interrupts=VS")
OPERATIONS = (
    "net.tx", "net.rx", "net.rr", "net.tx_burst", "local.read4k", "local.write4k", "local.flush", "remote.read4k",
    "remote.flush",
)  # fmt: skip


def built(neighbours: Neighbours, row: str) -> list[Vm]:
    modes = machine_modes(row_named(row), find_modes())
    guest = load_guest(default_guest())
    return [Vm(modes, guest, load(), outside=outside, neighbours=neighbours) for outside in neighbours.outsides]


@contextlib.contextmanager
def side_by_side(count: int, row: str = "nitro") -> Iterator[tuple[Neighbours, list[Vm]]]:
    neighbours = Neighbours([Outside(local=MemoryStore(4096, "local")) for _ in range(count)])
    vms = built(neighbours, row)
    neighbours.run()
    for vm in vms:
        assert vm.console.take().endswith("hv> ")
    try:
        yield neighbours, vms
    finally:
        for vm in vms:
            vm.close()


def exits_of(vm: Vm) -> list[dict[str, int]]:
    """Of each round of each operation, by reason. Before them is the boot, in which the first guest's CPU also hears of
    what the others ask the network card's owner."""
    windows = [2 * number + 1 for number in range(1, len(vm.machine.probe.windows))]
    return [{reason: tally.count for reason, tally in vm.ledger.tallies(window).items()} for window in windows]


def work(count: int, row: str) -> tuple[list[list[dict[str, int]]], list[str]]:
    """All operations in each of so many guests: exits, and what they print without the cycles."""
    with side_by_side(count, row) as (neighbours, vms):
        for vm in vms:
            vm.console.feed("".join(f"bench {op} 5 0\n" for op in OPERATIONS).encode())
        neighbours.run()
        texts = [vm.console.take() for vm in vms]
        words = [" ".join(word for word in text.split() if not word.startswith("cycles=")) for text in texts]
        return [exits_of(vm) for vm in vms], words


@pytest.mark.parametrize("row", ROWS)
def test_two_guests_at_the_same_time_exit_as_one_alone_does_and_get_the_same_results(row: str) -> None:
    alone, printed = work(1, row)
    together, both = work(2, row)
    assert together == [alone[0], alone[0]]
    assert both == [printed[0], printed[0]]
    assert printed[0].count("result=") == len(OPERATIONS)
    assert len(alone[0]) == 2 * len(OPERATIONS)


def test_each_has_its_own_blocks() -> None:
    with side_by_side(2) as (neighbours, vms):
        for number, vm in enumerate(vms):
            vm.console.feed(f"write local 5 guest {number}\nflush local\n".encode())
        neighbours.run()
        for number, vm in enumerate(vms):
            store = vm.outside.local
            assert store.read(40, 1).startswith(f"guest {number}\n".encode())


def test_cards_outlive_the_guest_in_whose_machine_they_stand() -> None:
    with side_by_side(2) as (neighbours, (first, second)):
        first.console.feed(b"poweroff\n")
        neighbours.run()
        assert first.machine.ended is not None
        second.console.feed(b"ping 10.0.2.2 2\nbench net.rx 5\nping 10.0.2.15 1\n")
        neighbours.run()
        text = second.console.take()
        assert text.count("answer after") == 2
        assert "bench net.rx iterations=5" in text
        assert "nobody has this address" in text


def test_a_guest_that_attacks_leaves_the_other_alone() -> None:
    """One guest's function is turned against the other's memory and the other's namespace, while that one works."""
    outsides = [Outside(local=MemoryStore(4096)) for _ in range(2)]
    neighbours = Neighbours(outsides)
    victim, attacker = DriveGuest(neighbours, outsides[0]), DriveGuest(neighbours, outsides[1])
    victim.vm.machine.memory.write(victim.vm.machine.ram_base + 0x8_0000, b"secret" * 100)
    ours, theirs = victim.driver(), attacker.driver()
    victim.ram[ours.page : ours.page + 512] = b"v" * 512
    assert ours.io(1, 9, 1, ours.page) == 0
    before = victim.ram[0x8_0000:0x9_0000]
    for address in (victim.vm.machine.ram_base + 0x8_0000, 0x8_0000 | 1 << 40):
        assert theirs.io(2, 0, 8, address, namespace=2) == 4
        assert theirs.io(1, 0, 8, address, namespace=2) == 4
    assert theirs.io(2, 9, 1, theirs.page, namespace=1) == 2  # the victim's namespace: not attached
    assert theirs.io(1, 9, 1, theirs.page, namespace=1) == 2
    assert theirs.io(1, 9, 1, 0x8_0000, namespace=2) == 0  # the same address is the attacker's own memory
    assert outsides[1].local.read(9, 1) == bytes(512)
    assert victim.ram[0x8_0000:0x9_0000] == before
    for what in (0x14, 0x15):
        assert theirs.admin(6, what, data=True).status == 2
    assert theirs.admin(0x1C, 7 | 1 << 16).status == 1
    attacker.configure(4 << 3, 0xA8, 0x8000, 2)  # a reset of its own function
    assert ours.io(2, 9, 1, ours.page + 0x1000) == 0
    assert victim.ram[ours.page + 0x1000 : ours.page + 0x1200] == b"v" * 512
    assert victim.faults == []
    assert all(fault.function == (4 << 3) + 2 for fault in attacker.faults)
    assert struct.unpack("<I", attacker.ram[0x1_1008:0x1_100C]) == (1,)
    for guest in (victim, attacker):
        guest.vm.close()


@pytest.mark.parametrize("row", ["nitro", "emulated"])
def test_hv_run_with_two_guests(run_hv: RunHv, row: str) -> None:
    done = run_hv("run", row, "--guests", "2", "-c", "bench local.read4k 5")
    assert done.returncode == 0, done.stderr
    results = [line.split("result=")[1] for line in done.stdout.splitlines() if "result=" in line]
    assert len(results) == 2
    assert results[0] == results[1]
    assert "1| [hv: " in done.stdout
    assert "2| [hv: " in done.stdout


@pytest.mark.parametrize("row", ["xen-pv", "aws-2017", "nitro"])
def test_one_panics_one_powers_off_and_one_computes_on_while_the_last_measures(run_hv: RunHv, row: str) -> None:
    commands = ("crash", "poweroff", "spin", "bench net.rr 3")
    done = run_hv("run", row, "--guests", "4", *(word for command in commands for word in ("-c", command)))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("hv: guest 1: ")
    assert "kernel panicked" in done.stderr
    assert re.search(r"^4\| bench net.rr iterations=3 .* result=\w+$", done.stdout, re.MULTILINE)
    assert re.search(r"^4\| \[hv: \d+ exits", done.stdout, re.MULTILINE)


def test_each_guest_may_have_a_line_of_its_own(run_hv: RunHv) -> None:
    done = run_hv("run", "metal", "--guests", "2", "-c", "echo first", "-c", "echo second")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1| first\n" in done.stdout
    assert "2| second\n" in done.stdout
    assert "[hv:" not in done.stdout  # no operation


@pytest.mark.parametrize(
    "words", [("--guests", "2"), ("--guests", "3", "-c", "ps", "-c", "ps"), ("-c", "ps", "-c", "ps")]
)
def test_several_guests_need_a_command_for_all_or_for_each(run_hv: RunHv, words: tuple[str, ...]) -> None:
    done = run_hv("run", "nitro", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs -c" in done.stderr
