"""A command that stays with its process: signals passed on, a terminal served, the exit code brought home.

caller's terminal (raw) ⇄ this command ⇄ pty master        one loop over both, the process and our signals
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from cove.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cove.runtime.oci.notify import Readiness

# What is about this process itself is not passed on.
_OWN = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGPIPE}
_OWN |= {signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
_PASSED = tuple(number for number in signal.valid_signals() if number not in _OWN)
_CHUNK = 1 << 16


def wait(pid: int, pidfd: int, master: int | None, readiness: Readiness | None = None) -> int:
    """Until the process has ended: its exit code, 128+n for signal n. `readiness`: to be told meanwhile."""
    with ExitStack() as undo:
        for number in _PASSED:
            with suppress(OSError):
                signal.signal(number, lambda received, _: _pass_on(pidfd, received))
        if master is not None:
            undo.enter_context(_raw_terminal(master))
            _serve(master, pidfd, readiness)
        elif readiness is not None:
            readiness.await_(os.getpid(), pidfd, barrier=False)
        _, status = os.waitpid(pid, 0)
    return process.exit_code(status)


def without_returns(master: int) -> None:
    """What is no terminal at our end shall get lines that end as the program ended them."""
    if not os.isatty(1):
        attributes = termios.tcgetattr(master)
        attributes[1] &= ~termios.ONLCR
        termios.tcsetattr(master, termios.TCSANOW, attributes)


def _pass_on(pidfd: int, number: int) -> None:
    process.send_signal(pidfd, number)


@contextmanager
def _raw_terminal(master: int) -> Iterator[None]:
    """The caller's terminal hands every key on; the pty has its size, now and when it changes."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)

    def resize() -> None:
        with suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            if any(size):  # a terminal that does not know its size leaves what the configuration says
                fcntl.ioctl(master, termios.TIOCSWINSZ, size)

    resize()
    signal.signal(signal.SIGWINCH, lambda *_: resize())
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _serve(master: int, pidfd: int, readiness: Readiness | None) -> None:
    """Copy both ways until the process has ended and all it wrote is out."""
    waiting = select.poll()
    for fd in (master, pidfd, 0):
        with suppress(OSError):
            waiting.register(fd, select.POLLIN)
    if readiness is not None:
        waiting.register(readiness, select.POLLIN)
    while True:
        ready = dict(waiting.poll())
        if readiness is not None and readiness.fileno() in ready and readiness.heard(os.getpid()):
            waiting.unregister(readiness)
        if master in ready and not _copy(master, 1):
            return
        if 0 in ready and not _copy(0, master):
            waiting.unregister(0)
            _write_all(master, b"\x04")
        if pidfd in ready and master not in ready:
            return


def _copy(source: int, target: int) -> bool:
    """One read's worth; False at the end."""
    try:
        data = os.read(source, _CHUNK)
    except OSError:
        return False  # a pty whose last slave is closed says EIO
    _write_all(target, data)
    return bool(data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
