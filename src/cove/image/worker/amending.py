"""A copy that was made before, brought up to date: inside the confined worker.

    upper directory as the earlier copy left it ─▶ what went is removed ─▶ what changed is copied

Only for a copy of one directory. What is removed is removed beneath the overlay, before that has looked for it: so a
name shows what the layers below have, as it would had it never been copied.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from cove.errors import Conflict
from cove.image.worker import members
from cove.image.worker.copying import Copier
from cove.image.worker.index import Change
from cove.image.worker.places import Place
from cove.image.worker.trees import Copy, Item
from cove.kernel.rootpath import clean, open_in

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def amend(source: int, root: int, upper: int, asked: Copy, change: Change, limits: members.Limits) -> dict[str, Any]:
    """Make the copy in `upper` that of the source as it is now; Conflict when it is not what the change is of."""
    amender = _Amender(source, root, upper, asked, limits)
    amender.amend(change)
    return {"files": amender.files, "size": amender.size}


class _Amender(Copier):
    def amend(self, change: Change) -> None:
        (top,) = self.selection.tops()
        fd, _, found = self.selection.open(top)
        try:
            if not stat.S_ISDIR(found.st_mode):
                raise Conflict(f"{top} is no directory")
            target = self.place(clean(self.asked.destination))
            for path in sorted(change.removed, reverse=True):
                self._remove(target, path)
            self.tree(_items(fd, change.copied), target)
            self._times(fd, target.path, change)
        finally:
            os.close(fd)

    def _remove(self, target: Place, path: str) -> None:
        above, name = posixpath.split(path)
        directory = self.places.own(f"{target.path}/{above}")
        if directory < 0:
            raise Conflict(f"{path} is not where it was copied to")
        try:
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.rmdir(name, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)
        except OSError as error:
            raise Conflict(f"{path} is not what was copied: {os.strerror(error.errno or 0)}") from error
        finally:
            os.close(directory)

    def _times(self, source: int, target: str, change: Change) -> None:
        """Directories in which anything was done have the source's times again, the uppermost one the copy's."""
        touched = {posixpath.dirname(path) for path in (*change.removed, *change.copied)} - {""}
        for path in sorted(touched, reverse=True):
            with suppress(FileNotFoundError, NotADirectoryError):  # it went, too
                found = os.stat(path, dir_fd=source, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    self._set_time(f"{target}/{path}", (found.st_mtime_ns, found.st_mtime_ns))
        self._set_time(target, None)

    def _set_time(self, path: str, times: tuple[int, int] | None) -> None:
        fd = open_in(self.root, path, _DIRECTORY)
        try:
            os.utime(fd, ns=times) if times else os.utime(fd)
        finally:
            os.close(fd)


def _items(source: int, paths: list[str]) -> Iterator[Item]:
    """What lies under these names; nothing in between is a link, as the names were found by walking."""
    for path in paths:
        above, name = posixpath.split(path)
        fd = open_in(source, above or "/", _DIRECTORY)
        try:
            yield Item(fd, name, path, os.stat(name, dir_fd=fd, follow_symlinks=False))
        finally:
            os.close(fd)
