"""Copies of clients' directories, kept so that the next build of one is sent only what changed.

    take ─▶ the copy is this build's alone ─▶ changed files arrive in it, the steps read it ─▶ give ─▶ kept again

A kept copy saves a transfer and decides nothing: steps are compared by what lies in it. A file counts as unchanged
when its size, mode and time are the same, and the time is one that only this file can have: with a fraction of a
second (archives and tools set whole ones) and older than the last transfer's beginning. A copy that a build did not
finish with is thrown away, and so is one of an earlier boot: nothing waits until it is on the disk, so that a power
failure may have emptied files of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cove.image.worker.extract import remove_tree
from cove.kernel.rootpath import open_directory

_MOST = 32
_SETTLED_NS = 2 * 10**9
_SECOND = 10**9
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Entry = tuple[int, int, int, str]
"""What a client says of a file: mode, size, time in nanoseconds, what it links to."""


class _Index(msgspec.Struct, frozen=True, array_like=True):
    boot: str
    begun_ns: int
    entries: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that one build has. `directory` holds it: the tree, and what it is known to contain."""

    directory: Path
    index: _Index

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    def unchanged(self, path: str, entry: Entry) -> bool:
        """Whether the file lies here already."""
        when = entry[2]
        return (
            self.index.entries.get(path) == entry and when % _SECOND != 0 and when < self.index.begun_ns - _SETTLED_NS
        )

    def forget(self, now: Iterable[str]) -> None:
        """Remove what the client does not have any more. Blocks."""
        gone = sorted(set(self.index.entries).difference(now))
        root = os.open(self.tree, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for path in gone:
                above, _, name = path.strip("/").rpartition("/")
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    _remove(root, above, name)
        finally:
            os.close(root)


def notes(tree: Path) -> Path | None:
    """Where it can be noted what is known of a copy's files, for as long as it is kept; None for any other tree."""
    place = tree.with_name("selections")
    return place if tree.name == "tree" and place.is_dir() else None


def new_copy(directory: Path) -> Copy:
    """An empty one."""
    directory.mkdir(mode=0o700)
    (directory / "tree").mkdir(mode=0o755)
    (directory / "selections").mkdir(mode=0o700)
    return Copy(directory, _Index(_boot(), 0, {}))


def take(place: Path, key: str, directory: Path) -> Copy:
    """The kept copy of this key, moved to `directory`; an empty one when there is none, or another build has it."""
    try:
        os.rename(place / _name(key), directory)
    except OSError:
        return new_copy(directory)
    try:
        index = msgspec.msgpack.decode((directory / "index").read_bytes(), type=_Index)
    except (OSError, msgspec.MsgspecError):
        index = None
    if index is not None and index.boot == _boot():
        return Copy(directory, index)
    shutil.rmtree(directory, ignore_errors=True)
    return new_copy(directory)


def give(place: Path, key: str, copy: Copy, begun_ns: int, entries: Mapping[str, Entry]) -> None:
    """Keep a copy with what it contains now, instead of an older one; the least used one goes where many are."""
    (copy.directory / "index").write_bytes(msgspec.msgpack.encode(_Index(_boot(), begun_ns, dict(entries))))
    (copy.directory / "id").write_text(key.replace("\0", " "))
    os.utime(copy.directory)
    target = place / _name(key)
    doomed = copy.directory.with_name(f"{copy.directory.name}-old")
    with contextlib.suppress(FileNotFoundError):
        os.rename(target, doomed)
    os.rename(copy.directory, target)
    shutil.rmtree(doomed, ignore_errors=True)
    found = sorted(place.iterdir(), key=lambda each: each.stat().st_mtime_ns)
    for each in found[:-_MOST]:
        shutil.rmtree(each, ignore_errors=True)


@functools.cache
def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _name(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _remove(root: int, above: str, name: str) -> None:
    parent = open_directory(root, above or "/", os.O_RDONLY)
    try:
        try:
            os.unlink(name, dir_fd=parent)
        except (IsADirectoryError, PermissionError):
            remove_tree(parent, name)
    finally:
        os.close(parent)
