"""How the supervisor learns a process' exit code, whoever reaps it, and that the code is written down before.

its own child               waitid without reaping ─▶ state.json, report ─▶ reap: SIGKILL between two of these
                            leaves a zombie for the daemon (the subreaper) and its code to the next supervisor
a dead supervisor's child   the zombie that the daemon keeps until the end was reported; or, when that one died too
                            and the host's first process reaped it, the kernel's memory (PIDFD_GET_INFO, 6.15), and
                            before 6.15 what the process connector told
"""

from __future__ import annotations

import os
import time

from cove.kernel import process
from cove.kernel.proc_connector import ProcConnector
from cove.runtime.loop import Loop

_UNKNOWN = 255
_AGAIN = 0.2


class Ends:
    """The exit codes of one supervisor's processes."""

    def __init__(self, loop: Loop | None = None) -> None:
        """`loop`: for who lets zombies go (`done`)."""
        self._loop = loop
        self._connector: ProcConnector | None = None
        self._prepared = False

    def expect(self, pid: int) -> None:
        """Be ready to learn of the end of `pid`, which is no child of this process; to be called while it lives."""
        if not self._prepared:
            self._prepared = True
            self._connector = None if process.remembers_ends() else ProcConnector.open()
        if self._connector is not None:
            self._connector.want(pid)

    def code(self, pid: int, pidfd: int) -> tuple[int, str]:
        """The exit code of a process that has ended, and why it is none of its own, if so. Nothing is reaped."""
        try:
            code = process.ended(pidfd)
            if code is not None:
                return code, ""
        except ChildProcessError:
            pass
        for _ in range(50):  # the connector speaks a moment after the pidfd
            status = self._of_another(pid, pidfd)
            if status is not None:
                return process.exit_code(status), ""
            time.sleep(0.002)
        return _UNKNOWN, "its exit code was taken by another process of the host"

    def _of_another(self, pid: int, pidfd: int) -> int | None:
        try:
            status = process.zombie_status(pid)
        except OSError:
            status = None
        if status is None:
            status = process.exit_info(pidfd)
        if status is None and self._connector is not None:
            status = self._connector.status(pid)
        return status

    def done(self, pid: int, pidfd: int) -> None:
        """Its end is written down: let the zombie go."""
        if not process.reap(pidfd) and self._loop is not None:
            again = os.dup(pidfd)
            self._loop.later(_AGAIN, lambda: self._reap(again))
        if self._connector is not None:
            self._connector.forget(pid)

    def _reap(self, pidfd: int) -> None:
        """Once its tracer has let go of it."""
        if process.reap(pidfd) or self._loop is None:
            os.close(pidfd)
        else:
            self._loop.later(_AGAIN, lambda: self._reap(pidfd))
