"""One daemon to a data root and one to a run root, held by locks that die with their holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cove.errors import Conflict, Internal, describe
from cove.paths import DataRoot, RunRoot

_DATA_MODE = 0o710
_RUN_MODE = 0o700


@contextmanager
def held(data: DataRoot, run: RunRoot) -> Iterator[None]:
    """Make both roots with their modes and hold both locks. Raises Conflict naming who has them."""
    with ExitStack() as stack:
        for root, mode, lock in ((data.root, _DATA_MODE, data.daemon_lock), (run.root, _RUN_MODE, run.daemon_lock)):
            _make(root, mode)
            stack.callback(os.close, _lock(lock, root))
        yield


def _make(root: Path, mode: int) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(mode)
    except OSError as error:
        raise Internal(f"Cannot use {root} as a directory of Cove's own: {describe(error)}") from error


def _lock(path: Path, root: Path) -> int:
    """The descriptor that holds the lock; the file says whose it is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Conflict(
            f"Another daemon, process {holder}, already works on {root}; stop it or use another root"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
