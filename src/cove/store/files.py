"""Files that are either the old content or the new one, whatever happens in between.

Owns the order of steps: a temporary file in the same directory, its content, fsync, rename over the
name, fsync of the directory. It never decides where a file lies.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomic(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by a file with `content`, so that no reader and no crash ever sees a part of it.

    `durable`: survive a power failure too (two fsyncs). Without it the file still survives the death
    of this process, which is all that a file of this boot needs. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            os.fchmod(descriptor, mode)
            write_all(descriptor, content)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write everything: write(2) may take only a part (of more than 2 GiB, or on a full disk)."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (fsync(2): a file's fsync does not cover its name)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
