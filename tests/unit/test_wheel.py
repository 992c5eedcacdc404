"""What is in the wheel and in the source archive, and that the same sources build the same bytes."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hv import __version__
from hv.loader import load_guest
from tests.conftest import ROOT

SKIPPED = (".venv", ".git", "dist", "_built", "__pycache__", ".*_cache", ".hypothesis")
BUILD = """
import sys
from hatchling.builders.{0} import {1}
print(next({1}(sys.argv[1]).build(directory=sys.argv[2])))
"""


def build(folder: Path, kind: str, builder: str) -> Path:
    """Build from a copy of the tree in this folder, as `make wheel` and pip do."""
    tree = folder / "tree"
    if not tree.exists():
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*SKIPPED))
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind, builder), str(tree), str(folder / "dist")], cwd=tree,
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": "", "SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once for all of pytest's workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for done in (folder / "dist").glob("*.whl"):
            return done
        return build(folder, "wheel", "WheelBuilder")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sdist"), "sdist", "SdistBuilder")


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_guest_microcode_and_every_module(wheel: Path) -> None:
    held = names(wheel)
    assert "hv/_built/kernel.elf" in held
    if "manylinux" in wheel.name:
        assert "hv/_built/microcode.so" in held
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("hv", "modes", "tui", "labs")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources | {"tui/hv.tcss"} <= held
    assert {path for path in held if path.startswith("hv/costs/")} >= {"hv/costs/skylake-sp.toml"}
    assert any(name.startswith("guest_kernel/") and name.endswith("boot.S") for name in held)
    assert {"labs/01_first_exit/handout.md", "labs/01_first_exit/starter/my_mode.py"} <= held


def test_the_wheel_holds_nothing_that_is_not_for_users(wheel: Path) -> None:
    held = names(wheel)
    assert not [
        name for name in held if name.startswith(("tests/", "instructor/", ".", "packaging/")) or "__pycache__" in name
    ]
    tops = {name.split("/")[0] for name in held}
    assert tops <= {"hv", "modes", "tui", "labs", "guest_kernel", f"hvladder-{__version__}.dist-info"}


def test_the_instructors_folder_is_in_neither_archive(wheel: Path, sdist: Path) -> None:
    """Nor is any file with what is in it: a student who installs hv gets no solution."""
    secret = [path.read_bytes() for path in (ROOT / "instructor").rglob("*") if path.suffix in (".py", ".toml")]
    assert len(secret) >= 2
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(sdist) as source:
        for member in source.getmembers():
            file = source.extractfile(member)
            contents[member.name] = b"" if file is None else file.read()
    assert not [name for name in contents if "instructor/" in name or "/solution" in name or "test_labs" in name]
    assert not [name for name, content in contents.items() if content in secret]


def test_the_wheel_s_name_has_its_version_and_platform(wheel: Path) -> None:
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("hvladder", __version__, "py3", "none")
    assert platform.startswith(("manylinux_2_17_", "macosx_11_0_")) or platform == "any"


def test_the_wheel_s_metadata_name_the_command_the_modes_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"hvladder-{__version__}.dist-info"
        points = archive.read(f"{info}/entry_points.txt").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
        licences = {name.rsplit("/", 1)[-1] for name in archive.namelist() if f"{info}/licenses/" in name}
    assert "hv = hv.__main__:main" in points
    assert "bare-metal = modes.bare_metal:MODE" in points
    assert "hw-assist = modes.hw_assist:MODE" in points
    assert "lab = labs.command:app" in points
    assert "hv = hv.testing.plugin" in points
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: unicorn==2.1.4" in metadata
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra" not in line]
    assert not [line for line in needed if "pytest" in line]
    assert not [
        line for line in metadata.splitlines() if line.startswith("Requires-Dist: ziglang") and "extra" not in line
    ]
    assert licences == {"LICENSE", "NOTICE"}


def test_the_wheel_runs_from_where_it_was_unpacked(wheel: Path, tmp_path: Path) -> None:
    """Nothing of the source tree is needed: only the wheel and the installed dependencies."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = f"""
import sys
sys.path[:] = [{str(tmp_path)!r}] + [p for p in sys.path if p not in ("", {str(ROOT)!r})]
import hv.loader
assert hv.loader.__file__.startswith({str(tmp_path)!r}), hv.loader.__file__
from hv.cli import main
main(["table", "--rows", "nitro", "--ops", "cpu.in", "--iterations", "2", "--csv", "-"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nitro,cpu.in,2,ioio,2," in done.stdout


def test_two_builds_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    """In another folder, with another name, at another time."""
    again = build(tmp_path / "somewhere else", "wheel", "WheelBuilder")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        built = [name for name in first.namelist() if "/_built/" in name]
        assert built
        for name in built:
            assert first.read(name) == second.read(name), name
    assert wheel.read_bytes() == again.read_bytes()
    path = tmp_path / "kernel.elf"
    with zipfile.ZipFile(wheel) as first:
        path.write_bytes(first.read("hv/_built/kernel.elf"))
    assert load_guest(path).marks() != (0, 0)
    assert str(tmp_path).encode() not in path.read_bytes()
    assert b"/tree/guest_kernel" not in path.read_bytes()


def test_the_source_archive_can_build_the_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        archive.extractall(tmp_path, filter="data")
    for needed in ("pyproject.toml", "LICENSE", "NOTICE", "guest_kernel/hatch_build.py", "guest_kernel/kernel/main.c",
                   "hv/silicon/x86_64/microcode.c", "hv/cli.py", "modes/bare_metal.py"):  # fmt: skip
        assert needed in held
    assert not [name for name in held if name.startswith(("hv/_built", ".ci", "instructor", ".venv"))]
    (tmp_path / sdist.name.removesuffix(".tar.gz")).rename(tmp_path / "tree")
    again = build(tmp_path, "wheel", "WheelBuilder")
    assert names(again) == names(wheel)
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert first.read("hv/_built/kernel.elf") == second.read("hv/_built/kernel.elf")
