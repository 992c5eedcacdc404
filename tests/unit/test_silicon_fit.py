"""A Unicorn or a microcode library that does not fit gives one line, never a traceback or a crash."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from hv.silicon.x86_64 import layout, microcode
from hv.silicon.x86_64.layout import SiliconError


def one_line(error: pytest.ExceptionInfo[SiliconError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_version_of_unicorn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unicorn.__version__", "2.0.0")
    with pytest.raises(SiliconError) as error:
        layout.measure.__wrapped__()
    assert "2.1.4" in one_line(error)
    assert "2.0.0" in one_line(error)


@pytest.mark.parametrize("what", [b"", b"\0" * 8])
def test_a_marker_that_is_missing_or_found_twice_is_refused(what: bytes) -> None:
    with pytest.raises(SiliconError) as error:
        layout._find(bytes(64), what or b"marker00", "RIP")
    assert "RIP" in one_line(error)


def test_a_function_that_is_not_exported_is_refused() -> None:
    with pytest.raises(SiliconError) as error:
        layout.exported("no_such_function")
    assert "no_such_function" in one_line(error)


def test_a_missing_microcode_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microcode, "library_path", lambda: None)
    with pytest.raises(SiliconError) as error:
        microcode.load.__wrapped__()
    assert "--portable" in one_line(error)


def test_a_microcode_library_of_another_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(microcode.Microcode):
        _fields_ = (("more", ctypes.c_uint64),)

    monkeypatch.setattr(microcode, "Microcode", Other)
    with pytest.raises(SiliconError) as error:
        microcode.load.__wrapped__()
    assert "make" in one_line(error)


def test_a_broken_microcode_library_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "microcode.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(microcode, "library_path", lambda: broken)
    with pytest.raises(SiliconError) as error:
        microcode.load.__wrapped__()
    one_line(error)
