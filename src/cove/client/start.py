"""Starting the default daemon when nobody answers at its socket.

Only when no address was named, and only as root: anybody else is told in one sentence.

    nobody answers ──▶ spawn `python -m cove.daemon.main` in a session of its own, output to
    /run/cove/daemon.log ──▶ wait until the socket answers, or the daemon exits, or ten
    seconds pass
"""

from __future__ import annotations

import os
import sys
import time

from cove.client.address import DEFAULT_SOCKET, Address
from cove.client.errors import NoDaemon

_PATIENCE = 10.0


def start_default(address: Address) -> None:
    """Start the daemon and return when it answers; raises NoDaemon with the reason otherwise."""
    if os.geteuid() != 0:
        raise NoDaemon(f"no daemon answers at {address.text}, and only root may start one; try: sudo cove daemon")
    directory = os.path.dirname(DEFAULT_SOCKET)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    log = os.path.join(directory, "daemon.log")
    pid, ended = _spawn(log), 0
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if _answers(address):
            print("cove: started the daemon", file=sys.stderr)
            return
        if not ended:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended and not _answers(address) and not _another_starts(directory):
            raise NoDaemon(f"the daemon could not be started: {_last_line(log)}")
        time.sleep(0.02)
    raise NoDaemon(f"the daemon was started but does not answer at {address.text} yet; see {log}")


def _spawn(log: str) -> int:
    """The daemon's pid; it shares no descriptor and no terminal with this process."""
    write = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "cove.daemon.main"],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, write, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _another_starts(directory: str) -> bool:
    """Whether a daemon that somebody else started at the same moment holds the lock."""
    import fcntl

    try:
        fd = os.open(os.path.join(directory, "daemon.lock"), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _answers(address: Address) -> bool:
    try:
        address.connect().close()
    except NoDaemon:
        return False
    return True


def _last_line(path: str) -> str:
    with open(path, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else "it ended without a word"
