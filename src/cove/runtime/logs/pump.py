"""One container's output on its way into the log.

    FIFO  ──▶ splice(2) ──▶ log               one bounded amount a turn, so that no log starves another or a start
    pty   ──▶ splice(2) ──▶ FIFO ──▶ log      so that a terminal's output, too, is never in this process alone

A FIFO is widened when it is first found full: the kernel counts the pages that a user's pipes may hold, and a
container that says little takes no more of them than any program.

Output that cannot be taken now (a full disk or one that fails; a reader that must miss nothing and is behind) stays
where it is: the container waits in write(2), and the pump looks again in a moment. Without a log, output is thrown
away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from collections.abc import Callable
from contextlib import suppress

from cove.errors import describe
from cove.kernel import pipes
from cove.runtime import seat
from cove.runtime.logs.stdio import STDOUT, Streams
from cove.runtime.logs.writer import BURST, Held, LogWriter
from cove.runtime.loop import Loop
from cove.runtime.messages import LogPolicy

_PAUSE = 0.01
_HANGUP_PAUSE = 0.2
_DISK_PAUSE = 0.1
_CONSOLE_BYTES = 64 << 10
_NONBLOCK = 2  # SPLICE_F_NONBLOCK
_WIDE = 256 << 10
_DRAIN_TURNS = 64


class Pump:
    """Owns the log's writer; borrows the streams."""

    def __init__(self, loop: Loop, streams: Streams, policy: LogPolicy | None) -> None:
        """Begin or continue the log. Raises OSError."""
        self._loop = loop
        self._streams = streams
        self._log = LogWriter(policy) if policy is not None else None
        self._nowhere = -1 if policy is not None else os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._stopped = False
        self._trouble: int | None = None
        self._narrow = {fd for fd, _ in streams.outputs}

    def start(self) -> None:
        """Move output whenever there is some."""
        for fd, stream in self._streams.outputs:
            self._watch(fd, lambda fd=fd, stream=stream: self._splice(fd, stream))  # type: ignore[misc]
        if self._streams.console is not None:
            self._watch_console(self._streams.console)

    def attach_console(self, fd: int) -> None:
        """The pty has come."""
        self._streams.console = fd
        self._watch_console(fd)

    def drain(self) -> None:
        """Take all that is left; nobody writes any more, and nobody is waited for."""
        for fd, stream in self._streams.outputs:
            if not _holds(fd):
                continue
            self._all(lambda fd=fd, stream=stream: self._splice(fd, stream, rotate=False))  # type: ignore[misc]
        console = self._streams.console
        if console is not None and not self._stopped:
            self._all(lambda: self._take_console(console, rotate=False))

    def stop(self) -> None:
        """Let go of the log; before the streams are closed."""
        self._stopped = True
        for fd, _ in self._streams.outputs:
            self._loop.unwatch(fd)
        if self._streams.console is not None:
            self._loop.unwatch(self._streams.console)
        if self._log is not None:
            self._log.close()
        if self._nowhere >= 0:
            os.close(self._nowhere)
            self._nowhere = -1

    def _watch_console(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._watch(fd, lambda: self._take_console(fd))

    def _watch(self, fd: int, move: Callable[[], int]) -> None:
        self._loop.watch(fd, lambda: self._turn(fd, move))

    def _turn(self, fd: int, move: Callable[[], int]) -> None:
        try:
            if not move():
                self._pause(fd, move, _HANGUP_PAUSE)
        except BlockingIOError:
            return
        except Held:
            self._pause(fd, move, _PAUSE)
        except OSError as error:
            self._pause(fd, move, _DISK_PAUSE)
            if error.errno != self._trouble:
                self._trouble = error.errno
                seat.warn(f"output is not logged for now: {describe(error)}")

    def _pause(self, fd: int, move: Callable[[], int], seconds: float) -> None:
        self._loop.unwatch(fd)

        def resume() -> None:
            if not self._stopped:
                self._watch(fd, move)

        self._loop.later(seconds, resume)

    def _all(self, move: Callable[[], int]) -> None:
        with suppress(OSError, Held):
            for _ in range(_DRAIN_TURNS):
                if not move():
                    break

    def _splice(self, fd: int, stream: int, *, rotate: bool = True) -> int:
        if self._log is None:
            return os.splice(fd, self._nowhere, BURST)
        if rotate:
            self._log.make_room()
        moved = self._log.splice(fd, stream)
        if moved >= pipes.CAPACITY and fd in self._narrow:
            self._narrow.discard(fd)
            pipes.widen(fd, _WIDE)
        return moved

    def _take_console(self, fd: int, *, rotate: bool = True) -> int:
        """0 when nobody has the other side open, at the moment or for good (EIO)."""
        if not self._streams.outputs:
            return self._read_console(fd)
        fifo, stream = self._streams.outputs[0]
        try:
            moved = os.splice(fd, fifo, _CONSOLE_BYTES, flags=_NONBLOCK)
        except BlockingIOError:
            raise Held from None  # there is something to read, so it is the FIFO that has no room
        except OSError as error:
            return self._read_console(fd) if error.errno == errno.EINVAL else 0
        self._splice(fifo, stream, rotate=rotate)
        return moved

    def _read_console(self, fd: int) -> int:
        """Where a terminal cannot be spliced (before Linux 5.11, or one that an older supervisor began)."""
        if self._log is not None:
            self._log.make_room()
        try:
            data = os.read(fd, _CONSOLE_BYTES)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        if data and self._log is not None:
            self._log.write(STDOUT, data)
        return len(data)


def _holds(pipe: int) -> bool:
    """Whether there is something in it (FIONREAD)."""
    return any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
