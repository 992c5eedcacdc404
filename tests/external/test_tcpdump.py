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
