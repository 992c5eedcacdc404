"""The document is the same, byte for byte, whenever and however it is made."""

from __future__ import annotations

import json

import pytest

from tests.conftest import RunHv

DOCUMENT = ("table", "--rows", "nitro,metal", "--iterations", "1", "--json", "-")


@pytest.fixture(scope="module")
def usual(run_hv: RunHv) -> str:
    done = run_hv(*DOCUMENT, env={"PYTHONHASHSEED": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_two_processes_print_the_same_bytes(usual: str, run_hv: RunHv) -> None:
    """With another order of Python's sets, another locale and another zone."""
    other = {"PYTHONHASHSEED": "4242", "TZ": "Asia/Tokyo", "LC_ALL": "C", "COLUMNS": "40"}
    assert run_hv(*DOCUMENT, env=other).stdout == usual


def test_the_path_without_microcode_prints_the_same_bytes(usual: str, run_hv: RunHv) -> None:
    assert run_hv(*DOCUMENT, "--portable", env={"PYTHONHASHSEED": "7"}).stdout == usual


def test_order_and_choice_of_rows_and_operations_change_no_number(usual: str, run_hv: RunHv) -> None:
    whole = {row["id"]: row for row in json.loads(usual)["rows"]}
    done = run_hv("table", "--rows", "metal,nitro", "--ops", "cpu.in,cpu.page_fault,cpu.context_switch",
                  "--iterations", "1", "--json", "-")  # fmt: skip
    rows = json.loads(done.stdout)["rows"]
    assert [row["id"] for row in rows] == ["metal", "nitro"]
    for row in rows:
        assert len(row["ops"]) == 3
        for name, numbers in row["ops"].items():
            assert numbers == whole[row["id"]]["ops"][name]


def test_rows_with_the_same_cpu_have_the_same_numbers(usual: str, run_hv: RunHv) -> None:
    done = run_hv("table", "--rows", "nitro,xen-hvm-3,metal,aws-metal", "--ops", "cpu.in,cpu.page_fault",
                  "--iterations", "1", "--json", "-")  # fmt: skip
    nitro, hvm, metal, aws_metal = json.loads(done.stdout)["rows"]
    assert nitro["ops"] == hvm["ops"]
    assert metal["ops"] == aws_metal["ops"]


def test_shadow_tables_depend_on_no_order_of_sets(run_hv: RunHv) -> None:
    document = ("table", "--rows", "nitro", "--set", "cpu=hw-shadow", "--iterations", "1", "--json", "-")
    first, second = (run_hv(*document, env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "4242"))
    assert first == second
