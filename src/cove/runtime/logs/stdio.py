"""A container's standard streams, seen from the supervisor.

Without a terminal they are FIFOs in the run directory. Output FIFOs are opened read-write by both sides, so
that a dead reader never breaks the container; their modes let a program open /dev/stdout again under any user,
while the directory around them lets nobody else in. stdin has plain write ends, in supervisor and daemon both,
so that the death of either is no end of file.

    container ── 1, 2 ──▶ FIFO ──▶ supervisor splices into the log
    daemon ──▶ FIFO ── 0 ──▶ container            with a terminal: one pty for all of it, and its output goes
                                                  through the stdout FIFO, which outlives a supervisor
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from cove.paths import ContainerRun
from cove.runtime.child.init import ChildStdio

STDOUT, STDERR = 1, 2


class Streams(msgspec.Struct):
    """The supervisor's ends: `outputs` are (descriptor, stream number); `stdin` a write end; `console` a pty."""

    outputs: list[tuple[int, int]]
    stdin: int | None = None
    console: int | None = None

    def close(self) -> None:
        for fd, _ in self.outputs:
            os.close(fd)
        self.outputs = []
        self.close_input()
        if self.console is not None:
            os.close(self.console)
            self.console = None

    def close_input(self) -> None:
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None


def make_fifos(run: ContainerRun, *, stdin: bool, terminal: bool = False) -> None:
    """Make the FIFOs in a run directory that is new, as each life of a container has its own."""
    others = [] if terminal else [run.stderr, *([run.stdin] if stdin else [])]
    for path in (run.stdout, *others):
        os.mkfifo(path, 0o600)
        os.chmod(path, 0o666)


def open_streams(run: ContainerRun, *, stdin: bool) -> Streams:
    """The supervisor's ends of FIFOs that are there: at create, and again when a new supervisor takes over."""
    with ExitStack() as undo:
        outputs = []
        for number, fd in open_outputs(run).items():
            undo.callback(os.close, fd)
            outputs.append((fd, number))
        write_end = open_input(run.stdin) if stdin else None
        undo.pop_all()
    return Streams(outputs, write_end)


def open_outputs(run: ContainerRun) -> dict[int, int]:
    """Stream numbers and descriptors of the output FIFOs that are there: with a terminal there is one."""
    found = {}
    for path, number in ((run.stdout, STDOUT), (run.stderr, STDERR)):
        with suppress(FileNotFoundError):
            found[number] = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    return found


def open_input(path: Path) -> int | None:
    """A write end of the stdin FIFO. None when nobody reads it any more."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def open_child_ends(run: ContainerRun, undo: ExitStack, *, stdin: bool, terminal: bool = False) -> ChildStdio:
    """The container's ends, closed by `undo` in the supervisor. To be opened before `open_streams`."""
    if terminal:
        return ChildStdio(console=True)

    def end(path: Path, flags: int) -> int:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        undo.callback(os.close, fd)
        os.set_blocking(fd, True)
        return fd

    source = end(run.stdin, os.O_RDONLY) if stdin else None
    return ChildStdio(source, end(run.stdout, os.O_RDWR), end(run.stderr, os.O_RDWR))
