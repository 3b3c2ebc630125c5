"""Waiting for the disk on behalf of others, in the background and once for many."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cove.kernel import syscalls

_PATIENCE = 1.0
"""Seconds before a flush begins: what a pull writes meanwhile is in it, and the pull does not wait for it."""


def flush(directory: Path) -> bool:
    """Write out all of the file system that a directory lies on; whether that came to its end."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        syscalls.syncfs(fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


class Flusher:
    """Flushes the file system of `directory`, then calls `then` with what asked for it; safe for several threads."""

    def __init__(self, directory: Path, then: Callable[[set[str]], None]) -> None:
        self._directory = directory
        self._then = then
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self._running = False

    def ask(self, key: str) -> None:
        """Flush soon, everything that was written until now."""
        with self._lock:
            self._waiting.add(key)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="layer-flush", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_PATIENCE)
            with self._lock:
                batch, self._waiting = self._waiting, set()
                self._running = bool(batch)
            if not batch:
                return
            if flush(self._directory):
                self._then(batch)  # else they stay as they are, which is safe
