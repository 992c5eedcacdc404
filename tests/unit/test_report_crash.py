"""What `hv` says of a guest that cannot go on: registers, a backtrace with names, and exit status 1."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hv.crash import Symbols
from hv.loader import Guest
from tests.conftest import RunHv

ROWS = ("nitro", "metal")
VIRTUAL = {"hw-shadow": ("nitro",), "trap-and-emulate": ("emulated",)}
PATHS = ("native", "portable")


@pytest.fixture(scope="module", params=[(row, path) for row in ROWS for path in PATHS], ids="-".join)
def panic(request: pytest.FixtureRequest, run_hv: RunHv) -> subprocess.CompletedProcess[str]:
    """`crash` in the shell: the kernel writes to address 0."""
    row, path = request.param
    return run_hv("run", row, "-c", "crash", *(["--portable"] if path == "portable" else []))


def frames(text: str) -> list[str]:
    """Names of the functions in a backtrace, innermost first."""
    return [name for _, name in re.findall(r"(?m)^ +#(\d+) 0x[0-9a-f]+ (\w+)\+0x[0-9a-f]+ \(\w+\.[chS]:\d+\)$", text)]


def registers(text: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in re.findall(r"\b([a-z][a-z0-9]+) ([0-9a-f]{16})\b", text)}


def test_a_panic_is_one_line_then_registers_then_a_backtrace(panic: subprocess.CompletedProcess[str]) -> None:
    assert panic.returncode == 1
    assert "Traceback" not in panic.stderr
    lines = panic.stderr.splitlines()
    assert lines[0].startswith("hv: ")
    assert "panic" in lines[0]
    assert "backtrace:" in panic.stderr
    assert "panic: page fault at 0x0" in panic.stdout  # the kernel's own words, on its console


def test_the_backtrace_names_the_functions_in_order(panic: subprocess.CompletedProcess[str]) -> None:
    names = frames(panic.stderr)
    wanted = [
        "trap",
        "crash_inner",
        "crash_outer",
        "syscall",
        "syscall_enter",
        "system_call",
        "shell_main",
        "user_start",
    ]
    assert [name for name in names if name in wanted] == wanted
    numbers = [int(number) for number in re.findall(r"(?m)^ +#(\d+) ", panic.stderr)]
    assert numbers == list(range(len(names)))


def test_all_registers_are_there_and_cr2_is_the_address(panic: subprocess.CompletedProcess[str]) -> None:
    values = registers(panic.stderr)
    general = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
    assert {*general, "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer", "cs", "ss"} <= set(values)
    assert values["cr2"] == 0
    assert values["rip"] >> 32 == 0xFFFF_FFFF
    assert values["cs"] & 3 == 0
    assert values["cr0"] >> 31 == values["cr0"] & 1 == 1


@pytest.mark.parametrize("row", ROWS)
def test_a_kernel_stack_that_overflows_is_a_double_fault_on_a_stack_of_its_own(row: str, run_hv: RunHv) -> None:
    done = run_hv("run", row, "-c", "crash stack")
    assert done.returncode == 1
    assert "panic: double fault" in done.stdout
    names = frames(done.stderr)
    assert names.count("overflow_stack") > 10
    assert names[names.index("overflow_stack") - 1] == "trap_entry"
    assert "user_start" in names[-1]


@pytest.mark.parametrize("row", ROWS)
def test_a_user_process_that_crashes_dies_alone(row: str, run_hv: RunHv) -> None:
    done = run_hv("run", row, stdin="crash user\necho still here\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"pid \d+ \(crash\): page fault at 0x0, rip 0x[0-9a-f]+: killed", done.stdout)
    assert "still here" in [line.strip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("mode", VIRTUAL)
def test_a_guest_over_shadow_tables_is_shown_with_its_own_registers(mode: str, run_hv: RunHv) -> None:
    """The same kernel crashes in the same place: CR3, CPL and selectors are those under hw-assist."""
    shown, wanted_report = (
        run_hv("run", *VIRTUAL[mode], "--set", f"cpu={cpu}", "-c", "crash").stderr for cpu in (mode, "hw-assist")
    )
    values, wanted = registers(shown), registers(wanted_report)
    for name in ("rip", "rsp", "rbp", "cr0", "cr2", "cr3", "cr4", "efer", "cs", "ss", "cpl"):
        assert values[name] == wanted[name], name
    assert frames(shown) == frames(wanted_report)


def test_reports_are_equal_on_both_paths_of_the_silicon(run_hv: RunHv) -> None:
    native, portable = (run_hv("run", "nitro", "-c", "crash", *more).stderr for more in ([], ["--portable"]))
    assert native == portable


def test_a_panic_in_an_operation_fails_the_table_with_one_line(run_hv: RunHv, guest: Guest, tmp_path: Path) -> None:
    """A guest whose first instruction is invalid: nothing handles the exception."""
    image = bytearray(guest.image)
    segment = next(s for s in guest.segments if s.address <= guest.entry < s.address + len(s.data))
    start = guest.image.index(segment.data) + guest.entry - segment.address
    image[start : start + 2] = b"\x0f\x0b"  # UD2
    (tmp_path / "broken.elf").write_bytes(image)
    for row in ROWS:
        done = run_hv("table", "--rows", row, "--kernel", str(tmp_path / "broken.elf"), "--json", "-")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith(f"hv: row {row}: the guest stopped in boot: ")
        assert done.stderr.count("\n") == 1
        done = run_hv("run", row, "--kernel", str(tmp_path / "broken.elf"), "-c", "help")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert f"rip {guest.entry:016x}" in done.stderr


# --- names of addresses -----------------------------------------------------------------------------------------


def test_an_address_has_its_function_offset_file_and_line(guest: Guest) -> None:
    symbols = Symbols(guest)
    start = guest.symbols["hv_mark_begin"]
    assert re.fullmatch(rf"{start:#x} hv_mark_begin\+0x0 \(marks\.S:\d+\)", symbols.name(start))
    inner = guest.symbols["kmain"] + 4
    assert re.match(rf"{inner:#x} kmain\+0x4 \(main\.c:\d+\)", symbols.name(inner))


@pytest.mark.parametrize("address", [0, 1, 0x1000, 0x7FFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF])
def test_an_address_in_nothing_stays_a_number(address: int, guest: Guest) -> None:
    assert Symbols(guest).name(address) == f"{address:#x}"
