"""A build step's upper directory as a finished layer, inside the confined worker.

    upper directory ──▶ stubs removed, times clamped ──▶ the digest and length of its archive

The archive itself is not written: it can be made again from the layer's directory, byte by byte.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Callable
from typing import Any

from cove.errors import Conflict
from cove.image.worker import pack
from cove.image.worker.accounts import owner_of
from cove.kernel.rootpath import make_directories, open_in


def make_directory(root: int, path: str, owner: str) -> dict[str, Any]:
    """WORKDIR: the directory, unless it is there; whether it was made."""
    try:
        os.close(open_in(root, path, os.O_PATH | os.O_DIRECTORY))
    except FileNotFoundError:
        os.close(make_directories(root, path, owner=owner_of(root, owner) if owner else (0, 0)))
        return {"made": True}
    except OSError as error:
        raise Conflict(f"the working directory {path} cannot be made: {os.strerror(error.errno or 0)}") from error
    return {"made": False}


def seal(root: int, floor: int | None, stubs: list[str]) -> dict[str, Any]:
    """An upper directory as a finished layer: the digest and length of its archive, and its files' bytes.

    `stubs` are mount points that did not exist below: they go if they are still empty. No time is later than
    `floor` afterwards.
    """
    for path in stubs:
        _remove_stub(root, path)
    if floor is not None:
        _clamp(root, floor)
    view = pack.View(layer=True, one_device=True, bare=True, whole_seconds=True)
    content = hashlib.sha256()
    length = 0

    def write(data: bytes) -> None:
        nonlocal length
        length += len(data)
        content.update(data)

    gathered = _Gathered(write)
    size = pack.pack(gathered, root, ".", ".", view)
    gathered.flush()
    return {"diff_id": f"sha256:{content.hexdigest()}", "archive": length, "size": size}


class _Gathered:
    """Small writes gathered for the hash, which is faster on large ones."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._buffer = bytearray()

    def __call__(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= 256 << 10:
            self.flush()

    def flush(self) -> None:
        self._write(bytes(self._buffer))
        self._buffer.clear()


def _remove_stub(root: int, path: str) -> None:
    directory, name = posixpath.split(path.strip("/"))
    try:
        parent = open_in(root, directory or "/", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=parent)
        elif stat.S_ISREG(found.st_mode) and not found.st_size:
            os.unlink(name, dir_fd=parent)
    except OSError:
        pass  # it is something of the step's own by now
    finally:
        os.close(parent)


def _clamp(root: int, floor: int) -> None:
    limit = floor * 10**9
    for _, directories, files, fd in os.fwalk(".", topdown=False, dir_fd=root, follow_symlinks=False):
        for name in (*files, *directories):
            if os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime_ns > limit:
                os.utime(name, ns=(limit, limit), dir_fd=fd, follow_symlinks=False)
