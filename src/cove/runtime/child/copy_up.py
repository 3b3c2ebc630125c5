"""tmpcopyup: a tmpfs that begins with what the image has in its place.

The image's directory is hostile: it is walked by descriptors, links are copied as links, and sizes end where the
tmpfs ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from cove.kernel import rootpath

_CHUNK = 1 << 20
_DEPTH = 64
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy(source: int, target: int, *, owner: bool = True) -> None:
    """Everything in the directory `source` (O_PATH will do) into the empty directory `target`, with its owners.

    `target` itself keeps its mode, and without `owner` its owner too.
    """
    above = rootpath.open_in(source, "/", os.O_RDONLY | os.O_DIRECTORY)
    below = rootpath.open_in(target, "/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        if owner:
            found = os.fstat(above)
            os.fchown(below, found.st_uid, found.st_gid)
        _directory(above, below, _DEPTH)
    finally:
        os.close(above)
        os.close(below)


def _directory(above: int, below: int, depth: int) -> None:
    if not depth:
        raise OSError(f"directories are nested deeper than {_DEPTH} levels")
    with os.scandir(above) as entries:
        for entry in entries:
            _entry(above, below, entry.name, depth)


def _entry(above: int, below: int, name: str, depth: int) -> None:
    found = os.stat(name, dir_fd=above, follow_symlinks=False)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=above), name, dir_fd=below)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=below, follow_symlinks=False)
    elif kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=below)
        _opened(above, below, name, os.O_RDONLY, lambda a, b: _directory(a, b, depth - 1), found)
    elif kind == stat.S_IFREG:
        _opened(above, below, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _content, found)
    elif kind == stat.S_IFIFO:
        os.mkfifo(name, stat.S_IMODE(found.st_mode), dir_fd=below)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=below)


def _opened(
    above: int, below: int, name: str, flags: int, work: Callable[[int, int], None], found: os.stat_result
) -> None:
    """Do `work` with the entry `name` of both sides; then it gets its owner and mode."""
    source = os.open(name, _LOOK, dir_fd=above)
    try:
        target = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=below)
        try:
            work(source, target)
            _take_over(found, target)
            os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _content(above: int, below: int) -> None:
    while data := os.read(above, _CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(below, view) :]


def _take_over(found: os.stat_result, fd: int) -> None:
    os.fchown(fd, found.st_uid, found.st_gid)
    os.fchmod(fd, stat.S_IMODE(found.st_mode))
