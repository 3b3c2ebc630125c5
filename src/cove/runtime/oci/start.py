"""`start`: let the program of a created container run.

As quick as can be: the listener's file is all that has to be known, and connecting to it is asking init itself.
"""

from __future__ import annotations

import os

# The C module: what `socket` adds around it costs a third of this command.
from _socket import AF_UNIX, SOCK_SEQPACKET
from _socket import socket as Socket

from cove.errors import Conflict, StartFailed
from cove.runtime.oci import store
from cove.runtime.oci.main import Call

_GO = b'{"type":"Go"}'
_PACKET = 1 << 16


def start(call: Call, words: list[str]) -> int:
    """Say Go, and hear whether the program runs."""
    call.parse(words, (), 1, 1)
    container = store.find(call.root, call.arguments[0])
    container.lock()
    _check_created(container)
    readiness = None
    if os.environ.get("NOTIFY_SOCKET"):
        from cove.runtime.oci import notify

        readiness = notify.listen(container, call.log)
    _go(container)
    if container.known.idle:
        from cove.runtime.oci import groups

        groups.begin(container.known)
    if container.known.poststart:
        _poststart(call, container)
    if readiness is not None:
        readiness.await_(container.known.pid, os.pidfd_open(container.known.pid), barrier=True)
    return 0


def _check_created(container: store.Container) -> None:
    status = container.status()
    if status == "stopped":
        raise Conflict(f"cannot start a container that has stopped: {container.id} was started, or ended before that")
    if status in ("running", "paused"):
        raise Conflict(f"cannot start an already running container: {container.id} is {status}")
    if status != "created":
        raise Conflict(f"cannot start a container in the {status} state: {container.id}")


def _go(container: store.Container) -> None:
    connection = Socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        connection.connect(container.socket_path)
        connection.send(_GO)
        os.unlink("start.sock", dir_fd=container.fd)
        answer = connection.recv(_PACKET)
    except (ConnectionError, FileNotFoundError):
        raise Conflict(f"the first process of {container.id} ended before it could be started") from None
    finally:
        connection.close()
    if answer:
        import msgspec

        from cove.runtime.messages import Failed

        failed = msgspec.json.decode(answer, type=Failed)
        raise StartFailed(failed.message, stage=failed.stage, errno=failed.errno, exit_code=failed.exit_code)


def _poststart(call: Call, container: store.Container) -> None:
    from cove.runtime.oci import afterwards

    afterwards.run_poststart(container, call.log)
