"""Sizes that hold by project quotas: volumes' (`cove.volume.sized`) and containers' writable layers.

    limit(directories, size) ─▶ a free project, its limit, the directories put into it
    release(directory)       ─▶ no limit, the project is free again

Owns which projects are Cove's: a row for each. Whose a project is, the directories themselves say. Numbers are
chosen at random among those that the file system knows nothing of, for it may have other users of projects.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cove.errors import Internal, Unavailable, describe
from cove.kernel import quota
from cove.store.database import Database

_LEAST, _MOST = 1 << 20, (1 << 31) - 1


class Projects:
    """The projects of one data root; methods block for a moment and may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(self, directory: Path) -> bool:
        """Whether limits hold where the directory lies."""
        with _opened(directory) as fd:
            return quota.is_enforced(fd)

    def limit(self, directories: Sequence[Path], size: int) -> None:
        """Let empty directories hold `size` bytes together, from now on. Raises Internal."""
        identity = 0
        try:
            with _opened(directories[0]) as fd:
                identity = self._free(fd)
                self._database.execute("INSERT INTO projects VALUES (?, ?)", (identity, size))
                quota.set_limit(fd, identity, size)
            for directory in directories:
                with _opened(directory) as fd:
                    quota.set_project(fd, identity)
        except OSError as error:
            if identity:
                self._forget(directories[0], identity)
            raise Internal(f"{directories[0]} cannot be given a size: {describe(error)}") from error

    def release(self, directory: Path) -> None:
        """Lift the limit of a directory that is going; nothing happens when it has none, or is not there."""
        try:
            with _opened(directory) as fd:
                identity = quota.project(fd)
        except OSError:
            return
        if identity and self._size(identity):
            self._forget(directory, identity)

    def used(self, directory: Path) -> int | None:
        """Bytes that count against the directory's limit, None when it has none."""
        try:
            with _opened(directory) as fd:
                identity = quota.project(fd)
                return quota.usage(fd, identity)[0] if identity and self._size(identity) else None
        except OSError:
            return None

    def check(self, directory: Path) -> None:
        """Raises Unavailable when the directory's limit does not hold any more."""
        if not self.hold(directory):
            raise Unavailable(
                f"The size of {directory} cannot be held: its file system is mounted without prjquota now; "
                "mount it as it was"
            )

    def sweep(self, directories: Iterable[Path]) -> None:
        """Set the limits of these directories again, and free the projects that none of them is in."""
        sizes = dict(self._database.rows("SELECT id, size FROM projects"))
        if not sizes:
            return
        root = None
        for directory in directories:
            try:
                with _opened(directory) as fd:
                    root, identity = directory, quota.project(fd)
                    size = sizes.pop(identity, 0)
                    if size and quota.usage(fd, identity)[1] != size // 1024 * 1024:
                        quota.set_limit(fd, identity, size)
            except OSError:
                continue  # one that went meanwhile, or a file system without limits, which `check` tells of
        for identity in sizes:
            self._forget(root, identity)

    def _free(self, fd: int) -> int:
        while True:
            found = _LEAST + secrets.randbelow(_MOST - _LEAST)
            if not any(quota.usage(fd, found)) and not self._size(found):
                return found

    def _size(self, identity: int) -> int:
        rows = self._database.rows("SELECT size FROM projects WHERE id = ?", (identity,))
        return int(rows[0][0]) if rows else 0

    def _forget(self, directory: Path | None, identity: int) -> None:
        try:
            if directory is not None:
                with _opened(directory) as fd:
                    quota.set_limit(fd, identity, 0)
        except OSError:
            pass  # a limit of a project that is nobody's
        self._database.execute("DELETE FROM projects WHERE id = ?", (identity,))


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = quota.open_directory(directory)
    try:
        yield fd
    finally:
        os.close(fd)
