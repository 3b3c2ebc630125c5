"""Kept copies: whole, of this boot, and one build's alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cove.build import kept

_ENTRY: kept.Entry = (0o100644, 3, 10**18 + 1, "")


def _kept(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    copy = kept.take(place, "key", tmp_path / "first")
    (copy.tree / "file").write_text("abc")
    kept.give(place, "key", copy, 2 * 10**18, {"file": _ENTRY})
    return place


def test_a_kept_copy_is_one_builds_alone(tmp_path: Path) -> None:
    place = _kept(tmp_path)
    mine = kept.take(place, "key", tmp_path / "mine")
    assert mine.unchanged("file", _ENTRY) and (mine.tree / "file").read_text() == "abc"
    other = kept.take(place, "key", tmp_path / "other")
    assert not other.unchanged("file", _ENTRY) and not list(other.tree.iterdir())


def test_a_copy_of_an_earlier_boot_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _kept(tmp_path)
    monkeypatch.setattr(kept, "_boot", lambda: "another")
    copy = kept.take(place, "key", tmp_path / "mine")
    assert not copy.unchanged("file", _ENTRY) and not list(copy.tree.iterdir())
