"""The outfitter: a process that stays warm, and does for stubs all that can be done to a process from outside.

    supervisor                     outfitter                              stub
      │── Orders, [stub, …] ─────────▶│── setsid, namespaces… ──────────────▶│
      │                               │   setns into its namespaces:         │
      │                               │   mounts, devices, masks, who, what  │
      │◀─ done ───────────────────────│   and back, unless Go is there       │
      │              daemon ── Go ───▶│── rights, execve ───────────────────▶│ the program

What a start costs otherwise is the memory of the process that does it: a fork copies each page that it writes, and
an execve takes all of it apart. This one's pages are its own, and stay. It works at one start at a time; those that
wait for their Go are put aside. It may hang at a source that hangs, and then only that start does: the supervisor has
others. When the supervisor is gone, it ends as soon as nothing is under way.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import msgspec

from cove.ipc import channel
from cove.kernel import namespaces, process, syscalls
from cove.runtime.child.common import hide
from cove.runtime.child.execs import Exec
from cove.runtime.child.init import Init
from cove.runtime.child.stub import Gone, Stub

Work = Init | Exec
Read = Callable[[channel.Packet, int], tuple[Work, Stub]]

DONE = b"done"
_KINDS = {"mnt": "mount", "net": "network", "ipc": "ipc", "uts": "uts", "pid": "pid", "cgroup": "cgroup"}
_FOR_GO = process.CLONE_NEWNET | process.CLONE_NEWIPC | process.CLONE_NEWUTS
_FOR_WORDS = _FOR_GO | process.CLONE_NEWNS


def run(control: int, read: Read) -> NoReturn:
    """Serve the socket `control`; `read` makes of a packet, and of a descriptor of /proc, what is to be done."""
    hide()
    process.retitle("cove-outfitter")
    os.umask(0)
    syscalls.close_range(3, control - 1)
    syscalls.close_range(control + 1)
    gc.enable()
    try:
        _Outfitter(control, read).serve()
    finally:
        os._exit(0)


class _Home:
    """Where this process is when it works for nobody: its own namespaces and groups."""

    def __init__(self) -> None:
        self._namespaces = [
            (os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), namespaces.FLAGS[kind])
            for name, kind in _KINDS.items()
        ]
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._groups = os.getgroups()

    def descriptors(self) -> list[int]:
        return [self.proc, *(fd for fd, _ in self._namespaces)]

    def is_possible(self) -> bool:
        """Whether this process can leave and come back, to the very "/", and the kernel is new enough (5.12)."""
        top = os.stat("/")
        try:
            syscalls.mount_setattr(self.proc, "", syscalls.AT_EMPTY_PATH)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return False
        with suppress(OSError):
            self.back()
            return os.path.samestat(top, os.stat("/"))
        return False

    def back(self) -> None:
        """From wherever it was, and whoever's files it made."""
        syscalls.setfsid(0, 0)
        for fd, flag in self._namespaces:
            syscalls.setns(fd, flag)
        os.setgroups(self._groups)


class _Start(msgspec.Struct):
    """A start under way: it waits for Go, or (`finished`) to be heard of for the last time."""

    work: Work
    stub: Stub
    kept: list[int]
    finished: bool = False


class _Outfitter:
    def __init__(self, control: int, read: Read) -> None:
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, control)
        self._read = read
        self._home = _Home()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._starts: dict[int, _Start] = {}
        self._serving = True

    def serve(self) -> None:
        """Until the supervisor is gone and nothing is under way; nothing at all where it cannot be done."""
        if not self._home.is_possible():
            return
        self._control.send(DONE)
        while self._serving or self._starts:
            for fd, _ in self._poll.poll():
                if fd == self._control.fileno():
                    self._ordered()
                elif (start := self._starts.get(fd)) is not None:
                    self._unwatch(start)
                    if not self._is_over(start, fd):
                        self._continue(start)
                        self._home.back()
                        self._tidy()

    def _ordered(self) -> None:
        packet = channel.arrived(self._control)
        if packet is None:
            self._serving = False
            self._poll.unregister(self._control)
            return
        work, stub = self._read(packet, self._home.proc)
        start = _Start(work, stub, [])
        if self._attempt(stub, work.prepare):
            if stub.has_go():
                self._finish(start)
            else:
                start.kept = [*work.descriptors(), *stub.pending()]
                self._watch(start, stub.sync_fd, stub.cord.fileno())
        with suppress(OSError):  # the supervisor is gone: seen in a moment
            self._control.send(DONE)
        self._home.back()
        self._tidy()

    def _is_over(self, start: _Start, fd: int) -> bool:
        """Whether there is nothing to do but to let go of it: its program runs, or it was ended while it waited."""
        over = start.stub.is_silent() if start.finished else fd != start.stub.sync_fd
        if over:
            start.stub.release()
        return over

    def _continue(self, start: _Start) -> None:
        if start.finished:
            self._attempt(start.stub, lambda: self._failed(start))
            start.stub.release()
        else:
            self._finish(start)

    def _finish(self, start: _Start) -> None:
        """Go is there, or end of file instead of it."""
        stub = start.stub

        def finish() -> None:
            syscalls.setns(stub.pidfd, _FOR_GO)
            start.work.finish(stub.wait_for_go())
            stub.finish()

        start.kept = []
        if self._attempt(stub, finish):
            start.finished = True
            self._watch(start, stub.cord.fileno())

    def _failed(self, start: _Start) -> None:
        """One of the last acts; words for it may need a look at the container's files."""
        with suppress(OSError):
            syscalls.setns(start.stub.pidfd, _FOR_WORDS)
        start.stub.hear()

    def _attempt(self, stub: Stub, work: Callable[[], None]) -> bool:
        """Whether it was done; if not, whoever waits is told why, and the stub is no more."""
        try:
            work()
        except Gone:
            stub.release()
            return False
        except Exception as error:
            stub.dismiss(stub.tell(error))
            stub.release()
            return False
        return True

    def _watch(self, start: _Start, *fds: int) -> None:
        for fd in fds:
            self._starts[fd] = start
            self._poll.register(fd, select.POLLIN)

    def _unwatch(self, start: _Start) -> None:
        for fd in [fd for fd, each in self._starts.items() if each is start]:
            del self._starts[fd]
            self._poll.unregister(fd)

    def _tidy(self) -> None:
        """Close what the last start has left: in a process of its own an execve would have done it."""
        kept = {self._control.fileno(), *self._home.descriptors()}
        for start in self._starts.values():
            kept.update(start.stub.descriptors(), start.kept)
        following = 3
        for fd in sorted(kept):
            syscalls.close_range(following, fd - 1)
            following = fd + 1
        syscalls.close_range(following)
