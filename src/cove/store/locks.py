"""One process to a directory, held by a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cove.errors import Conflict


def lock(path: Path, root: Path) -> int:
    """The descriptor that holds the lock at `path`; the file says whose it is. Raises Conflict naming who has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Conflict(
            f"Another Cove, process {holder}, already works on {root}; stop it or use another root"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
