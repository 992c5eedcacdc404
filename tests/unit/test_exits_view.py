"""The panels of exits at every width: no count, no cycles and no name is squeezed out by a long one."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from hv.exits import REASONS
from hv.ledger import Stream, Tally
from hv.measure import Measured, OpResult
from hv.silicon.timing import MILLI
from tui.exits_view import last, measured, rates, short
from tui.lines_view import Line
from tui.palette import DARK, Palette

COUNTS = {"hypercall.event_channel_op": 12345, "external_interrupt": 678, "hypercall.iret": 9}


@pytest.fixture
def palette() -> Palette:
    app: Any = SimpleNamespace(current_theme=DARK)
    return Palette(app)


def text(lines: list[Line]) -> list[str]:
    return ["".join(piece for piece, _ in line) for line in lines]


def test_a_reason_that_is_too_long_loses_its_family_and_then_its_end() -> None:
    assert short("hypercall.multicall", 19) == "hypercall.multicall"
    assert short("hypercall.multicall", 18) == "…multicall"
    assert short("hypercall.multicall", 6) == "…mult…"
    assert short("external_interrupt", 10) == "external_…"
    assert all(len(short(reason, 12)) <= 12 for reason in REASONS)


@pytest.mark.parametrize("width", [34, 40, 48, 60, 70, 96, 120])
def test_an_operation_s_exits_keep_their_numbers(width: int, palette: Palette) -> None:
    tallies = {reason: Tally(count, count * 1000 * MILLI) for reason, count in COUNTS.items()}
    time = 2 * sum(tally.time for tally in tallies.values())
    result = OpResult(9, sum(COUNTS.values()) / 9, dict(COUNTS), 0.0, {}, 1.0, 1234567.8, "0" * 16)
    console = Console(file=io.StringIO(), width=width)
    console.print(measured(Measured(result, tallies, time), palette, width))
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert "1,234,568 cycles" in " ".join(drawn.split())
    for end, count, share in (
        ("event_chan", "12,345", "47.4%"),
        ("external_int", "678", "2.6%"),
        ("iret", "9", "0.0%"),
    ):
        assert re.search(rf"(?m)^\S*{end}\S* +{count} .*{share}", drawn), drawn
    for reason in COUNTS:
        assert REASONS[reason].meaning in " ".join(drawn.split())


@pytest.mark.parametrize("width", [34, 43, 60])
def test_a_running_guest_s_exits_keep_their_numbers(width: int, palette: Palette) -> None:
    lines = text(rates(COUNTS, {"hypercall.iret": 1234.0}, palette, width))
    assert {len(line) for line in lines} == {width}
    assert [line.split()[1:] for line in lines] == [["exits", "/", "s"], ["12,345", "-"], ["678", "-"], ["9", "1,234"]]
    stream = Stream(512)
    for _ in range(6):
        stream.add(0, "hypercall.event_channel_op", 1270 * MILLI)
    newest, shown = last(stream, 10, palette, width)
    (line,) = text(newest)
    assert (len(line), shown) == (width, 6)
    assert line.split()[1:] == ["x6", "1,270"]
