"""The supervisor's seat: the lock that one process at a time holds, the socket it answers at, and its voice."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path


def warn(message: str) -> None:
    """A line in the log of the daemon that began it, if anybody reads that still."""
    with suppress(OSError):
        print(f"cove supervisor: {message}", file=sys.stderr, flush=True)


def listen(path: Path) -> socket.socket:
    """The socket that the daemon connects to."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(64)
    return listener


def lock(path: Path) -> int:
    """Hold the lock of this run root until the process ends; SystemExit when another supervisor has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"cove supervisor: another supervisor serves {path.parent}")
    return fd
