"""The supervisor's outfitters (`cove.runtime.child.outfitter`): who is free, who is there at all.

There is one from the beginning; others are made when all are at work, and go when nobody has needed them for a
while. One that still works for a process which has ended hangs at something, and is ended. Each begins with a word on
whether it can do its work here: where it cannot, or when none is free and too many are at work, children do all of it
by themselves.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable

from cove.kernel import process
from cove.runtime.child import orders, outfitter
from cove.runtime.forker import Forker
from cove.runtime.loop import Loop

_MOST = 4
_PATIENCE = 1.0
_REST = 5.0
"""Seconds without work after which one goes, unless it is the only one."""
_WORD = 16


class Outfitter:
    """One of them; `socket` is for its orders. `owed`: how many words it has yet to say.

    `deserted`: the process that it works for has ended, before it said that it was done. `since`: its last orders.
    """

    def __init__(self, pidfd: int, sock: socket.socket, forsake: Callable[[], None]) -> None:
        self.pidfd = pidfd
        self.socket = sock
        self.owed = 1
        self.deserted = False
        self.since = time.monotonic()
        self._forsake = forsake
        self._works_for = 0

    def ordered(self, pid: int) -> None:
        """It has been told to work for the process `pid`."""
        self.owed += 1
        self.deserted = False
        self.since = time.monotonic()
        self._works_for = pid

    def listen(self, timeout: float = 0) -> bool:
        """Hear what it has said, within `timeout` seconds; False when it is over, or of no use."""
        look = select.poll()
        look.register(self.socket, select.POLLIN)
        while self.owed and look.poll(timeout * 1000):
            try:
                if self.socket.recv(_WORD) != outfitter.DONE:
                    return False
            except ConnectionError:
                return False
            self.owed -= 1
        return True

    def desert(self, pid: int) -> None:
        """The process `pid`, which it worked for once, has ended: it should be done with that at any moment."""
        if pid == self._works_for and self.owed and self.socket.fileno() >= 0 and self.listen() and self.owed:
            self.deserted = True
            self._forsake()


class Outfitters:
    """All of one supervisor's."""

    def __init__(self, forker: Forker) -> None:
        self._forker = forker
        self._loop: Loop | None = None
        self._found: list[Outfitter] = []
        self._able = True
        self._proven = False

    def attend(self, loop: Loop) -> None:
        """Have the first one made, and look after all."""
        self._loop = loop
        self._make()

    def take(self) -> Outfitter | None:
        """One that is free, to be sent orders, after which it `owed` a word more; None when there is none."""
        if not self._able:
            return None
        if not self._proven and not self._prove():
            return None
        for each in list(self._found):
            if not each.listen():
                self._part(each)
            elif not each.owed:
                return each
        return self._make() if len(self._found) < _MOST else None

    def _prove(self) -> bool:
        """Whether outfitters can do their work on this host, in the place where this process is."""
        if not self._found:
            self._make()
        self._able = bool(self._found) and self._found[0].listen(_PATIENCE) and not self._found[0].owed
        self._proven = self._able
        return self._able

    def _make(self) -> Outfitter | None:
        try:
            born = self._forker.fork(0, ordinary=False)
            orders.make_outfitter(born.gate)
        except OSError:
            return None
        made = Outfitter(born.pidfd, born.gate, lambda: self._forsake(made))
        self._found.append(made)
        if self._loop is not None:
            self._loop.watch(made.pidfd, lambda: self._part(made))
            if len(self._found) == 2:
                self._loop.later(_REST, self._dismiss)
        return made

    def _dismiss(self) -> None:
        """Let those go that nobody has needed for a while; the first one stays, and is the first to be taken."""
        for each in self._found[1:]:
            if time.monotonic() - each.since >= _REST and each.listen() and not each.owed:
                self._give_up(each)
        if self._loop is not None and len(self._found) > 1:
            self._loop.later(_REST, self._dismiss)

    def _forsake(self, outfitter_: Outfitter) -> None:
        """End it unless it is done soon."""

        def look() -> None:
            if outfitter_ in self._found and outfitter_.deserted and (not outfitter_.listen() or outfitter_.owed):
                self._part(outfitter_)

        if self._loop is not None:
            self._loop.later(_PATIENCE, look)

    def _part(self, outfitter_: Outfitter) -> None:
        """End one, if it has not ended, and bury it."""
        process.send_signal(outfitter_.pidfd, signal.SIGKILL)
        self._give_up(outfitter_)

    def _give_up(self, outfitter_: Outfitter) -> None:
        """Let one end as soon as nothing is under way with it, and bury it."""
        if outfitter_ not in self._found:
            return
        self._found.remove(outfitter_)
        outfitter_.socket.close()
        if self._loop is not None:
            self._loop.unwatch(outfitter_.pidfd)
            if not process.has_ended(outfitter_.pidfd):  # it may hang for good
                self._loop.watch(outfitter_.pidfd, lambda: self._bury(outfitter_))
                return
        self._bury(outfitter_)

    def _bury(self, outfitter_: Outfitter) -> None:
        if self._loop is not None:
            self._loop.unwatch(outfitter_.pidfd)
        os.waitid(os.P_PIDFD, outfitter_.pidfd, os.WEXITED)
        os.close(outfitter_.pidfd)

    def close(self) -> None:
        """End all."""
        for each in self._found:
            each.socket.close()
            process.send_signal(each.pidfd, signal.SIGKILL)
            self._bury(each)
        self._found = []
