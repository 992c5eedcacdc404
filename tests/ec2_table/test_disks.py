"""The columns local and remote of emulated disks: exits by reason, results, errors, and what survives what."""

from __future__ import annotations

import fcntl
import signal
from contextlib import closing
from pathlib import Path

import pytest

from hv.costs import load
from hv.host import nbd as nbd_client
from hv.host.nbd import Nbd
from hv.host.store import SECTOR, MemoryStore
from hv.loader import default_guest, load_guest
from hv.measure import Measured, OpResult, RowResult, RowRunner, Settings
from hv.mode import find_modes
from hv.ops import OPS
from hv.silicon.x86_64.machine import Idle
from tests.conftest import RunHv
from tests.ec2_table.measuring import measure_table, row_named
from tests.ec2_table.shell import LIMIT, Bad, check_bad_sectors, check_continued, hv_run, read_until, shell
from tests.nbd_serving import FickleServer, serving

BLOCK = 8 * SECTOR
ROWS = ("emulated", "nitro+local=VS+remote=VS+interrupts=VS")
DISK_OPERATIONS = [op for op in OPS if op.startswith(("local.", "remote."))]
# Port accesses by DMA: table, status, 6 of address and command, start; then status, stop, status, the drive's status.
# A flush has device and command only. Each interrupt comes by one exit and ends with one (EOI).
TRANSFER = {"external_interrupt": 1, "ioio": 13, "mmio": 1}
FLUSH = {"external_interrupt": 1, "ioio": 3, "mmio": 1}
# By PIO: 6 of address and command, and for each sector an interrupt, the status, and the data in one string transfer. A
# write looks once more, for the first sector needs no interrupt.
PIO_READ = {"external_interrupt": 8, "ioio": 6 + 8 * 2, "mmio": 8}
PIO_WRITE = {"external_interrupt": 8, "ioio": 7 + 8 * 2, "mmio": 8}


def expected(row: str, reasons: dict[str, int]) -> dict[str, int]:
    """A deprivileged kernel also exits to return from an interrupt."""
    return {**reasons, "iret": reasons["external_interrupt"]} if row == "emulated" else reasons


def operation(row: RowResult, op: str) -> OpResult:
    result = row.ops[op]
    assert isinstance(result, OpResult)
    return result


# --- exits and results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("op", DISK_OPERATIONS)
def test_an_operation_exits_for_its_reasons(row: str, op: str) -> None:
    result = operation(measure_table(row, "local.*,remote.*").rows[0], op)
    assert result.iterations == (320 if op.endswith("qd32") else 10), "100 bursts are 3200 iterations"
    reasons = FLUSH if op.endswith("flush") else TRANSFER
    assert result.exits == {reason: n * result.iterations for reason, n in expected(row, reasons).items()}


def test_results_are_equal_across_rows_and_differ_between_seeds_and_operations() -> None:
    tables = [measure_table(row, "local.*,remote.*", seed=seed).rows[0] for row in ROWS for seed in (0, 1)]
    seen = [[operation(table, op).result for op in DISK_OPERATIONS] for table in tables]
    assert seen[0] == seen[2]
    assert seen[1] == seen[3]
    assert len(set(seen[0] + seen[1])) == 2 * len(DISK_OPERATIONS)


@pytest.mark.parametrize("row", ROWS)
def test_by_pio_an_operation_is_a_burst_of_exits_with_the_same_result(row: str) -> None:
    settings = Settings(load_guest(default_guest()), load(), iterations=8)
    with closing(RowRunner(row_named(row), find_modes(), settings)) as runner:
        vm = runner.vm
        dma = {op: runner.run(OPS[op]) for op in ("local.read4k", "local.write4k")}
        vm.restore(runner.prompt)
        vm.console.feed(b"disks local pio\n")
        assert isinstance(vm.run(vm.now + LIMIT), Idle)
        vm.console.take()
        runner.prompt = vm.snapshot()
        for op, reasons in (("local.read4k", PIO_READ), ("local.write4k", PIO_WRITE)):
            pio, before = runner.run(OPS[op]), dma[op]
            assert isinstance(pio, Measured)
            assert isinstance(before, Measured)
            assert pio.result.exits == {reason: n * 8 for reason, n in expected(row, reasons).items()}
            assert pio.result.result == before.result.result
            assert pio.result.exits_per_op > 2 * before.result.exits_per_op


def test_the_remote_disk_takes_longer_than_the_local_one() -> None:
    table = measure_table("emulated", "local.*,remote.*").rows[0]
    for op in ("read4k", "write4k", "read_qd32", "flush"):
        assert operation(table, f"remote.{op}").cycles_per_op > operation(table, f"local.{op}").cycles_per_op


def test_ide_has_no_queue() -> None:
    """32 commands at once are 32 commands in turn: nothing is won but a few instructions."""
    table = measure_table("emulated", "local.*,remote.*").rows[0]
    one, burst = operation(table, "local.read4k").cycles_per_op, operation(table, "local.read_qd32").cycles_per_op
    assert 0.98 * one < burst <= one


def test_native_and_portable_agree() -> None:
    native, portable = (
        measure_table("emulated", "remote.read4k", iterations=1, portable=portable) for portable in (False, True)
    )
    assert native == portable


@pytest.mark.parametrize("cut", [3_000_000, 30_000_000, 33_000_000])
def test_a_run_continued_from_a_snapshot_is_the_run_that_never_stopped(cut: int) -> None:
    """Cut in the middle of transfers, DMA or PIO."""
    with shell("emulated") as one, shell("emulated") as other:
        one.type("disks remote pio")
        one.vm.console.feed(b"bench local.write4k 20\nbench remote.read4k 5\n")
        check_continued(one, other, cut)


# --- what the guest sees of trouble ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["dma", "pio"])
@pytest.mark.parametrize("row", [*ROWS, "nitro", "metal"])
def test_a_bad_sector_is_an_input_output_error_and_the_guest_goes_on(row: str, way: str) -> None:
    with shell(row, Bad(4096)) as guest:
        guest.type(f"disks local {way}")
        check_bad_sectors(guest)


def test_a_read_only_disk_refuses_to_be_written() -> None:
    store = MemoryStore(4096)
    store.read_only = True
    with shell("emulated", store) as guest:
        for way in ("dma", "pio"):
            guest.type(f"disks local {way}")
            guest.type("write local 3 x")
            assert guest.type("flush local") == "flush: input/output error\n"
    assert store.pages == {}


def test_a_disk_that_is_too_small_for_a_measurement() -> None:
    with shell("emulated", MemoryStore(64)) as guest:
        assert guest.type("bench local.read4k 1") == "bench local.read4k na: the disk is too small\n"
        assert guest.type("cat local 7").startswith("0000  00")
        assert guest.type("cat local 8") == "cat: no such block\n"


def test_a_server_that_goes_away_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_client, "PAUSES", (0.0, 0.0))
    server, said = FickleServer(MemoryStore(4096)), list[str]()
    with shell("emulated", remote=Nbd("x", "", server.connect, said.append)) as guest:
        guest.type("write remote 1 before")
        server.there = False
        assert guest.type("flush remote") == "flush: input/output error\n"
        assert guest.type("cat remote 2") == "cat: input/output error\n"
        assert said == ["remote disk x: the server has hung up; trying again"]
        server.there = True
        assert guest.type("flush remote") == "flush: done\n"
        assert server.store.read(8, 1).startswith(b"before\n")
        assert len(said) == 1


def test_measuring_leaves_a_disk_as_it_was() -> None:
    store = MemoryStore(4096, "local")
    with shell("emulated", store) as guest:
        guest.type("bench local.write4k 40")
    assert store.read(0, 4096) == MemoryStore(4096, "local").read(0, 4096)


# --- hv run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["emulated", "xen-pv", "xen-hvm-4", "nitro", "aws-metal", "metal"])
def test_a_write_that_was_flushed_is_in_the_file_after_a_kill(row: str, tmp_path: Path) -> None:
    image, remote = tmp_path / "disk.img", tmp_path / "socket"
    image.write_bytes(bytes(1 << 20))
    store = MemoryStore(4096)
    with serving(remote, {"disk": store}):
        process = hv_run(row, "-drive", str(image), "-nbd", f"nbd+unix:///disk?socket={remote}")
        assert process.stdin is not None
        process.stdin.write("write local 5 kept for ever\nwrite remote 6 far away\nflush remote\nflush local\n")
        process.stdin.flush()
        read_until(process, "flush: done")
        read_until(process, "flush: done")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert image.read_bytes()[5 * BLOCK :].startswith(b"kept for ever\n")
    assert store.read(48, 1).startswith(b"far away\n")


def test_power_off_writes_back_what_was_not_flushed(run_hv: RunHv, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    assert run_hv("run", "emulated", "-drive", str(image), "-c", "write local 9 at the end").returncode == 0
    assert image.read_bytes()[9 * BLOCK :].startswith(b"at the end\n")


def test_the_default_disks_are_made_on_first_use_and_kept(run_hv: RunHv, tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path)}
    first = run_hv("run", "emulated", stdin="write remote 9 again\ncat local 3\n", env=env)
    assert first.stderr.count("made a disk of 16 MiB") == 2
    assert "hv local disk, b" in first.stdout
    second = run_hv("run", "emulated", "-c", "cat remote 9", env=env)
    assert second.stderr == ""
    assert "again." in second.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "wrong"),
    [
        (("emulated", "--set", "local=P", "-drive", "x"), 2, "need cpu=P or cpu=VH"),
        (("emulated", "-drive", "/nowhere/x"), 1, "No such file or directory"),
        (("emulated", "-nbd", "ftp://x"), 2, "-nbd takes nbd://"),
        (("emulated", "-nbd", "nbd+unix:///?socket=/nowhere/x"), 1, "No such file or directory"),
    ],
)
def test_what_is_wrong_is_one_line(run_hv: RunHv, arguments: tuple[str, ...], status: int, wrong: str) -> None:
    done = run_hv("run", *arguments)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("hv: ")
    assert wrong in done.stderr


def test_a_default_disk_in_use_is_said_and_does_not_stop_the_guest(run_hv: RunHv, tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path)}
    run_hv("run", "emulated", "-c", "disks", env=env)
    with (tmp_path / "hv" / "local.img").open("rb") as image:
        fcntl.flock(image, fcntl.LOCK_EX)
        done = run_hv("run", "emulated", "-c", "cat local 3", env=env)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "in use by another process; the guest's local disk is in memory" in done.stderr
    assert "hv local disk, b" in done.stdout
