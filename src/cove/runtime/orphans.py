"""Children that a dead supervisor left to the daemon and that the daemon was never told of, or has forgotten.

A process that was made a moment before its supervisor died, one whose end was told but which was not reaped yet, the
forker, spares. A zombie among them is more than untidy: the first process of a pid namespace cannot end before all
others in it are reaped, so that a container with one would not stop.

    supervisor dies ──▶ our children in other sessions ──▶ known ones are reaped when their end is recorded
                                                      └──▶ all others as soon as they end
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container

from cove.kernel import process

_AGAIN = 0.2
"""Seconds between two looks at whether a tracer has let go of a zombie."""


class Orphans:
    """Reaps them; belongs to the event loop."""

    def __init__(self) -> None:
        self._watched: dict[int, int] = {}

    def take_up(self, known: Container[int]) -> None:
        """Watch all that there are but the `known` pids; to be called when the supervisor is wholly gone.

        What the daemon began itself is in its own session, or does not mind: `subprocess` copes with a child that
        another reaped.
        """
        for pid in process.children_of_other_sessions():
            if pid not in known:
                self.watch(pid)

    def close(self) -> None:
        """Leave them to whoever comes after."""
        for pid in list(self._watched):
            self._forget(pid)

    def watch(self, pid: int) -> None:
        """Reap the child `pid` as soon as it ends and nobody traces it."""
        if pid in self._watched:
            return
        try:
            self._watched[pid] = process.pidfd_open(pid)
        except OSError:
            return
        asyncio.get_running_loop().add_reader(self._watched[pid], self._ended, pid)

    def _ended(self, pid: int) -> None:
        if pid not in self._watched:
            return
        if process.reap(self._watched[pid]):
            self._forget(pid)
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._watched[pid])
        loop.call_later(_AGAIN, self._ended, pid)

    def _forget(self, pid: int) -> None:
        pidfd = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
