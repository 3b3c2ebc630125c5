"""The supervisor's seat: the lock that one process at a time holds, the socket it answers at, and its voice.

Somebody may remove the files of the run root, all of them even: the seat notices, and puts lock and socket back.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cove.errors import describe
from cove.kernel import inotify
from cove.paths import RunRoot
from cove.runtime.loop import Loop


def warn(message: str) -> None:
    """A line in the log of the daemon that began it, if anybody reads that still."""
    with suppress(OSError):
        print(f"cove supervisor: {message}", file=sys.stderr, flush=True)


class Seat:
    """Taken once, and kept until the process ends, even when somebody removes its files."""

    def __init__(self, run: RunRoot) -> None:
        """SystemExit when another supervisor has it."""
        self._run = run
        run.containers.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(run.supervisor_lock)
        self._listener: socket.socket | None = None

    def open(self, loop: Loop, accept: Callable[[socket.socket], None], repaired: Callable[[], None]) -> None:
        """Listen: `accept` is called for whoever comes, `repaired` after files in the run root were removed."""
        self._listen(loop, accept)
        with suppress(OSError):  # too many watches on this host
            fd = inotify.open_instance()
            inotify.add_watch(fd, str(self._run.root), inotify.DELETE | inotify.MOVED_FROM)
            loop.watch(fd, lambda: self._touched(fd, loop, accept, repaired))

    def _listen(self, loop: Loop, accept: Callable[[socket.socket], None]) -> None:
        if self._listener is not None:
            loop.unwatch(self._listener.fileno())
            self._listener.close()
        path = self._run.supervisor_socket
        self._listener = listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
        loop.watch(listener.fileno(), lambda: accept(listener))

    def _touched(
        self, fd: int, loop: Loop, accept: Callable[[socket.socket], None], repaired: Callable[[], None]
    ) -> None:
        """Put back what was removed, for no daemon would find us. SystemExit when another sits here now."""
        for _ in inotify.events(fd):
            pass
        try:
            self._run.containers.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_at(self._lock, self._run.supervisor_lock):
                lost, self._lock = self._lock, _lock(self._run.supervisor_lock)
                os.close(lost)
            if not self._run.supervisor_socket.exists():
                self._listen(loop, accept)
            repaired()
        except OSError as error:
            warn(f"{self._run.root} cannot be repaired: {describe(error)}")

    def leave(self) -> None:
        """Its holder ends."""
        if self._listener is not None:
            self._listener.close()
        self._run.supervisor_socket.unlink(missing_ok=True)
        os.close(self._lock)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(path: Path) -> int:
    """Hold the lock of this run root until the process ends; SystemExit when another supervisor has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"cove supervisor: another supervisor serves {path.parent}")
    return fd
