"""The command line: what each command prints, every kind of bad usage, and the exit status.

Errors are one line on stderr. Most tests call the entry point in this process; a few run the real command.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from hv import __version__, cli
from hv.commands import lists, run, table, terminal
from hv.costs import HERE
from hv.exits import REASONS
from hv.mode import Mode, find_modes
from hv.ops import OPS
from hv.table import COLUMNS, ROWS, cell_mode
from tests.conftest import ROOT, RunHv, hv_environment

ESCAPE = "\x1b"


class Said(NamedTuple):
    status: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """call("table", "--json", "-"): the command in this process, in 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")

    def run(*arguments: str) -> Said:
        capfd.readouterr()
        # What the module made when it was imported may hold another test's streams and width.
        monkeypatch.setattr(terminal, "out", Console(highlight=False))
        monkeypatch.setattr(terminal, "err", Console(stderr=True, highlight=False))
        with pytest.raises(SystemExit) as left:
            cli.main(list(arguments))
        said = capfd.readouterr()
        status = left.value.code
        assert isinstance(status, int)
        return Said(status, said.out, said.err)

    return run


def check_error(said: Said, status: int, *words: str) -> None:
    """One line on stderr, nothing on stdout."""
    assert said.status == status, said
    assert said.out == ""
    assert said.err.startswith("hv: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    assert "Traceback" not in said.err
    assert ESCAPE not in said.err
    for word in words:
        assert word in said.err


# --- what each command prints -----------------------------------------------------------------------------------


def test_hv_alone_names_three_commands_to_try(call: Call) -> None:
    said = call()
    assert said.status == 0
    assert said.err == ""
    assert len(re.findall(r"^  hv \w+", said.out, re.MULTILINE)) == 3
    for example in ("hv table", "hv run nitro", "hv --help"):
        assert example in said.out


def test_the_version_is_the_package_s(call: Call) -> None:
    assert call("--version") == Said(0, f"hv {__version__}\n", "")


def test_help_names_every_command_and_every_option(call: Call) -> None:
    said = call("--help")
    assert said.status == 0
    for command in ("bench", "doctor", "exits", "modes", "ops", "rows", "run", "table"):
        assert command in said.out
        assert call(command, "--help").status == 0
    table = call("table", "--help").out
    for option in "rows ops set iterations seed cold cost-model portable json csv html".split():
        assert f"--{option}" in table
    run = call("run", "--help").out
    for option in ("--set", "-m", "-smp", "-c", "--portable"):
        assert option in run


def test_rows_lists_every_row_with_its_cells(call: Call) -> None:
    said = call("rows")
    assert said.status == 0
    for row in ROWS.values():
        assert re.search(rf"\b{row.id}\b", said.out), row.id
    for column in ("cpu", "net", "local", "remote", "boot"):
        assert re.search(rf"\b{column}\b", said.out)


def test_a_row_that_is_not_built_yet_is_listed_with_the_mode_that_it_needs(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "find_modes", dict)
    monkeypatch.setenv("COLUMNS", "200")
    lines = call("rows").out.splitlines()
    for row in ROWS.values():
        line = next(line for line in lines if re.match(rf" *{row.id} ", line))
        assert f"not built yet (mode {row.modes['cpu']})" in line


def test_ops_exits_and_modes_list_everything_whole(call: Call) -> None:
    for command, names in (("ops", [*OPS]), ("exits", [*REASONS]), ("modes", ["bare-metal", "hw-assist"])):
        said = call(command)
        assert said.status == 0
        for name in names:
            assert re.search(rf"(?m)^ *{re.escape(name)} ", said.out), name


def test_doctor_finds_everything_that_is_needed(call: Call) -> None:
    said = call("doctor")
    assert said.status == 0, said.out
    for what in ("Python", "unicorn", "native path", "portable path", "guest kernel", "modes", "terminal"):
        assert what in said.out
    assert not re.search(r"(?m)^ *bad ", said.out)


def test_doctor_says_so_when_the_guest_is_missing(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hv.doctor

    monkeypatch.setattr(hv.doctor, "default_guest", lambda: tmp_path / "no-kernel.elf")
    said = call("doctor")
    assert said.status == 1
    assert re.search(r"(?m)^ *bad +guest kernel", said.out)


# --- hv table ---------------------------------------------------------------------------------------------------


def built(row: str) -> list[bool]:
    """Is there a number for the headline of each column?"""
    modes, headlines = find_modes(), {op.column for op in OPS.values() if op.headline}
    return [column in headlines and cell_mode(ROWS[row], column, modes) is not None for column in COLUMNS]


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_the_grid_names_every_row_at_any_width_and_leaves_what_is_not_built_blank(
    width: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    said = call("table", "--iterations", "2")
    assert said.status == 0
    assert said.err == ""
    lines = said.out.splitlines()
    assert max(len(line) for line in lines) <= width
    assert "…" not in said.out
    for row in ROWS.values():
        assert sum(bool(re.match(rf" *{row.id} ", line)) for line in lines) == 1, row.id
    # A number for the headline of each column that is built, and no other.
    nitro = next(line for line in lines if re.match(r" *nitro ", line))
    cell = r"\b(VS|VH|P|H)\b(?: ([\d.]+))?"
    assert [bool(count) for _, count in re.findall(cell, nitro)] == built("nitro")
    emulated = next(line for line in lines if re.match(r" *emulated ", line))
    assert [bool(count) for _, count in re.findall(cell, emulated)] == built("emulated")
    assert "a letter without a number" not in said.out


def test_ops_expand_to_one_line_an_operation(call: Call) -> None:
    said = call("table", "--rows", "nitro,metal", "--ops", "cpu.in,cpu.s*", "--iterations", "3")
    assert said.status == 0
    found = re.findall(r"(?m)^ *(cpu\.\w+) +(\d+) +([\d,]+) +(\d+) +([\d,]+)", said.out)
    assert [line[0] for line in found] == ["cpu.syscall", "cpu.in"]
    assert [(line[1], line[3]) for line in found] == [("0", "0"), ("1", "0")]


def test_json_is_the_documented_schema(call: Call) -> None:
    said = call("table", "--rows", "metal,nitro", "--ops", "cpu.cpuid,cpu.in", "--iterations", "4", "--seed", "7",
                "--json", "-")  # fmt: skip
    assert (said.status, said.err) == (0, "")
    document = json.loads(said.out)
    assert list(document) == ["schema", "guest_sha256", "cost_model", "seed", "columns", "rows"]
    assert document["schema"] == "hv-table/1"
    assert re.fullmatch(r"[0-9a-f]{64}", document["guest_sha256"])
    assert (document["cost_model"], document["seed"]) == ("skylake-sp", 7)
    assert document["columns"] == ["cpu", "net", "local", "remote", "interrupts", "boot"]
    assert [row["id"] for row in document["rows"]] == ["metal", "nitro"]
    for row in document["rows"]:
        assert list(row) == ["id", "label", "cells", "modes", "ops"]
        assert list(row["cells"]) == document["columns"]
        assert row["cells"] == ROWS[row["id"]].cells
        assert list(row["ops"]) == ["cpu.cpuid", "cpu.in"]
        for op in row["ops"].values():
            assert list(op) == ["iterations", "exits_per_op", "exits", "assists_per_op", "assists",
                                "instructions_per_op", "cycles_per_op", "result"]  # fmt: skip
            assert op["iterations"] == 4
            assert sum(op["exits"].values()) == op["exits_per_op"] * 4
            assert set(op["exits"]) <= set(REASONS)
            assert re.fullmatch(r"[0-9a-f]{16}", op["result"])
    assert document["rows"][0]["modes"]["cpu"] == "bare-metal"
    assert document["rows"][1]["modes"]["cpu"] == "hw-assist"
    assert document["rows"][1]["ops"]["cpu.cpuid"]["exits"] == {"cpuid": 4}


def test_a_document_has_every_operation_unless_some_are_named(call: Call) -> None:
    said = call("table", "--rows", "metal", "--iterations", "1", "--json", "-")
    row = json.loads(said.out)["rows"][0]
    assert set(row["ops"]) == {id for id, op in OPS.items() if op.column in row["modes"]}


def test_csv_has_a_line_for_each_reason_and_one_with_the_totals(call: Call) -> None:
    said = call("table", "--rows", "nitro", "--ops", "cpu.in,cpu.callret", "--iterations", "5", "--csv", "-")
    assert (said.status, said.err) == (0, "")
    lines = list(csv.DictReader(io.StringIO(said.out)))
    assert [(line["operation"], line["reason"], line["exits"]) for line in lines] == [
        ("cpu.in", "", "5"),
        ("cpu.in", "ioio", "5"),
        ("cpu.callret", "", "0"),
    ]
    assert all(line["row"] == "nitro" and line["iterations"] == "5" for line in lines)


def test_html_is_one_page_that_needs_nothing_else(call: Call) -> None:
    said = call("table", "--rows", "nitro,metal", "--ops", "cpu.in", "--iterations", "1", "--html", "-")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("<!doctype html>")
    assert said.out.rstrip().endswith("</html>")
    assert ESCAPE not in said.out
    for words in ("nitro", "cpu.in", "skylake-sp", "charset"):
        assert words in said.out
    assert not re.search(r"(src|href)=", said.out)


def test_documents_go_to_files_and_the_table_to_stdout(call: Call, tmp_path: Path) -> None:
    names = {kind: str(tmp_path / f"table.{kind}") for kind in ("json", "csv", "html")}
    said = call("table", "--rows", "metal", "--ops", "cpu.in", "--iterations", "1",
                *(word for kind, name in names.items() for word in (f"--{kind}", name)))  # fmt: skip
    assert said.status == 0
    assert "cpu.in" in said.out
    assert json.loads(Path(names["json"]).read_text(encoding="utf-8"))["rows"][0]["id"] == "metal"
    assert Path(names["csv"]).read_text(encoding="utf-8").startswith("row,operation,")
    assert Path(names["html"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_one_document_on_stdout_and_others_in_files(call: Call, tmp_path: Path) -> None:
    name = tmp_path / "table.csv"
    said = call("table", "--rows", "metal", "--ops", "cpu.in", "--iterations", "1", "--json", "-", "--csv", str(name))
    assert json.loads(said.out)["seed"] == 0
    assert name.exists()


def test_a_custom_row_carries_its_changes_in_its_id_and_cells(call: Call) -> None:
    changes = ("--set", "net=VS", "--set", "local=P")
    said = call("table", "--rows", "nitro", *changes, "--ops", "cpu.in", "--iterations", "1", "--json", "-")
    row = json.loads(said.out)["rows"][0]
    assert row["id"] == "nitro+net=VS+local=P"
    assert row["cells"] == {**ROWS["nitro"].cells, "net": "VS", "local": "P"}


def test_a_row_that_cannot_be_changed_so_is_there_to_be_compared_with(call: Call) -> None:
    rows = ("table", "--rows", "emulated,metal", "--set", "cpu=trap-and-emulate")
    said = call(*rows, "--ops", "cpu.in", "--iterations", "1", "--json", "-")
    assert [row["id"] for row in json.loads(said.out)["rows"]] == ["emulated+cpu=trap-and-emulate", "metal"]
    assert "hv: metal with cpu=trap-and-emulate is impossible" in said.err
    check_error(call("table", "--rows", "aws-metal,metal", "--set", "cpu=VS"), 2, "impossible")


def test_a_mode_s_id_can_stand_for_its_letter(call: Call) -> None:
    said = call(
        "table", "--rows", "nitro", "--set", "cpu=hw-assist", "--ops", "cpu.in", "--iterations", "1", "--json", "-"
    )
    row = json.loads(said.out)["rows"][0]
    assert row["cells"]["cpu"] == "VH"
    assert row["modes"]["cpu"] == "hw-assist"


def test_a_cost_model_of_one_s_own_changes_cycles_and_no_counts(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "slow.toml"
    text = (HERE / "skylake-sp.toml").read_text(encoding="utf-8")
    path.write_text(text.replace("[timing.cpi]\ncycles = 0.7", "[timing.cpi]\ncycles = 7"), encoding="utf-8")
    common = ("table", "--rows", "nitro", "--ops", "cpu.in", "--iterations", "2", "--json", "-")
    usual, slow = json.loads(call(*common).out), json.loads(call(*common, "--cost-model", str(path)).out)
    assert slow["cost_model"] == "slow.toml"
    before, after = usual["rows"][0]["ops"]["cpu.in"], slow["rows"][0]["ops"]["cpu.in"]
    assert after["cycles_per_op"] > before["cycles_per_op"]
    assert {**after, "cycles_per_op": 0} == {**before, "cycles_per_op": 0}


# --- bad usage --------------------------------------------------------------------------------------------------

BAD_USAGE: list[tuple[list[str], list[str]]] = [
    (["no-such-command"], ["no-such-command"]),
    (["table", "extra"], ["extra"]),
    (["rows", "extra"], ["extra"]),
    (["run", "nitro", "extra"], ["extra"]),
    (["table", "--no-such-option"], ["--no-such-option"]),
    (["table", "--rows", "nitro,nowhere"], ["nowhere", "nitro", "metal"]),
    (["table", "--rows", "nitro,"], ["''"]),
    (["table", "--ops", "cpu.nothing"], ["cpu.nothing", "hv ops"]),
    (["table", "--ops", "cpu.in,sound.*"], ["sound.*"]),
    (["table", "--iterations", "0"], ["--iterations", "0"]),
    (["table", "--iterations", "-5"], ["--iterations"]),
    (["table", "--iterations", "100001"], ["100001"]),
    (["table", "--iterations", "many"], ["--iterations", "many"]),
    (["table", "--iterations", "1.5"], ["whole number, not '1.5'"]),
    (["table", "--iterations"], ["table needs a value for --iterations", "hv table --help"]),
    (["table", "--rows", "metal", "--rows", "nitro"], ["table takes --rows once"]),
    (["table", "--seed", "-1"], ["--seed", "-1"]),
    (["table", "--seed", str(1 << 63)], ["--seed"]),
    (["table", "--cost-model", "pentium"], ["pentium", "skylake-sp"]),
    (["table", "--json", "-", "--csv", "-"], ["stdout"]),
    (["table", "--csv", "-", "--html", "-"], ["stdout"]),
    (["table", "--json"], ["--json"]),
    (["stat"], ["stat needs ROW", "hv stat --help"]),
    (["stat", "nitro"], ["stat needs --op"]),
    (["run"], ["run needs ROW"]),
    (["run", "nowhere"], ["nowhere", "nitro"]),
    (["run", "nitro", "-m", "15"], ["-m", "15"]),
    (["run", "nitro", "-m", "17"], ["17"]),
    (["run", "nitro", "-m", "-64"], ["-64"]),
    (["run", "nitro", "-m", "much"], ["-m", "much"]),
    (["run", "nitro", "-m", "1073741824"], ["1073741824", "host"]),
    (["run", "nitro", "-smp", "0"], ["-smp", "0"]),
    (["run", "nitro", "-smp", "9"], ["-smp", "9"]),
    (["run", "nitro", "-c"], ["-c"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_USAGE, ids=[" ".join(arguments) for arguments, _ in BAD_USAGE])
def test_bad_usage_is_one_line_and_status_2(arguments: list[str], words: list[str], call: Call) -> None:
    check_error(call(*arguments), 2, *words)


BAD_SETS: list[tuple[str, list[str], list[str]]] = [
    ("nitro", ["net"], ["COLUMN=CELL", "'net'"]),
    ("nitro", ["=VS"], ["COLUMN=CELL"]),
    ("nitro", [""], ["COLUMN=CELL"]),
    ("nitro", ["disk=VS"], ["disk", "cpu, net, local, remote, interrupts, boot"]),
    ("nitro", ["NET=VS"], ["NET"]),
    ("nitro", ["net="], ["''", "VS, P, VH, H"]),
    ("nitro", ["net=vs"], ["'vs'"]),
    ("nitro", ["net=e1000"], ["e1000", "hw-assist"]),
    ("nitro", ["net=hw-assist"], ["hw-assist", "does not provide", "net"]),
    ("nitro", ["boot=VH"], ["boot has no VH"]),
    ("nitro", ["cpu=H"], ["impossible", "bare-metal CPU"]),
    ("nitro", ["cpu=bare-metal"], ["impossible", "bare-metal CPU"]),
    ("nitro", ["net=H"], ["impossible", "cannot own bare hardware"]),
    ("metal", ["net=VS"], ["impossible", "bare-metal CPU"]),
    ("metal", ["cpu=VH"], ["impossible", "cannot own bare hardware"]),
    ("nitro", ["cpu=VS"], ["impossible", "posted interrupts need a hardware-assisted CPU"]),
    ("emulated", ["interrupts=VH"], ["impossible", "posted interrupts"]),
    ("xen-pv", ["interrupts=VS"], ["impossible", "no local APIC"]),
    ("xen-pv", ["boot=VS"], ["impossible", "firmware"]),
    ("xen-hvm-4", ["boot=P"], ["impossible", "ring 3"]),
    ("nitro", ["net=VS", "net"], ["COLUMN=CELL"]),
]


@pytest.mark.parametrize(
    ("row", "changes", "words"), BAD_SETS, ids=[f"{row} {' '.join(changes)}" for row, changes, _ in BAD_SETS]
)
def test_a_set_that_no_machine_could_have_is_refused_with_the_reason(
    row: str, changes: list[str], words: list[str], call: Call
) -> None:
    options = [word for change in changes for word in ("--set", change)]
    check_error(call("table", "--rows", row, *options), 2, *words)
    check_error(call("run", row, *options, "-c", "help"), 2, *words)


@pytest.mark.parametrize(("row", "mode"), [("xen-pv", "paravirt")])
def test_a_row_that_is_not_built_yet_is_refused_by_name(
    row: str, mode: str, call: Call, modes: Mapping[str, type[Mode]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (table, run):
        monkeypatch.setattr(command, "find_modes", lambda: {id: found for id, found in modes.items() if id != mode})
    check_error(call("table", "--rows", f"nitro,{row}"), 1, row, "not built yet", mode)
    check_error(call("run", row), 1, row, "not built yet", mode)


def test_a_document_that_cannot_be_written_is_a_failed_run(call: Call, tmp_path: Path) -> None:
    common = ("table", "--rows", "metal", "--ops", "cpu.in", "--iterations", "1")
    for kind in ("json", "csv", "html"):
        check_error(call(*common, f"--{kind}", str(tmp_path)), 1, "cannot write", "Is a directory")
        check_error(call(*common, f"--{kind}", str(tmp_path / "no" / "where")), 1, "No such file or directory")


def test_a_document_that_cannot_be_written_is_refused_before_anything_is_measured(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(table, "measure_rows", None)
    check_error(call("table", "--json", "-", "--csv", str(tmp_path / "no" / "where")), 1, "No such file or directory")
    check_error(call("bench", "--json", str(tmp_path)), 1, "Is a directory")


@pytest.mark.parametrize("command", [["table"], ["run", "nitro", "-c", "help"]], ids=["table", "run"])
def test_a_guest_that_is_no_kernel_is_a_failed_run(command: list[str], call: Call, tmp_path: Path) -> None:
    path = tmp_path / "kernel.elf"
    check_error(call(*command, "--kernel", str(path)), 1, str(path), "No such file")
    path.write_bytes(b"not a kernel")
    check_error(call(*command, "--kernel", str(path)), 1, str(path), "ELF")


def test_an_empty_list_of_rows_or_operations_does_not_mean_all(call: Call) -> None:
    assert call("table", "--rows", "").status == 2
    assert call("table", "--ops", "").status == 2


def test_a_row_named_twice_is_in_the_document_once(call: Call) -> None:
    said = call("table", "--rows", "metal,metal", "--ops", "cpu.in", "--iterations", "1", "--json", "-")
    if said.status == 0:
        assert [row["id"] for row in json.loads(said.out)["rows"]] == ["metal"]
    else:
        check_error(said, 2, "metal")


def test_every_allowed_number_of_iterations_works_or_is_refused_as_bad_usage(call: Call) -> None:
    """The pages of page_fault must fit in the guest's memory."""
    said = call("table", "--rows", "nitro", "--ops", "cpu.page_fault", "--iterations", "20000", "--json", "-")
    if said.status:
        check_error(said, 2, "--iterations")


def test_an_interrupt_from_the_keyboard_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "run_table", interrupted)
    check_error(call("table", "--rows", "metal"), 130, "interrupted")


# --- streams and terminals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["rows"], ["table", "--rows", "metal", "--iterations", "1"], ["nope"], ["--help"]]
)
def test_a_pipe_gets_no_escape_codes(arguments: list[str], run_hv: RunHv) -> None:
    done = run_hv(*arguments)
    assert ESCAPE not in done.stdout + done.stderr


def test_an_error_in_a_process_of_its_own_has_status_and_one_line(run_hv: RunHv) -> None:
    done = run_hv("table", "--rows", "nowhere")
    check_error(Said(done.returncode, done.stdout, done.stderr), 2, "nowhere")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    script = f"{sys.executable} -m hv table --rows metal --json - --iterations 1 | true"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=hv_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("arguments", ["run nitro", "table --rows metal --ops cpu.in", "run metal -c help", "rows"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_traceback(arguments: str, closed: str) -> None:
    script = f"{sys.executable} -m hv {arguments} {closed}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=hv_environment(), capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


@pytest.mark.parametrize("arguments", [["rows"], ["table", "--rows", "metal", "--iterations", "1"], ["exits"]])
def test_a_stream_that_knows_only_ascii_is_no_traceback(arguments: list[str], run_hv: RunHv) -> None:
    done = run_hv(*arguments, env={"PYTHONIOENCODING": "ascii"})
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_json_on_stdout_is_utf_8_whatever_the_locale(run_hv: RunHv) -> None:
    common = ("table", "--rows", "metal", "--ops", "cpu.in", "--iterations", "1")
    for kind in ("--json", "--html"):
        usual, ascii_only = run_hv(*common, kind, "-"), run_hv(*common, kind, "-", env={"PYTHONIOENCODING": "ascii"})
        assert ascii_only.returncode == 0, ascii_only.stderr
        assert usual.stdout == ascii_only.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
@pytest.mark.parametrize(
    "arguments", ["rows", "table --rows metal --ops cpu.in --json -", "run metal -c help", "--help", "--version"]
)
def test_a_full_disk_behind_stdout_is_one_line(arguments: str) -> None:
    script = f"{sys.executable} -m hv {arguments} > /dev/full"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=hv_environment(), capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    check_error(Said(done.returncode, done.stdout, done.stderr), 1, "No space left")


@pytest.mark.parametrize("width", ["1", "20", "40", "0", "x", "100000"])
def test_no_width_of_the_terminal_upsets_it(width: str, run_hv: RunHv) -> None:
    for arguments in (["rows"], ["table", "--rows", "metal", "--iterations", "1"]):
        done = run_hv(*arguments, env={"COLUMNS": width})
        assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_environment_is_enough() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hv", "table", "--rows", "metal", "--iterations", "1"],
        cwd=ROOT, env={}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
