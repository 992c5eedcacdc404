"""Captures read by a program of other makers: tcpdump. Run by `make test-external`, which installs it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hv.host.pcap import EPOCH
from tests.conftest import RunHv

pytestmark = pytest.mark.external

COMMANDS = "ping 10.0.2.2 2\nbench net.tx_burst 1\nbench net.rr 3\n"


def tcpdump(capture: Path, *options: str) -> list[str]:
    """The frames, a line each. `-vv` makes tcpdump check the checksums of IP, ICMP and UDP."""
    done = subprocess.run(
        ["tcpdump", "-n", "-tt", "--nano", *options, "-r", str(capture)], capture_output=True, text=True, check=True
    )
    assert "link-type EN10MB" in done.stderr
    return re.split(r"\n(?=\S)", done.stdout.strip())


@pytest.fixture(scope="module")
def capture(run_hv: RunHv, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pcap") / "x.pcap"
    assert run_hv("run", "emulated", "--pcap", str(path), stdin=COMMANDS).returncode == 0
    return path


def test_tcpdump_reads_every_frame_and_finds_nothing_wrong(capture: Path) -> None:
    frames = tcpdump(capture, "-vv")
    assert sum("ICMP echo request" in frame for frame in frames) == 2
    assert sum("ICMP echo reply" in frame for frame in frames) == 2
    assert sum("> 10.0.2.2.9: [udp sum ok]" in frame for frame in frames) == 64  # warm-up and measured
    assert sum("10.0.2.2.7 > 10.0.2.15.4000: [udp sum ok]" in frame for frame in frames) == 6
    assert not [frame for frame in frames if re.search(r"bad|wrong|truncated|malformed|\[\|", frame)]


def test_tcpdump_sees_virtual_time_from_the_epoch_in_order(capture: Path) -> None:
    times = [int(frame.split()[0].replace(".", "")) for frame in tcpdump(capture)]
    assert times == sorted(times)
    assert EPOCH * 10**9 < times[0] < times[-1] < (EPOCH + 1) * 10**9


READ_EXT, WRITE_EXT, FLUSH_EXT = 0x24, 0x34, 0xEA  # ATA/ATAPI-6, 48-bit commands
ATA = re.compile(
    r"Tag: (\w+)\s.*Sector Count: (\d+), Cmd/Status: (\d+)\s+lba0: (\d+), lba1: 0, .*Data: (\d+) bytes", re.DOTALL
)
FINE = 0x50  # a drive's status: ready, nothing wrong


def test_tcpdump_decodes_the_remote_disk_over_ethernet(run_hv: RunHv, tmp_path: Path) -> None:
    """Row metal reaches its remote disk by ATA over Ethernet: each command is answered once, and without an error."""
    path = tmp_path / "aoe.pcap"
    commands = "cat remote 3\nwrite remote 5 from the guest\nflush remote\n"
    assert run_hv("run", "metal", "--pcap", str(path), stdin=commands).returncode == 0
    asked: dict[str, tuple[int, int, int]] = {}  # by tag: command, first sector, sectors
    done: list[tuple[int, int, int]] = []
    for frame in tcpdump(path, "-vv", "ether proto 0x88a2"):
        assert not re.search(r"malformed|invalid|\[\|", frame), frame
        if "Issue ATA Command" not in frame:
            continue
        decoded = ATA.search(frame)
        assert decoded is not None, frame
        tag, *numbers = decoded.groups()
        sectors, command, lba, size = map(int, numbers)
        if "[Response]" not in frame:
            asked[tag] = command, lba, sectors
            continue
        assert command == FINE
        done.append(asked.pop(tag))
        assert size >= 512 * done[-1][2] * (done[-1][0] == READ_EXT)
    assert asked == {}
    for wanted, block in ((READ_EXT, 3), (WRITE_EXT, 5)):
        moved = sorted((lba, sectors) for command, lba, sectors in done if command == wanted and lba // 8 == block)
        assert moved == [(8 * block + at, 2) for at in (0, 2, 4, 6)], (wanted, done)
    assert FLUSH_EXT in {command for command, _, _ in done}
