"""This side's terminal: raw while a program has it, its size, the signals worth passing on.

`raw(fd)` is a context manager, and the terminal is itself again however the block ends.
`Signals` turns signals into bytes on a pipe, so that a loop around `poll` sees them in order
with everything else and no handler ever interrupts a write.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any
else:
    import _signal  # the `signal` package wraps this in enumerations, for a quarter of a start-up's time

FORWARDED = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGTERM,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGCONT,
)
RESIZED = int(_signal.SIGWINCH)


def is_terminal(fd: int) -> bool:
    return os.isatty(fd)


def size(fd: int) -> tuple[int, int] | None:
    """(rows, columns), or None where there is no terminal."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return None
    return found.lines, found.columns


class Raw:
    """The terminal without echo, line editing and signal keys, for the time of a `with` block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[Any] = []

    def __enter__(self) -> None:
        import termios

        self._before = termios.tcgetattr(self._fd)
        mode = termios.tcgetattr(self._fd)
        # The settings of cfmakeraw(3).
        mode[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSANOW, mode)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import termios

        termios.tcsetattr(self._fd, termios.TCSANOW, self._before)


class Signals:
    """Signals as bytes to read from `fd`, for the time of a `with` block."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = [int(number) for number in numbers]
        self._handlers: list[Any] = []
        self.fd = -1
        self._write = -1

    def __enter__(self) -> Signals:
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)
        self._before = _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers = [_signal.signal(number, _noted) for number in self._numbers]
        return self

    def read(self) -> list[int]:
        """The numbers of the signals that came since."""
        try:
            return list(os.read(self.fd, 64))
        except BlockingIOError:
            return []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in zip(self._numbers, self._handlers, strict=True):
            _signal.signal(number, handler)
        _signal.set_wakeup_fd(self._before)
        os.close(self.fd)
        os.close(self._write)


def _noted(number: int, frame: object) -> None:
    """The signal's number is in the pipe already; this only replaces the default action."""
