"""What the forker becomes when its supervisor dies: the keeper of pipes and exit codes until there is another one.

A FIFO forgets what it holds when its last opener goes. While a container runs it is one itself, and so is the daemon;
but should both be gone before a successor has come, its last lines would be too. So the forker, which has nothing
else to do any more, opens what there is, and ends once a supervisor answers or nothing is left to keep.

An exit code is forgotten too, once the host's first process has reaped what was nobody's child any more. What the
keeper learns of such an end is written beside the container's state for the successor, who alone writes that.
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
from cove.runtime import state
from cove.runtime.ends import Ends
from cove.runtime.messages import Exit

_OFTEN, _SELDOM = 0.05, 1.0


def keep(run: RunRoot) -> None:
    """Hold the pipes of every container of this run root, note their ends; returns when nobody needs that."""
    process.retitle("cove-keeper")
    held, deaths = _opened(run), _Deaths(run)
    pause = _OFTEN
    while (held or deaths.awaited) and not _answers(run):
        deaths.note(pause)
        pause = min(2 * pause, _SELDOM)
        for fd in [fd for fd in held if _is_over(fd)]:
            held.remove(fd)
            os.close(fd)


class _Deaths:
    """The ends of containers, as they come."""

    def __init__(self, run: RunRoot) -> None:
        self._run = run
        self._ends = Ends()
        self._poll = select.poll()
        self.awaited: dict[int, tuple[str, int]] = {}
        for status in state.load_all(run):
            if not state.is_born(status) or not state.is_live(status):
                continue
            self._ends.expect(status.pid)
            pidfd = process.reopen(status.pid, status.start_ticks, status.boot_id)
            if pidfd is not None:
                self.awaited[pidfd] = status.id, status.pid
                self._poll.register(pidfd, select.POLLIN)

    def note(self, seconds: float) -> None:
        """Wait so long, and write down whatever ends meanwhile; what nobody tells is left to be found unseen."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for pidfd, _ in self._poll.poll(1000 * left):
                identity, pid = self.awaited.pop(pidfd)
                self._poll.unregister(pidfd)
                code, unknown = self._ends.code(pid, pidfd)
                os.close(pidfd)
                if not unknown:
                    with suppress(OSError):
                        state.note_end(self._run.container(identity).end, Exit(code=code, at=time.time()))


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
