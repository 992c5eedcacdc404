"""How a measured table is drawn: numbers, blanks, CSV and HTML."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from hv.measure import NotThere, OpResult, RowResult, TableResult
from hv.ops import BOOT, OPS
from hv.report import as_csv, as_html, grid, needed_width, number, operations
from hv.table import COLUMNS, ROWS


def op(exits: dict[str, int], iterations: int = 4) -> OpResult:
    return OpResult(iterations, sum(exits.values()) / iterations, exits, 0.0, {}, 12.5, 1234567.25, "0123456789abcdef")


@pytest.fixture
def measured() -> TableResult:
    """A table with a fraction, an operation that a machine does not have, and a name that HTML must escape."""
    nitro = RowResult("nitro", "AWS <Nitro> & co", ROWS["nitro"].cells, {"cpu": "hw-assist"}, {
        "cpu.syscall": op({"npf": 1, "ioio": 2}), "cpu.cr8wr": NotThere('a PV domain has no CR8, "none"'),
    })  # fmt: skip
    metal = RowResult("metal", "Bare Metal", ROWS["metal"].cells, {"cpu": "bare-metal"}, {
        "cpu.syscall": op({}), "cpu.cr8wr": op({"cpuid": 4}),
    })  # fmt: skip
    return TableResult("hv-table/1", "f" * 64, "skylake-sp", 3, list(COLUMNS), [nitro, metal])


def drawn(what: object, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


CHOSEN = [OPS["cpu.syscall"], OPS["cpu.cr8wr"]]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1.0, "1"), (0.75, "0.75"), (2.5, "2.50"), (1 / 3, "0.33"), (100000.0, "100000")]
)
def test_a_whole_number_is_whole_and_another_has_two_decimals(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("value", [0.004, 0.0001, 1.999, 0.9999])
def test_a_count_that_is_not_whole_never_looks_whole(value: float) -> None:
    """It keeps its decimals, though they may be zeros."""
    assert "." in number(value)


def test_operations_show_exits_and_cycles_and_na(measured: TableResult) -> None:
    text = drawn(operations(CHOSEN, measured))
    assert re.search(r"cpu\.syscall +0\.75 +1,234,567 +0 +1,234,567", text)
    assert re.search(r"cpu\.cr8wr +na +1 +1,234,567", text)
    assert "seed 3" in text
    assert "skylake-sp" in text


def test_the_grid_has_a_number_only_where_something_was_measured(measured: TableResult) -> None:
    rows = [ROWS["emulated"], ROWS["nitro"], ROWS["metal"]]
    text = drawn(grid(rows, measured, {"emulated": "full-emulation"}))
    assert re.search(r"(?m)^ *nitro .*\bVH 0\.75\b", text)
    assert re.search(r"(?m)^ *metal .*\bH 0\b", text)
    line = next(line for line in text.splitlines() if line.lstrip().startswith("emulated"))
    assert not re.search(r"\d", line)
    assert "emulated (mode full-emulation)" in text


@pytest.mark.parametrize(("width", "known"), [(20, 0), (76, 1), (80, 2), (114, 3), (120, 4)])
def test_the_grid_says_as_much_about_a_row_as_there_is_room_for_and_cuts_off_nothing(width: int, known: int) -> None:
    headlines = {one.id: op({"npf": 7308 * 4 if one.id == BOOT else 64}) for one in OPS.values() if one.headline}
    rows = [RowResult(row.id, row.label, row.cells, {}, dict(headlines)) for row in ROWS.values()]
    table = TableResult("hv-table/1", "f" * 64, "skylake-sp", 3, list(COLUMNS), rows)
    what = grid([*ROWS.values()], table, {}, width)
    text = drawn(what, max(width, needed_width(what)))
    signs = ("AWS Bare Metal 2017", " HW ", "PVHVM + SR-IOV(net, stor.)", "Motherboard,")
    assert [sign in text for sign in signs] == [at < known for at in range(len(signs))]
    assert "…" not in text
    assert text.count("VS 7308 ") == 6
    assert max(map(len, text.splitlines())) <= max(width, 60)


def test_csv_can_be_read_back(measured: TableResult) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(measured))))
    nitro = [line for line in lines if line["row"] == "nitro"]
    assert [(line["operation"], line["reason"], line["exits"], line["na"]) for line in nitro] == [
        ("cpu.syscall", "", "3", ""),
        ("cpu.syscall", "npf", "1", ""),
        ("cpu.syscall", "ioio", "2", ""),
        ("cpu.cr8wr", "", "", 'a PV domain has no CR8, "none"'),
    ]
    total = nitro[0]
    assert (total["iterations"], total["exits_per_op"], total["result"]) == ("4", "0.75", "0123456789abcdef")
    assert sum(int(line["exits"]) for line in nitro if line["reason"]) == int(total["exits"])


def test_html_escapes_what_it_shows(measured: TableResult) -> None:
    page = as_html([ROWS["nitro"], ROWS["metal"]], CHOSEN, measured, {})
    assert "<Nitro>" not in page
    assert page.count("<html") == page.count("</html>") == 1
    assert "f" * 64 in page
