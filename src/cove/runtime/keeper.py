"""What the forker becomes when its supervisor dies: the keeper of the pipes until there is another one.

A FIFO forgets what it holds when its last opener goes. While a container runs it is one itself, and so is the daemon;
but should both be gone before a successor has come, its last lines would be too. So the forker, which has nothing
else to do any more, opens what there is, and ends once a supervisor answers or nothing is left to keep.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import termios
import time
from contextlib import suppress

from cove.kernel import process
from cove.paths import RunRoot

_OFTEN, _SELDOM = 0.05, 1.0


def keep(run: RunRoot) -> None:
    """Hold the pipes of every container of this run root; returns when nobody needs that."""
    process.retitle("cove-keeper")
    held = _opened(run)
    pause = _OFTEN
    while held and not _answers(run):
        time.sleep(pause)
        pause = min(2 * pause, _SELDOM)
        for fd in [fd for fd in held if _is_over(fd)]:
            held.remove(fd)
            os.close(fd)


def _opened(run: RunRoot) -> list[int]:
    """Write ends of the output FIFOs that somebody has open; others have nothing in them."""
    held = []
    for name in os.listdir(run.containers):
        paths = run.container(name)
        for path in (paths.stdout, paths.stderr):
            with suppress(OSError):
                held.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    return held


def _is_over(fd: int) -> bool:
    """Whether nobody else has it open (a write end's POLLERR), and nothing is in it."""
    look = select.poll()
    look.register(fd, 0)
    return bool(look.poll(0)) and not any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))


def _answers(run: RunRoot) -> bool:
    """Whether a supervisor serves: it has opened all of them before."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe, suppress(OSError):
        probe.connect(str(run.supervisor_socket))
        return True
    return False
