"""A minimal init: process 1 that passes signals on to the program and buries orphans.

It is what is left of the child after it took the program's rights: it holds nothing but descriptors 0 to 2,
is not dumpable, and runs this one loop.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from cove.kernel import privileges, process, syscalls

# Signals about this process itself: a fault, a stop of its own. All others are meant for the program.
_OWN = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGTTIN,
    signal.SIGTTOU,
}
_FORWARDED = {number for number in signal.valid_signals() if number not in _OWN}
_WAITED = _FORWARDED | {signal.SIGCHLD}


def split(*, foreground: bool) -> None:
    """Fork: return in the child, which becomes the program; the parent becomes the init and never returns."""
    try:
        process.retitle("/sbin/cove-init")
    except FileNotFoundError:
        pass  # without a /proc nobody sees a title either
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    program = os.fork()
    if program:
        _serve(program)
    privileges.set_dumpable(False)
    os.setpgid(0, 0)
    if foreground:
        os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def _serve(program: int) -> NoReturn:
    syscalls.close_range(3)
    while True:
        received = signal.sigwaitinfo(_WAITED)
        if received.si_signo != signal.SIGCHLD:
            _pass_on(program, received.si_signo)
            continue
        status = _bury(program)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _pass_on(program: int, number: int) -> None:
    try:
        os.kill(program, number)
    except ProcessLookupError:
        # It has ended; its SIGCHLD comes next.
        return


def _bury(program: int) -> int | None:
    """Reap all that ended; the program's status if it is among them."""
    found: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == program:
            found = status
