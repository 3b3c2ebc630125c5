"""Readiness (sd_notify(3)): a container's program tells it, and the service manager of the caller hears it.

With NOTIFY_SOCKET in a command's environment, as runc has it:

    create   a directory of the container's own is mounted at /run/notify, and named in the program's NOTIFY_SOCKET
    start    makes the socket in it, lets the program run, and waits until it is ready or has ended
             program ── READY=1 ──▶ ROOT/ID/notify/notify.sock ── READY=1, MAINPID, BARRIER=1 ──▶ NOTIFY_SOCKET

`run` does both; with --detach it waits like `start`, otherwise it goes on serving the program meanwhile, and is the
main process itself. What else a program tells is not passed on: it is not the service manager's service.
"""

from __future__ import annotations

import os
import select

# The C module: `start` pays for what is imported.
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET
from _socket import socket as Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cove.runtime.oci.log import Log
    from cove.runtime.oci.store import Container

DIRECTORY, WITHIN = "notify", "/run/notify"
VARIABLE = f"NOTIFY_SOCKET={WITHIN}/notify.sock"
_NAME = f"{DIRECTORY}/notify.sock"
_DATAGRAM = 4096
_PATIENCE = 30_000
"""Milliseconds for a service manager that does not know barriers."""


def asked() -> str:
    """The caller's service manager; "" for none."""
    return os.environ.get("NOTIFY_SOCKET", "")


def prepare(container: Container) -> str:
    """Make the directory that is mounted in the container: its path."""
    os.mkdir(DIRECTORY, 0o755, dir_fd=container.fd)
    return f"{container.path}/{DIRECTORY}"


def listen(container: Container, log: Log) -> Readiness | None:
    """The socket, before the program runs; None when it was made without one or nobody wants to know."""
    if not asked() or not os.access(DIRECTORY, os.F_OK, dir_fd=container.fd):
        return None
    try:
        os.unlink(_NAME, dir_fd=container.fd)
    except FileNotFoundError:
        pass
    socket = Socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    socket.bind(f"/proc/self/fd/{container.fd}/{_NAME}")
    os.chmod(_NAME, 0o777, dir_fd=container.fd)  # the program is whoever it is
    return Readiness(socket, asked(), log)


class Readiness:
    """What the program says on its socket."""

    __slots__ = ("_address", "_log", "_socket")

    def __init__(self, socket: Socket, address: str, log: Log) -> None:
        self._socket, self._address, self._log = socket, address, log

    def fileno(self) -> int:
        return self._socket.fileno()

    def await_(self, pid: int, pidfd: int, *, barrier: bool) -> None:
        """Until it is ready, which is told with `pid` as the main process, or until it (`pidfd`) has ended."""
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        waiting.register(pidfd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in waiting.poll()}
            if self.fileno() in ready:
                if self.heard(pid, barrier=barrier):
                    return
            elif pidfd in ready:
                return

    def heard(self, pid: int, *, barrier: bool = False) -> bool:
        """Take one datagram; whether it said READY, which has been told then.

        `barrier`: wait until the service manager has taken it, which looks at the process that told it.
        """
        # Descriptors that come along (a barrier of the program's own) are closed by the kernel.
        said = self._socket.recv(_DATAGRAM).split(b"\n")
        ready = next((line for line in said if line.startswith(b"READY=")), b"")
        if not ready:
            return False
        try:
            self._tell(ready, pid, barrier=barrier)
        except OSError as error:
            self._log.warning(
                f"NOTIFY_SOCKET {self._address} was not told that the program is ready: {error.strerror}"
            )
        return True

    def _tell(self, ready: bytes, pid: int, *, barrier: bool) -> None:
        host = Socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            host.connect(f"\0{self._address[1:]}" if self._address.startswith("@") else self._address)
            host.send(ready + b"\n")
            host.send(b"MAINPID=%d\n" % pid)
            if barrier:
                self._await_barrier(host)
        finally:
            host.close()

    def _await_barrier(self, host: Socket) -> None:
        """sd_notify_barrier(3): the service manager closes a pipe once it has come to it."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                host.sendmsg([b"BARRIER=1"], [(SOL_SOCKET, SCM_RIGHTS, theirs.to_bytes(4, "little"))])
            finally:
                os.close(theirs)
            closed = select.poll()
            closed.register(ours, 0)
            if not closed.poll(_PATIENCE):
                self._log.warning(f"NOTIFY_SOCKET {self._address} has not answered a barrier for 30 seconds")
        finally:
            os.close(ours)
