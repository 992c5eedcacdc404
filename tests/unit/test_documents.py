"""Documents are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hv.documents import write_document
from hv.errors import HvError


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")
    path.chmod(0o640)
    write_document(str(path), "new ü\n")
    assert path.read_text(encoding="utf-8") == "new ü\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_leads_to_the_file_as_before(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    write_document(str(link), "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_document(str(path), "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    write_document(os.devnull, "gone")
    assert not Path(os.devnull).is_file()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "nowhere" / "x", tmp_path / ("n" * 300)):
        with pytest.raises(HvError, match=f"cannot write {target}: ") as error:
            write_document(str(target), "x")
        assert error.value.status == 1
    assert list(tmp_path.iterdir()) == []
