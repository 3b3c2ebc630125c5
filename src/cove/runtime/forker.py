"""Forkers: processes of the supervisor's that do nothing but make its children.

    supervisor                       forker                         child (the supervisor's, by CLONE_PARENT)
      │── flags, [pid ns] [cgroup] ───▶│── clone3 ─────────────────────▶│ waits on its gate
      │◀──────── pid, [pidfd, gate] ───│                                │
      │── orders (cove.runtime.child.orders), or operations ──────────▶│ becomes a container's process

A forker is apart because a fork is paid for by its parent too: every page that the parent writes afterwards is copied
or at least faulted on, and the supervisor writes many. It never changes, stays small, and holds nothing that could be
lost: when it dies, the supervisor begins another one. There are two kinds of them (`cove.runtime.makers`): one is a
program that costs nothing to fork, whose children are stubs (`of_stubs`); the other is a fork of the supervisor, for
children that do everything by themselves (`of_children`), and when the supervisor dies, it has one duty left
(`cove.runtime.keeper`).

A few children are made before anybody needs them (spares), with the namespaces that the last container asked for:
a start then begins where clone3 would have ended. They hold no container's resources, and end with the supervisor.
A spare has its own copy of the host's mounts: when those change, it is given up, as it would show a container the old
ones.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import NoReturn

import msgspec

from cove.ipc import channel
from cove.kernel import namespaces, process, syscalls
from cove.runtime.child import orders
from cove.runtime.child.credentials import write_oom_score
from cove.runtime.loop import Loop

SPARES = 2
# What a descriptor that comes with a request is, one byte each.
_KINDS = {"pid": b"p", "network": b"n", "ipc": b"i", "uts": b"u", "cgroup": b"g", "time": b"t"}
_KIND_OF = {role: kind for kind, role in _KINDS.items()}
_CGROUP = b"c"
_SOCKET = 3
"""The descriptor at which a program that is a forker finds its supervisor."""

Within = Sequence[tuple[str, int]]
Begin = Callable[[socket.socket], int]
"""Makes a forker that serves the socket, which the maker closes afterwards: its pid."""


class Newborn(msgspec.Struct, frozen=True):
    """A child that waits for its orders."""

    pid: int
    pidfd: int
    gate: socket.socket


class Forker:
    """The supervisor's side. Blocking: an answer takes as long as a clone3."""

    def __init__(self, begin: Begin) -> None:
        """`begin`: makes the process, see below."""
        self._begin = begin
        self._loop: Loop | None = None
        self._socket: socket.socket | None = None
        self._pid = 0
        self._pidfd = -1
        self._flags = 0
        self._spares: deque[Newborn] = deque()
        self._asked = 0
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._table, select.POLLPRI)

    def start(self) -> None:
        """Begin the process. One that is forked off this one is to be begun while this is small."""
        near, far = channel.pair()
        with far:
            self._pid = self._begin(far)
        self._socket = near
        self._pidfd = process.pidfd_open(self._pid)
        if self._loop is not None:
            self._loop.watch(self._pidfd, self._restart)

    def attend(self, loop: Loop) -> None:
        """Make another one as soon as this one dies, and not only when it is needed."""
        self._loop = loop
        loop.watch(self._pidfd, self._restart)

    def fork(self, flags: int, *, within: Within = (), cgroup: int | None = None, ordinary: bool = True) -> Newborn:
        """A child in new namespaces (`flags`: CLONE_NEW*); OSError when the kernel refuses.

        `within`: namespaces to be born in, each a pidfd or a descriptor of one, with its kind. `cgroup`: a v2
        control group to be born in. One that is not `ordinary` says nothing about what will be asked for next.
        """
        if within or cgroup is not None or not ordinary:
            self._collect()
            return self._ask(flags, within, cgroup)
        if flags != self._flags or self._mounts_changed():
            self._flags = flags
            self._collect()
            self._discard()
        while self._spares or self._asked:
            if not self._spares:
                self._collect(1)
                continue
            spare = self._spares.popleft()
            if not process.has_ended(spare.pidfd):
                return spare
            _bury(spare)
        return self._ask(flags, (), None)

    def _mounts_changed(self) -> bool:
        """Whether the host's mounts are others than at the last look (proc(5), mountinfo's poll)."""
        return bool(self._changes.poll(0))

    def replenish(self) -> None:
        """Order the spares that are missing, without waiting for them; to be called when there is time."""
        while self._flags and len(self._spares) + self._asked < SPARES:
            try:
                self._send(self._flags, (), None)
            except OSError:
                self._restart()
                return
            self._asked += 1

    def close(self) -> None:
        """End the forker and the spares."""
        self._discard()
        self._part()
        os.close(self._table)

    def _ask(self, flags: int, within: Within, cgroup: int | None) -> Newborn:
        try:
            self._send(flags, within, cgroup)
            return self._receive()
        except (BrokenPipeError, ConnectionResetError):
            self._restart()
            self._send(flags, within, cgroup)
            return self._receive()

    def _send(self, flags: int, within: Within, cgroup: int | None) -> None:
        if self._socket is None:
            self.start()
        assert self._socket is not None
        named = [(_KINDS[kind], fd) for kind, fd in within]
        if cgroup is not None:
            named.append((_CGROUP, cgroup))
        channel.send(self._socket, flags, b"".join(role for role, _ in named), [fd for _, fd in named])

    def _receive(self) -> Newborn:
        assert self._socket is not None
        packet = channel.receive(self._socket)
        if packet is None:
            raise ConnectionResetError(errno.ECONNRESET, "the forker died")
        if packet.body:
            number = int(packet.body)
            raise OSError(number, f"clone3: {os.strerror(number)}")
        pidfd, gate = packet.fds
        return Newborn(packet.number, pidfd, socket.socket(fileno=gate))

    def _collect(self, most: int = SPARES) -> None:
        """So many of the answers that are still to come; after all of them, the next one is the one asked for."""
        while most and self._asked:
            most -= 1
            self._asked -= 1
            try:
                self._spares.append(self._receive())
            except ConnectionResetError:
                self._restart()
            except OSError:
                continue  # no spare, then; a start that meets the same says so itself

    def _discard(self) -> None:
        while self._spares:
            _bury(self._spares.popleft())

    def _restart(self) -> None:
        self._asked = 0
        self._part()
        self.start()

    def _part(self) -> None:
        """End the forker, and bury it."""
        if self._socket is None:
            return
        os.kill(self._pid, signal.SIGKILL)
        if self._loop is not None:
            self._loop.unwatch(self._pidfd)
        self._socket.close()
        self._socket = None
        os.waitpid(self._pid, 0)
        os.close(self._pidfd)


def _bury(spare: Newborn) -> None:
    """A spare ends when its gate is closed."""
    spare.gate.close()
    os.waitid(os.P_PIDFD, spare.pidfd, os.WEXITED)
    os.close(spare.pidfd)


# ── the processes ─────────────────────────────────────────────────────────────────────────────────


def of_stubs(program: int) -> Begin:
    """A forker that executes the program of which this is a descriptor, on a mount that nobody can write to."""

    def begin(far: socket.socket) -> int:
        null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(_SOCKET)]
        pid = os.posix_spawn(
            f"/proc/self/fd/{program}",
            ["cove-stubs", "to", "start"],  # long enough for the title that a container's init gets
            {},
            file_actions=[*null, (os.POSIX_SPAWN_DUP2, far.fileno(), _SOCKET)],
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
        write_oom_score(f"/proc/{pid}/oom_score_adj", 0)
        return pid

    return begin


def of_children(bereaved: Callable[[], None] = lambda: None) -> Begin:
    """A forker that is a fork of this process. `bereaved`: what it does when the supervisor has ended, at last."""

    def begin(far: socket.socket) -> int:
        pid = os.fork()
        if pid == 0:
            _main(far.detach(), bereaved)
        return pid

    return begin


def _main(far: int, bereaved: Callable[[], None]) -> NoReturn:
    try:
        process.retitle("cove-forker")
        # What keeps the daemon from the OOM killer (OOMScoreAdjust of its unit) is not for containers.
        write_oom_score("/proc/self/oom_score_adj", 0)
        syscalls.close_range(3, far - 1)
        syscalls.close_range(far + 1)
        gc.collect()
        gc.disable()
        gc.freeze()
        with socket.socket(fileno=far) as near, suppress(ConnectionError):
            while (packet := channel.receive(near)) is not None:
                _answer(near, packet)
        bereaved()
    finally:
        os._exit(0)


def _answer(near: socket.socket, packet: channel.Packet) -> None:
    given = [(bytes([role]), fd) for role, fd in zip(packet.body, packet.fds, strict=True)]
    within = [(_KIND_OF[role], fd) for role, fd in given if role != _CGROUP]
    cgroup = next((fd for role, fd in given if role == _CGROUP), None)
    try:
        pid, pidfd, gate = _clone(packet.number, within, cgroup)
    except OSError as error:
        channel.send(near, 0, str(error.errno or errno.EINVAL).encode())
    else:
        with gate:
            channel.send(near, pid, b"", (pidfd, gate.fileno()))
        os.close(pidfd)
    finally:
        packet.close()


def _clone(flags: int, within: Within, cgroup: int | None) -> tuple[int, int, socket.socket]:
    gate, far_gate = channel.pair()
    with ExitStack() as around, far_gate:
        for kind, fd in within:
            around.enter_context(namespaces.children_in(fd, kind))
        try:
            pid, pidfd = process.clone(flags, cgroup_fd=cgroup, sibling=True, alone=True)
        except OSError:
            gate.close()
            raise
        if pid == 0:
            try:
                orders.obey(far_gate.fileno())
            finally:
                os._exit(125)
    return pid, pidfd, gate
