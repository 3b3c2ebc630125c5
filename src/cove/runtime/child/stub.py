"""A process that is told what to do: a stub (`cove/runtime/native/stub.c`), as whoever works for it sees it.

    outfitter                                                  stub
      │── setsid, keyring, namespaces, [sync, gate] ────────────▶│ does them
      │◀─ how many were done, or which one failed ───────────────│
      │   …setns to the stub's namespaces, mounts, looks…        │
      │── Go read, directory, stdio, rights, execve ────────────▶│ end of file on its cord: the program runs
      │◀─ which one failed, [sync] ──────────────────────────────│ nobody else has sync by then: it comes back

Operations are collected and sent at the next `follow`, or at the end; a failure is raised when it is heard of, as
that of the stage in which the operation was asked for. Go is looked at here and read there: should one of the two be
killed in between, the daemon finds it unread.
"""

from __future__ import annotations

import os
import select
import socket
import struct

from cove.ipc import channel
from cove.kernel import operations, privileges, syscalls
from cove.kernel.operations import Operation
from cove.runtime.child.common import GO_BYTES, Child, Explain, decode_go
from cove.runtime.child.idmaps import Ids
from cove.runtime.messages import Go

_ERRNO = struct.Struct("=i")
_EVERYTHING = (1 << 64) - 1  # of a user namespace its first process has all capabilities
_SYNC = 0  # the index of what is given first


class Gone(Exception):
    """The stub was ended by somebody."""


class Stub(Child):
    """`pid` and `pidfd` are the stub's, `cord` the socket to it; all descriptors are owned until `release`.

    `ids`: of its user namespace, when that is not the one of who works for it, who stays outside.
    """

    def __init__(self, pid: int, pidfd: int, cord: int, sync_fd: int, gate_fd: int, proc: int) -> None:
        """`proc`: a descriptor of the host's /proc, which is not ours."""
        super().__init__(sync_fd, gate_fd)
        self.pid = pid
        self.pidfd = pidfd
        self.cord = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, cord)
        self._proc = proc
        self._given = 0
        self._awaited: list[tuple[Operation, str, Explain | None]] = []
        self._pending = operations.Program()
        self._back: list[int] = []
        self._admitted = True
        self.ids: Ids | None = None
        for fd in (sync_fd, gate_fd):
            self._pending.give(fd)

    def descriptors(self) -> list[int]:
        """What is owned."""
        return [fd for fd in (self.pidfd, self.cord.fileno(), self.sync_fd, self.gate_fd) if fd >= 0]

    def release(self) -> None:
        """Let go of it: what is still a stub then ends."""
        self.cord.close()
        for fd in (self.pidfd, self.sync_fd, self.gate_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.sync_fd = self.gate_fd = -1

    def act(self, operation: Operation, explain: Explain | None = None) -> None:
        """Have it done, sooner or later."""
        self._pending.add(operation)
        self._awaited.append((operation, self._stage, explain))

    def follow(self, kinds: int, procs: int = 0) -> None:
        """Have all done that was asked for, and be in the stub's namespaces of `kinds`."""
        for _ in range(procs):
            self.act(operations.open_filesystem("proc"))
        self._send()
        self.hear()
        syscalls.setns(self.pidfd, kinds)
        if self.ids is not None:
            privileges.own_files(self.ids.user(0), self.ids.group(0))

    def outer_user(self, uid: int) -> int:
        return uid if self.ids is None else self.ids.user(uid)

    def outer_group(self, gid: int) -> int:
        return gid if self.ids is None else self.ids.group(gid)

    def most(self) -> int:
        return super().most() if self.ids is None else _EVERYTHING

    @property
    def own_proc(self) -> int | None:
        return self._proc

    def files(self) -> str:
        return f"/proc/{self.pid}"

    def seen_in(self, proc: int) -> tuple[int, int]:
        return self._proc, self.pid

    def open_proc(self) -> int:
        return self._back.pop()

    def shed(self) -> None:
        """Its descriptors close by themselves when it executes the program."""

    def _send(self, back: int = -1) -> None:
        program = self._pending
        self._given += len(program.fds)
        self._pending = operations.Program(self._given)
        try:
            channel.send(self.cord, 0, program.encode(back), program.fds)
        except BrokenPipeError:
            raise Gone from None

    def finish(self) -> None:
        """Have the last ones done. From here on the stub alone has sync and gate; `hear` tells how it went."""
        self._send(back=_SYNC)
        os.close(self.sync_fd)
        os.close(self.gate_fd)
        self.sync_fd = self.gate_fd = -1

    def hear(self) -> None:
        """What became of the operations that were sent; Gone when no stub is left, as after an execve."""
        try:
            packet = channel.receive(self.cord)
        except ConnectionResetError:
            packet = None
        if packet is None:
            raise Gone
        awaited, self._awaited = self._awaited, []
        if self.sync_fd < 0 and packet.fds:
            self.sync_fd = packet.fds[0]
        number: int = _ERRNO.unpack(packet.body)[0]
        if not number:
            self._back += packet.fds
            return
        operation, self._stage, explain = awaited[packet.number]
        error = operations.failure(operation, number)
        raise error if explain is None else explain(error)

    def dismiss(self, code: int) -> None:
        """End it with this exit code."""
        self._pending = operations.Program(self._given)
        self._pending.add(operations.leave(code))
        try:
            self._send()
        except (Gone, OSError):
            return  # it has ended

    def has_go(self) -> bool:
        """Whether Go, or end of file instead of it, is there already."""
        look = select.poll()
        look.register(self.sync_fd, select.POLLIN)
        return bool(look.poll(0))

    def wait_for_go(self) -> Go:
        sync = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self.sync_fd)
        try:
            packet = sync.recv(GO_BYTES, socket.MSG_PEEK)
        finally:
            sync.detach()
        if not packet:
            raise Gone
        self.act(operations.discard(self.sync_fd))
        return decode_go(packet)

    def pending(self) -> list[int]:
        """The descriptors of operations that are yet to be sent."""
        return self._pending.fds

    def is_silent(self) -> bool:
        """Whether end of file is what there is to hear: the program runs."""
        try:
            return not self.cord.recv(1, socket.MSG_PEEK)
        except ConnectionResetError:
            return True
