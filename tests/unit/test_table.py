"""The EC2 table as data, and the rules about what can be combined."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from hv.errors import HvError
from hv.mode import Mode
from hv.ops import OPS, select
from hv.table import COLUMN_TITLES, COLUMNS, DEFAULT_MODES, LETTERS, ROWS, Impossible, customize, find_row, missing_mode

# The article's table (B. Gregg, 2017), typed once more: cpu, net, local, remote, interrupts, boot.
ARTICLE = """
emulated    VS VS VS VS VS VS
xen-pv      P  P  P  P  P  P
xen-hvm-3   VH P  P  P  VS VS
xen-hvm-4   VH P  P  P  P  VS
aws-2013    VH VH P  P  P  VS
aws-2017    VH VH VH P  P  VS
nitro       VH VH VH VH VH VS
aws-metal   H  H  H  H  H  H
metal       H  H  H  H  H  H
"""


def test_the_rows_are_the_article_s() -> None:
    typed = [line.split() for line in ARTICLE.strip().splitlines()]
    assert [[row.id, *(row.cells[column] for column in COLUMNS)] for row in ROWS.values()] == typed
    assert COLUMNS == ("cpu", "net", "local", "remote", "interrupts", "boot")
    assert set(COLUMN_TITLES) == set(COLUMNS)
    assert set(LETTERS) == {"VS", "P", "VH", "H"}


def test_every_row_names_the_mode_behind_each_letter() -> None:
    for row in ROWS.values():
        own = {"local": "commodity", "remote": "commodity"} if row.id == "metal" else {}
        assert row.modes == {column: DEFAULT_MODES[column][row.cells[column]] for column in COLUMNS} | own
        assert row.type == ("HW" if row.cells["cpu"] == "H" else "VM")


def test_no_row_of_the_table_breaks_a_rule_of_the_table(modes: Mapping[str, type[Mode]]) -> None:
    for row in ROWS.values():
        assert customize(row, [], modes) == row


def test_an_unknown_row_lists_those_that_there_are() -> None:
    with pytest.raises(HvError, match=r"no row is called 'azure'; the rows are emulated, .*, metal") as error:
        find_row("azure")
    assert error.value.status == 2


def test_a_change_replaces_letter_and_mode_and_names_the_row(modes: Mapping[str, type[Mode]]) -> None:
    row = customize(ROWS["nitro"], ["net=P", "interrupts=VS"], modes)
    assert row.id == "nitro+net=P+interrupts=VS"
    assert row.cells == {**ROWS["nitro"].cells, "net": "P", "interrupts": "VS"}
    assert row.modes["net"] == "paravirt"
    assert row.modes["local"] == "sriov"
    assert ROWS["nitro"].cells["net"] == "VH"  # the table itself stays as it is


def test_only_a_missing_mode_of_the_cpu_keeps_a_row_from_running(modes: Mapping[str, type[Mode]]) -> None:
    assert missing_mode(ROWS["nitro"], modes) is None
    assert missing_mode(ROWS["metal"], modes) is None
    assert missing_mode(ROWS["nitro"], {}) == "hw-assist"


def possible(cells: Mapping[str, str]) -> bool:
    """The rules of DESIGN.md, section 2, said in another way."""
    hardware = [cell == "H" for cell in cells.values()]
    if any(hardware):
        return all(hardware)
    if cells["boot"] == "VH":
        return False
    if cells["cpu"] != "VH" and "VH" in (cells["net"], cells["local"], cells["remote"]):
        return False
    if (cells["cpu"] == "P") != (cells["boot"] == "P"):
        return False
    if cells["cpu"] == "P":
        return cells["interrupts"] == "P" and "VS" not in cells.values()
    if cells["cpu"] == "VS":  # P is Xen's so far, which translates nobody
        return cells["interrupts"] != "VH" and "P" not in cells.values()
    return True


def test_every_combination_either_exists_or_is_refused_with_a_reason(modes: Mapping[str, type[Mode]]) -> None:
    """All 4096 of them."""
    for letters in itertools.product(LETTERS, repeat=len(COLUMNS)):
        cells = dict(zip(COLUMNS, letters, strict=True))
        changes = [f"{column}={cell}" for column, cell in cells.items()]
        if possible(cells):
            assert customize(ROWS["nitro"], changes, modes).cells == cells
        else:
            with pytest.raises(HvError, match=r"impossible: |nobody built") as error:
                customize(ROWS["nitro"], changes, modes)
            assert error.value.status == 2


# --- the operations ---------------------------------------------------------------------------------------------


def test_each_column_that_has_operations_has_one_headline() -> None:
    columns = {op.column for op in OPS.values()}
    assert columns <= set(COLUMNS)
    for column in columns:
        assert sum(op.headline for op in OPS.values() if op.column == column) == 1


def test_globs_select_in_the_table_s_order_without_doubles() -> None:
    assert [op.id for op in select("cpu.in,cpu.c*,cpu.cpuid")] == [
        id for id in OPS if id == "cpu.in" or id.startswith("cpu.c")
    ]
    assert [op.id for op in select(" cpu.in , cpu.ptemod ")] == ["cpu.in", "cpu.ptemod"]
    assert [op.id for op in select("*")] == list(OPS)
    assert [op.id for op in select(None)] == [op.id for op in OPS.values() if op.headline]


@pytest.mark.parametrize("patterns", ["", ",", "cpu.in,", "CPU.IN", "cpu", "cpu.in;cpu.ptemod"])
def test_a_pattern_without_a_match_is_refused(patterns: str) -> None:
    with pytest.raises(HvError, match="no operation matches"):
        select(patterns)


@pytest.mark.parametrize(
    ("row", "changes", "why"),
    [
        ("emulated", ["interrupts=P"], "Xen runs no guest by translating it"),
        ("xen-hvm-4", ["cpu=trap-and-emulate"], "Xen runs no guest by translating it"),
        ("nitro", ["interrupts=avic", "cpu=hw-shadow"], "AVIC needs nested paging"),
    ],
)
def test_a_mode_says_beside_which_cpu_nobody_had_it(
    row: str, changes: list[str], why: str, modes: Mapping[str, type[Mode]]
) -> None:
    with pytest.raises(Impossible, match=why):
        customize(ROWS[row], changes, modes)
