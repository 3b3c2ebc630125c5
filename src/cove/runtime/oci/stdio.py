"""What a command's own descriptors become in the container: its standard streams, and those to preserve."""

from __future__ import annotations

import os
import socket

from cove.errors import InvalidArgument
from cove.runtime.child.common import ChildStdio


def inherited() -> ChildStdio:
    """In the child: this process' own streams; one that is closed is the container's /dev/null."""
    return ChildStdio(_copy(0), _copy(1), _copy(2))


def _copy(fd: int) -> int | None:
    try:
        return os.dup(fd)
    except OSError:
        return None


def reserve(asked: int) -> int:
    """Keep descriptors from 3 on: those of socket activation and `asked` more (--preserve-fds); how many.

    Called before anything else is opened, so that none of ours can have taken such a number. InvalidArgument when
    one that was asked for is not open; socket activation may promise more than it gives, as it is only told by
    the environment: such a number is held free.
    """
    if asked < 0:
        raise InvalidArgument(f"--preserve-fds {asked} is no number of descriptors")
    given = activated()
    for fd in range(3, 3 + given + asked):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            if fd >= 3 + given:
                raise InvalidArgument(
                    f"--preserve-fds asks for descriptor {fd}, which is not open: open it, or ask for fewer"
                ) from None
            _hold(fd)
    return given + asked


def _hold(fd: int) -> None:
    """Nothing of ours may get this number; execve frees it."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    if null != fd:
        os.dup2(null, fd, inheritable=False)
        os.close(null)


def activated() -> int:
    """How many descriptors socket activation gave to this very process (sd_listen_fds(3))."""
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or os.environ.get("LISTEN_PID") not in (None, "", str(os.getpid())):
        return 0
    return int(count)


def send_master(path: str, master: int) -> None:
    """Give the pty's master to whoever listens on the unix socket `path`."""
    _send("--console-socket", path, os.readlink(f"/proc/self/fd/{master}"), master)


def send_pidfd(path: str, pidfd: int) -> None:
    """Give a descriptor of the process to whoever listens on the unix socket `path`."""
    if path:
        _send("--pidfd-socket", path, "pidfd", pidfd)


def _send(flag: str, path: str, name: str, fd: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise InvalidArgument(f"{flag} {path} cannot be connected to: {error.strerror}") from None
        socket.send_fds(connection, [name.encode()], [fd])
