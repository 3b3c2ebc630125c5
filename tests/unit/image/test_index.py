"""A selection's index: what it knows, what it does not believe, and what it says of changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cove.image.worker import index, trees
from cove.image.worker.index import Change, Index


class Looking:
    """One tree, digested again and again with the index that the last look left."""

    def __init__(self, place: Path) -> None:
        self.tree = place / "tree"
        (self.tree / "top/deep").mkdir(parents=True)
        for number in range(8):
            (self.tree / f"top/deep/{number}").write_text(str(number))
        self.before, self._after = place / "before", place / "after"
        self.before.touch()

    def look(self) -> tuple[str, Change | None]:
        """The digest, and what changed."""
        root = os.open(self.tree, os.O_PATH | os.O_DIRECTORY)
        try:
            with open(self.before, "rb") as before, open(self._after, "wb") as after:
                found = trees.digest(root, trees.Copy(["top"]), listed=False, index=Index(before, after))
        finally:
            os.close(root)
        os.rename(self._after, self.before)
        return found["digest"], Change(**found["change"]) if found["change"] else None

    def tick(self) -> None:
        """Until what happens now has another time than what happened before."""
        probe = self.tree.parent / "probe"
        probe.touch()
        first = probe.stat().st_ctime_ns
        while probe.stat().st_ctime_ns == first:
            os.utime(probe)

    def whole(self) -> str:
        """The digest without any index."""
        root = os.open(self.tree, os.O_PATH | os.O_DIRECTORY)
        try:
            return str(trees.digest(root, trees.Copy(["top"]), listed=False)["digest"])
        finally:
            os.close(root)


@pytest.fixture
def looking(tmp_path: Path) -> Looking:
    return Looking(tmp_path)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every change were old enough to be told by its time."""
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**18))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files whose content is read."""
    found: list[str] = []
    read: Callable[[trees.Item], bytes] = trees._content_digest

    def heard(item: trees.Item) -> bytes:
        found.append(item.name)
        return read(item)

    monkeypatch.setattr(trees, "_content_digest", heard)
    return found


def test_only_what_changed_is_read(looking: Looking, settled: None, reads: list[str]) -> None:
    assert looking.look() == (looking.whole(), None)
    reads.clear()
    assert looking.look()[1] == Change([], []) and not reads
    (looking.tree / "top/deep/3").write_text("changed")
    digest, change = looking.look()
    assert change == Change(["deep/3"], ["deep/3"]) and reads == ["3"]
    assert digest == looking.whole()


def test_what_changed_just_now_proves_nothing(looking: Looking, reads: list[str]) -> None:
    looking.look()
    reads.clear()
    assert looking.look()[1] == Change([], []) and len(reads) == 8


def test_a_time_that_is_set_back_deceives_nobody(looking: Looking, settled: None) -> None:
    file = looking.tree / "top/deep/5"
    was = file.stat()
    looking.look()
    looking.tick()
    file.write_text("x")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    digest, change = looking.look()
    assert digest == looking.whole() and change == Change(["deep/5"], ["deep/5"])


def test_a_new_time_alone_is_copied_and_changes_no_digest(looking: Looking, settled: None) -> None:
    digest, _ = looking.look()
    os.utime(looking.tree / "top/deep/5", ns=(1, 1))
    assert looking.look() == (digest, Change(["deep/5"], ["deep/5"]))


def test_names_that_come_and_go(looking: Looking, settled: None) -> None:
    looking.look()
    looking.tick()
    deep = looking.tree / "top/deep"
    (deep / "0").unlink()
    (deep / "1").unlink()
    (deep / "1").mkdir()
    (deep / "1/in").touch()
    digest, change = looking.look()
    assert change is not None and digest == looking.whole()
    assert change.removed == ["deep/0", "deep/1"]
    assert change.copied == ["deep", "deep/1", "deep/1/in"]


def test_what_no_copy_can_follow(looking: Looking, settled: None) -> None:
    looking.look()
    os.link(looking.tree / "top/deep/0", looking.tree / "top/deep/further")
    assert looking.look()[1] is None
    for number in range(1, 8):
        (looking.tree / f"top/deep/{number}").write_text("most of all changed")
    assert looking.look()[1] is None


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b'["top",9]\nabc', b"[null,0]\nxyz", b"\xff\xfe"])
def test_an_index_that_is_none_is_nothing(looking: Looking, settled: None, content: bytes) -> None:
    looking.look()
    looking.before.write_bytes(content)
    assert looking.look() == (looking.whole(), None)
