"""The columns net, local and remote with split drivers: kicks, notifications, results, trouble, and what survives."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hv.costs import load
from hv.host import nbd as nbd_client
from hv.host.nbd import Nbd
from hv.host.store import MemoryStore
from hv.loader import default_guest, load_guest
from hv.measure import OpResult, RowRunner, Settings
from hv.mode import find_modes
from modes.paravirt.mode import Paravirt
from tests.conftest import RunHv
from tests.ec2_table.measuring import measure_table, row_named
from tests.ec2_table.shell import Bad, check_bad_sectors, check_paused, hv_run, read_until, shell
from tests.ec2_table.test_disks import BLOCK
from tests.nbd_serving import FickleServer, serving

KICK, EVENT, RETURN = "hypercall.event_channel_op", "external_interrupt", "hypercall.iret"
# A packet or block: exits for each reason. A datagram that comes in needs no kick: buffers are given back in time.
ONE = {KICK: 1, EVENT: 1, RETURN: 1}
EXITS = {
    "net.tx": ONE, "net.rx": {EVENT: 1, RETURN: 1}, "net.rr": {KICK: 1, EVENT: 2, RETURN: 2},
    **{f"{place}.{op}": ONE for place in ("local", "remote") for op in ("read4k", "write4k", "flush")},
}  # fmt: skip
BURSTS = ("net.tx_burst", "local.read_qd32", "remote.read_qd32")
OPERATIONS = (*EXITS, *BURSTS)


def measure(row: str, op: str) -> OpResult:
    result = measure_table(row, "net.*,local.*,remote.*", iterations=5).rows[0].ops[op]
    assert isinstance(result, OpResult)
    return result


@pytest.mark.parametrize("op", EXITS)
def test_an_operation_exits_for_its_reasons(op: str) -> None:
    result = measure("xen-pv", op)
    assert result.exits == {reason: n * result.iterations for reason, n in EXITS[op].items()}


@pytest.mark.parametrize("op", BURSTS)
def test_in_a_burst_the_thresholds_save_most_kicks_and_no_exit_has_another_reason(op: str) -> None:
    result = measure("xen-pv", op)
    assert result.exits.keys() == {KICK, EVENT, RETURN}
    assert 1 <= result.exits[KICK] / (result.iterations / 32) < 0.2 * 32
    assert result.exits[EVENT] == result.exits[RETURN] <= result.iterations


def test_a_burst_of_packets_is_told_of_once() -> None:
    result = measure("xen-pv", "net.tx_burst")
    assert result.exits == {KICK: 5, EVENT: 5, RETURN: 5}


@pytest.mark.parametrize("op", OPERATIONS)
def test_results_are_those_of_the_emulated_devices_for_no_more_exits(op: str) -> None:
    split, emulated = measure("xen-pv", op), measure("emulated", op)
    assert split.result == emulated.result
    assert split.exits_per_op <= emulated.exits_per_op


def test_a_queue_of_32_takes_little_longer_than_its_transfers() -> None:
    times = load().local
    burst = measure("xen-pv", "local.read_qd32").cycles_per_op * 1000
    assert 8 * times.sector <= burst < 8 * times.sector + (times.read + 20_000_000) / 32


def test_packets_leave_at_the_line_s_speed() -> None:
    line = (42 + 64 + 24) * 8 * load().timing.tsc_hz // 10**9
    assert line <= measure("xen-pv", "net.tx_burst").cycles_per_op < 1.5 * line


@pytest.fixture(scope="module")
def runner() -> Iterator[RowRunner]:
    runner = RowRunner(row_named("xen-pv"), find_modes(), Settings(load_guest(default_guest()), load(), 4))
    yield runner
    runner.close()


@pytest.mark.parametrize("op", ["net.rr", "local.read_qd32"])
def test_a_snapshot_between_two_requests_changes_nothing(runner: RowRunner, op: str) -> None:
    check_paused(runner, op, 4, 70_000_000)


# --- trouble --------------------------------------------------------------------------------------------------------


def test_a_bad_sector_is_an_input_output_error_and_the_guest_goes_on() -> None:
    with shell("xen-pv", Bad(4096)) as guest:
        check_bad_sectors(guest)


def test_a_read_only_disk_refuses_to_be_written() -> None:
    store = MemoryStore(4096)
    store.read_only = True
    with shell("xen-pv", store) as guest:
        guest.type("write local 3 x")
        assert guest.type("flush local") == "flush: input/output error\n"
        mode = guest.vm.mode
        assert isinstance(mode, Paravirt)
        assert mode.notes()[-1].startswith("back ends refused: vbd 51712: ")
    assert store.pages == {}


def test_a_server_that_goes_away_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_client, "PAUSES", (0.0, 0.0))
    server = FickleServer(MemoryStore(4096))
    with shell("xen-pv", remote=Nbd("x", "", server.connect, lambda text: None)) as guest:
        guest.type("write remote 1 before")
        server.there = False
        assert guest.type("flush remote") == "flush: input/output error\n"
        server.there = True
        assert guest.type("flush remote") == "flush: done\n"
        assert server.store.read(8, 1).startswith(b"before\n")


def test_a_back_end_that_forgets_is_left_and_connected_again() -> None:
    """The guest's patience ends, the request is an error, and what comes after it is served over a new connection."""
    with shell("xen-pv") as guest:
        mode = guest.vm.mode
        assert isinstance(mode, Paravirt)
        back = mode.split.backends[1]
        back.kicked = lambda: None  # type: ignore[method-assign]
        guest.vm.console.feed(b"cat local 77\n")
        guest.vm.run(guest.vm.now + 3_000_000_000)
        del back.kicked
        assert "input/output error" in guest.run()
        assert guest.type("cat local 78").startswith("0000  68 76")
        assert guest.type("cat local 77").startswith("0000  68 76")


# --- what survives --------------------------------------------------------------------------------------------------


def test_a_write_that_was_flushed_is_in_the_file_after_a_kill_and_the_next_boot_works(
    tmp_path: Path, run_hv: RunHv
) -> None:
    image, remote = tmp_path / "disk.img", tmp_path / "socket"
    image.write_bytes(bytes(1 << 20))
    store = MemoryStore(4096)
    with serving(remote, {"disk": store}):
        disks = "-drive", str(image), "-nbd", f"nbd+unix:///disk?socket={remote}"
        process = hv_run("xen-pv", *disks)
        assert process.stdin is not None
        process.stdin.write("write local 5 kept for ever\nwrite remote 6 far away\nflush remote\nflush local\n")
        process.stdin.write("bench local.write4k 100000\n")  # requests are in flight when it dies
        process.stdin.flush()
        read_until(process, "flush: done")
        read_until(process, "flush: done")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert image.read_bytes()[5 * BLOCK :].startswith(b"kept for ever\n")
        assert store.read(48, 1).startswith(b"far away\n")
        again = run_hv("run", "xen-pv", *disks, "-c", "cat local 5")
        assert "kept for ever" in again.stdout


def test_a_domain_that_dies_with_requests_in_flight_leaves_nothing_mapped() -> None:
    with shell("xen-pv") as guest:
        mode = guest.vm.mode
        assert isinstance(mode, Paravirt)
        guest.vm.console.feed(b"bench remote.read_qd32 50\n")
        back = mode.split.backends[2]
        while not len(getattr(back.s, "flight", [])) > 8:
            guest.vm.run(guest.vm.now + 20_000_000)
        assert len(mode.domain.grants.s.handles) > 8
        mode.domain.end("crash", "killed by a test")
        assert mode.domain.grants.s.handles == {}
        assert mode.domain.grants.s.uses == {}
        assert all(backend.deadline is None for backend in mode.split.backends)


def test_ping_is_answered_and_every_frame_is_captured(run_hv: RunHv, tmp_path: Path) -> None:
    capture = tmp_path / "x.pcap"
    done = run_hv("run", "xen-pv", "-c", "ping 10.0.2.2 3", "--pcap", str(capture))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"10\.0\.2\.2: sequence (\d): answer after \d+ cycles", done.stdout)) == 3
    data = capture.read_bytes()
    assert data.count(bytes([10, 0, 2, 2])) >= 8, "in each frame the peer's address"
