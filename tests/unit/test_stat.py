"""`hv stat`: one operation's exits by reason."""

from __future__ import annotations

import pytest

from hv.cli import main
from tests.conftest import RunHv


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_a_cold_page_fault_is_one_npf_an_operation(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "stat", "nitro", "--op", "cpu.page_fault", "--cold", "--iterations", "20")
    line = next(line.split() for line in out.splitlines() if line.split()[:1] == ["npf"])
    assert status == 0
    assert line[1:6] == ["20", "100.0", "%", "100.0", "%"]
    assert line[6] == line[7] == line[8]  # min, avg, max: every cold frame costs the same
    assert line[9] == "1"


@pytest.mark.parametrize("width", [20, 80])
def test_no_number_is_cut_off(width: int, run_hv: RunHv) -> None:
    """The longest reason that an operation is made of."""
    out = run_hv("stat", "xen-pv", "--op", "net.rr", "--iterations", "2", env={"COLUMNS": str(width)}).stdout
    assert "…" not in out
    lines = [line.split() for line in out.splitlines() if "hypercall.event_channel_op" in line]
    assert [(line[1], line[-1]) for line in lines] == [("2", "1")]
    assert max(map(len, out.splitlines())) <= 80


def test_an_operation_without_exits_says_none(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "stat", "metal", "--op", "cpu.syscall", "--iterations", "5")
    assert status == 0
    assert [line.split() for line in out.splitlines() if "none" in line] == [["none", "0", "0"]]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nitro", "--op", "cpu.nothing"], 2, "no operation is called 'cpu.nothing'"),
        (["nowhere", "--op", "cpu.in"], 2, "no row is called 'nowhere'"),
        (["nitro"], 2, "--op"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    got, out, err = run(capsys, "stat", *words)
    assert (got, out, err.count("\n")) == (status, "", 1)
    assert err.startswith("hv: ")
    assert said in err
