"""The column net with a real card: an 82599 that the guest owns, or has a virtual function of."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from hv.costs import load
from hv.measure import OpResult
from hv.ops import OPS
from modes.sriov.mode import Sriov
from tests.conftest import RunHv
from tests.ec2_table.measuring import measure_table
from tests.ec2_table.shell import check_continued, shell
from tests.ec2_table.test_disks import operation
from tests.ec2_table.test_drives import OUTSIDE
from tests.ec2_table.test_where_code_runs import watching

ROWS = ("nitro", "aws-metal", "metal")
EMULATED_INTERRUPTS = "nitro+interrupts=VS"
OPERATIONS = ("tx", "rx", "rr", "tx_burst")
# Interrupts of one iteration, in a burst of one burst.
INTERRUPTS = {"tx": 1, "rx": 1, "rr": 2, "tx_burst": 1}
BURST = {"tx_burst": 32}
ATA_OVER_ETHERNET = b"\x88\xa2"  # the remote disk of row metal


def measured(row: str, op: str, *, iterations: int = 10, seed: int = 0, portable: bool = False) -> OpResult:
    table = measure_table(row, "net.*", iterations=iterations, seed=seed, portable=portable)
    return operation(table.rows[0], f"net.{op}")


@pytest.mark.parametrize("op", OPERATIONS)
def test_with_emulated_interrupts_each_is_a_physical_one_and_its_end_an_access(op: str) -> None:
    result, interrupts = measured(EMULATED_INTERRUPTS, op), 10 * INTERRUPTS[op]
    assert result.iterations == 10 * BURST.get(op, 1)
    assert result.exits == {"external_interrupt": interrupts, "mmio": interrupts}


@pytest.mark.parametrize("op", OPERATIONS)
def test_an_interrupt_that_is_an_event_has_no_end(op: str) -> None:
    assert measured("aws-2017", op).exits == {"external_interrupt": 10 * INTERRUPTS[op]}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("op", OPERATIONS)
def test_with_posted_interrupts_and_on_metal_nothing_exits(row: str, op: str) -> None:
    """Registers that are touched: the doorbell or the buffer given back, and the interrupt let on again; the EOI."""
    result = measured(row, op)
    assert result.exits == {}
    assert result.assists["mmio"] == 10 * INTERRUPTS[op] * (2 if row == "nitro" else 3)


@pytest.mark.parametrize("row", ROWS)
def test_results_are_those_of_the_emulated_card(row: str) -> None:
    for op in OPERATIONS:
        assert measured(row, op, seed=1).result == measured("emulated", op, seed=1).result


def test_an_answer_comes_sooner_in_each_row_than_in_the_one_above() -> None:
    cycles = [
        measured(row, "rr").cycles_per_op for row in (f"{EMULATED_INTERRUPTS}+net=VS", EMULATED_INTERRUPTS, *ROWS[:2])
    ]
    assert cycles == sorted(cycles, reverse=True)


def test_a_burst_goes_at_the_line_s_speed() -> None:
    """Ten gigabits a second. Between two bursts the guest hears of the end of one."""
    frame = (42 + 64 + 24) * 8 * load().timing.tsc_hz // 10**10
    assert frame < measured("metal", "tx_burst", iterations=40).cycles_per_op < 4 * frame


@pytest.mark.parametrize("row", ["nitro", "metal"])
def test_native_and_portable_agree(row: str) -> None:
    native, portable = (measure_table(row, "net.rr", iterations=1, portable=portable) for portable in (False, True))
    assert native == portable


@pytest.mark.parametrize("op", ["rr", "tx_burst"])
@pytest.mark.parametrize("row", [EMULATED_INTERRUPTS, "nitro", "metal"])
def test_hypervisor_code_runs_only_inside_counted_exits(row: str, op: str) -> None:
    with watching(row) as (runner, witness):
        runner.run(OPS[f"net.{op}"])
        assert witness.windows == 2
        assert [name for name in witness.outside if name.split(":")[0] not in OUTSIDE] == []
        assert bool(witness.inside) == bool(witness.doors) == (row == EMULATED_INTERRUPTS)


@pytest.mark.parametrize("row", [EMULATED_INTERRUPTS, "nitro", "metal"])
@pytest.mark.parametrize("cut", [1_000_000, 3_333_333])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(row: str, cut: int) -> None:
    with shell(row) as one, shell(row) as other:
        one.vm.console.feed(b"bench net.tx_burst 10\nbench net.rx 20\nbench net.rr 20\n")
        check_continued(one, other, cut * 1000)


# --- the console ----------------------------------------------------------------------------------------------------


def captured(path: Path) -> list[bytes]:
    data, at, frames = path.read_bytes(), 24, []
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        frames.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    return frames


@pytest.mark.parametrize(("row", "card"), [("nitro", "82599 virtual function"), ("metal", "82599")])
def test_ping_is_answered_and_every_frame_is_captured(row: str, card: str, run_hv: RunHv, tmp_path: Path) -> None:
    done = run_hv("run", row, "-c", "ping 10.0.2.2 2", "--pcap", str(tmp_path / "x.pcap"))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"network: {card}, 02:68:76:00:00:0f, 10.0.2.15" in done.stdout
    assert len(re.findall(r"10\.0\.2\.2: sequence \d: answer after \d+ cycles", done.stdout)) == 2
    frames = [frame for frame in captured(tmp_path / "x.pcap") if frame[12:14] != ATA_OVER_ETHERNET]
    assert [frame[12:14] for frame in frames] == [b"\x08\x06"] * 2 + [b"\x08\0"] * 4


def test_guests_ping_each_other_inside_the_card(run_hv: RunHv, tmp_path: Path) -> None:
    """On the wire there is only the question, to everybody, who has an address."""
    ask = ("-c", "ping 10.0.2.16 2", "-c", "ping 10.0.2.2 1", "-c", "ping 10.0.2.15 2")
    done = run_hv("run", "nitro", "--guests", "3", *ask, "--pcap", str(tmp_path / "x.pcap"))
    assert (done.returncode, done.stderr) == (0, "")
    answers = re.findall(r"(\d)\| (\S+): sequence \d: answer", done.stdout)
    assert sorted(answers) == [("1", "10.0.2.16")] * 2 + [("2", "10.0.2.2")] + [("3", "10.0.2.15")] * 2
    frames = captured(tmp_path / "x.pcap")
    assert [frame[30:34] for frame in frames if frame[12:14] == b"\x08\0"] == [
        bytes((10, 0, 2, 2)),
        bytes((10, 0, 2, 16)),
    ]
    assert sum(frame[:6] == b"\xff" * 6 for frame in frames) == 3


def test_a_guest_starts_again_after_its_owner_has_reset_the_card() -> None:
    """It looks for that when an answer does not come."""
    with shell("nitro") as guest:
        assert "answer after" in guest.type("ping 10.0.2.2 1")
        guest.vm.neighbours.owners["net"].reset()
        assert "answer after" not in guest.type("ping 10.0.2.2 1")
        assert guest.type("ping 10.0.2.2 2").count("answer after") == 2
        assert "result=" in guest.type("bench net.tx_burst 10")


def test_a_guest_whose_function_is_taken_away_in_the_middle_of_a_burst_goes_on() -> None:
    """It waits for what does not come, as long as it has patience; Ctrl-C ends that."""
    with shell("nitro") as guest:
        guest.vm.console.feed(b"bench net.tx_burst 10000\n")
        guest.vm.run(guest.vm.now + 10_000_000_000)
        sriov = next(mode for mode in guest.vm._objects.values() if isinstance(mode, Sriov))
        sriov.take_away("net")
        guest.vm.run(guest.vm.now + 10_000_000_000)
        guest.vm.console.feed(b"\x03")
        guest.vm.console.pump(guest.vm.serial)
        assert "result=" not in guest.run()
        assert "shell" in guest.type("ps")
