"""The column net with the emulated card: what each packet exits for, equal results, ping, captures, snapshots."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hv.costs import CostModel, load
from hv.loader import Guest, default_guest, load_guest
from hv.measure import OpResult, RowRunner, Settings
from hv.mode import find_modes
from hv.silicon.x86_64.machine import Idle
from hv.vm import Vm
from modes.hw_assist.mode import HwAssist
from tests.conftest import RunHv
from tests.ec2_table.measuring import measure_table, row_named
from tests.ec2_table.shell import check_paused

ROWS = ("nitro+net=VS+interrupts=VS", "nitro+cpu=hw-shadow+net=VS+interrupts=VS", "emulated")
OPERATIONS = ("tx", "rx", "rr", "tx_burst")
# Accesses to the card and to the local APIC for each packet, whoever runs the CPU: the doorbell; the interrupt's cause
# read; its end; buffers given back. An echo is one packet out and one in. In a burst, the first three a burst of 32.
ACCESSES = {"tx": 3, "rx": 3, "rr": 6}
ARRIVALS = {"tx": 0, "rx": 1, "rr": 1}  # that a running CPU is interrupted for


@functools.cache
def measure(row: str, op: str, *, iterations: int = 10, seed: int = 0, portable: bool = False) -> OpResult:
    table = measure_table(row, f"net.{op}", iterations=iterations, seed=seed, portable=portable)
    result = table.rows[0].ops[f"net.{op}"]
    assert isinstance(result, OpResult)
    return result


@pytest.mark.parametrize("op", ACCESSES)
@pytest.mark.parametrize("row", ROWS)
def test_a_packet_exits_for_each_access_and_for_its_arrival(row: str, op: str) -> None:
    exits = measure(row, op).exits
    assert exits["mmio"] == 10 * ACCESSES[op]
    assert exits.get("external_interrupt", 0) == 10 * ARRIVALS[op]


@pytest.mark.parametrize("op", ACCESSES)
def test_under_hw_assist_that_is_all(op: str) -> None:
    assert measure("nitro+net=VS+interrupts=VS", op).exits_per_op == ACCESSES[op] + ARRIVALS[op]


@pytest.mark.parametrize("op", ACCESSES)
def test_the_deprivileged_kernel_also_exits_for_the_return_from_each_interrupt(op: str) -> None:
    interrupts = {"tx": 1, "rx": 1, "rr": 2}[op]
    result = measure("emulated", op)
    assert result.exits["iret"] == 10 * interrupts
    assert result.exits_per_op == ACCESSES[op] + ARRIVALS[op] + interrupts


@pytest.mark.parametrize("row", ROWS)
def test_a_burst_shares_its_exits(row: str) -> None:
    result = measure(row, "tx_burst", iterations=2)
    assert result.iterations == 64
    assert result.exits["mmio"] == 6


@pytest.mark.parametrize("row", ROWS)
def test_a_hundred_bursts_do_not_wait_for_the_line(row: str) -> None:
    """The host takes 1 MiB, which is more than 3200 small packets: no exit but those of each burst."""
    result = measure(row, "tx_burst", iterations=100)
    assert result.exits == {"mmio": 300} | ({"iret": 100} if row == "emulated" else {})
    line = (42 + 64 + 24) * 8 * load().timing.tsc_hz // 10**9
    assert result.cycles_per_op < line


def test_when_the_host_takes_no_more_the_guest_waits_for_the_line() -> None:
    """12800 packets fill the send buffer once; when half of it has left the host goes on, by one exit."""
    result = measure("nitro+net=VS+interrupts=VS", "tx_burst", iterations=400)
    assert result.exits == {"mmio": 1200, "external_interrupt": 1}
    assert result.result == measure("emulated", "tx_burst", iterations=400).result


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_result_is_the_same_in_every_row_and_another_for_another_seed(op: str) -> None:
    results = {measure(row, op).result for row in ROWS}
    assert len(results) == 1
    assert measure("nitro+net=VS+interrupts=VS", op, seed=1).result not in results


def test_no_two_operations_have_the_same_result() -> None:
    assert len({measure("emulated", op).result for op in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_path_without_microcode_has_the_same_numbers(op: str) -> None:
    row = "nitro+net=VS+interrupts=VS"
    assert measure(row, op, iterations=2, portable=True) == measure(row, op, iterations=2)


def test_an_echo_takes_the_wire_s_time() -> None:
    """Four frames' times on a line, two latencies and the peer's turnaround are the least that it can take."""
    wire, tsc_hz = load().wire, load().timing.tsc_hz
    frame = (42 + 64 + 24) * 8 * tsc_hz // 10**9
    least = 4 * frame + (2 * wire.latency + wire.turnaround) // 1000
    assert least < measure("nitro+net=VS+interrupts=VS", "rr").cycles_per_op < 1.2 * least


@pytest.fixture
def runner() -> Iterator[RowRunner]:
    runner = RowRunner(
        row_named("nitro+net=VS+interrupts=VS"), find_modes(), Settings(load_guest(default_guest()), load(), 5)
    )
    yield runner
    runner.close()


def test_a_snapshot_between_two_packets_changes_nothing(runner: RowRunner) -> None:
    check_paused(runner, "net.rx", 5, 30_000_000)


# --- the console ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [("nitro", "--set", "net=VS"), ("emulated",)])
def test_ping_is_answered_and_every_frame_is_captured(row: tuple[str, ...], run_hv: RunHv, tmp_path: Path) -> None:
    capture = tmp_path / "x.pcap"
    done = run_hv("run", *row, "-c", "ping 10.0.2.2 3", "--pcap", str(capture))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"10\.0\.2\.2: sequence (\d): answer after \d+ cycles", done.stdout) == ["1", "2", "3"]
    data, at, kinds = capture.read_bytes(), 24, []
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        frame = data[at + 16 : at + 16 + length]
        kinds.append("arp" if frame[12:14] == b"\x08\x06" else {8: "ask", 0: "answer"}[frame[34]])
        at += 16 + length
    assert kinds == ["arp", "arp", *["ask", "answer"] * 3]


@pytest.mark.parametrize(
    ("words", "said"),
    [("10.0.2.77 1", "nobody has this address"), ("10.0.2", "usage"), ("1.2.3.256", "usage"), ("", "usage")],
)
def test_a_ping_that_cannot_be_says_so(words: str, said: str, run_hv: RunHv) -> None:
    assert said in run_hv("run", "nitro", "--set", "net=VS", "-c", f"ping {words}").stdout


def test_without_a_card_ping_says_so(guest: Guest, costs: CostModel) -> None:
    vm = Vm(HwAssist, guest, costs)
    vm.console.feed(b"ping 10.0.2.2\n")
    assert isinstance(vm.run(), Idle)
    assert "no network card" in vm.console.take()
    vm.close()
