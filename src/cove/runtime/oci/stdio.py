"""What a command's own descriptors become in the container: its standard streams, and those to preserve."""

from __future__ import annotations

import os
import socket

from cove.errors import InvalidArgument
from cove.runtime.child import ChildStdio


def inherited() -> ChildStdio:
    """In the child: this process' own streams; one that is closed is the container's /dev/null."""
    return ChildStdio(_copy(0), _copy(1), _copy(2))


def _copy(fd: int) -> int | None:
    try:
        return os.dup(fd)
    except OSError:
        return None


def reserve(count: int) -> None:
    """Keep 3 to 3+count-1 for what is to be preserved. InvalidArgument when one of them is not open.

    Called before anything else is opened, so that none of ours can have taken such a number.
    """
    if count < 0:
        raise InvalidArgument(f"--preserve-fds {count} is no number of descriptors")
    for fd in range(3, 3 + count):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            raise InvalidArgument(
                f"--preserve-fds asks for descriptor {fd}, which is not open: open it, or ask for fewer"
            ) from None


def activated() -> int:
    """How many descriptors socket activation gave to this very process (sd_listen_fds(3))."""
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or os.environ.get("LISTEN_PID") not in (None, "", str(os.getpid())):
        return 0
    return int(count)


def send_master(path: str, master: int) -> None:
    """Give the pty's master to whoever listens on the unix socket `path`."""
    name = os.readlink(f"/proc/self/fd/{master}").encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise InvalidArgument(f"--console-socket {path} cannot be connected to: {error.strerror}") from None
        socket.send_fds(connection, [name], [master])
