"""A worker that stays: it does short jobs on trees, one after the other, and sees nothing but what each gives it.

    daemon (`cove.image.worker.hands`)                     worker
      │                                                      │ mount namespace with an empty root, once
      │  job (JSON) · report, root, source                   │
      ├─────────────────────────────────────────────────────▶│ copy, amend, digest, make, seal
      │◀──────────────────────────── report: JSON line, end ─┤

The trees are detached mounts, which nobody can leave by "..", and are let go before the report ends. It ends when
nothing came for a while, after many jobs, and when it ran out of memory.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import socket
from contextlib import suppress
from typing import Any

from cove.errors import describe
from cove.image.worker import confine, worker
from cove.ipc import channel

_IDLE_MS = 5000
_MOST_JOBS = 500
_GROWN = 256 << 10
"""KiB of memory at most that it ever needed, beyond which it does no further job."""


def serve(jobs: int, *, reads_trusted: bool) -> None:
    """Do the jobs that come over the socket `jobs`; returns when it is to end."""
    sock = socket.socket(fileno=jobs)
    try:
        confine.leave_files(reads_trusted=reads_trusted)
    except OSError as error:
        _refuse(sock, f"cannot confine the archive worker: {describe(error)}")
        return
    gc.enable()
    for _ in range(_MOST_JOBS):
        packet = _next(sock)
        if packet is None:
            return
        if not _do(packet) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _GROWN:
            break
    sock.shutdown(socket.SHUT_RD)
    if packet := _queued(sock):
        _do(packet)


def _refuse(sock: socket.socket, why: str) -> None:
    """Tell the first job."""
    packet = _next(sock)
    if packet is not None:
        fds = dict(zip(json.loads(packet.body)["fds"], packet.fds, strict=True))
        worker.say(fds["report"], {"error": "Internal", "message": why})


def _next(sock: socket.socket) -> channel.Packet | None:
    """The next job; None when there is none, and then none can be sent any more."""
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    if not waiting.poll(_IDLE_MS):
        sock.shutdown(socket.SHUT_RD)  # from here on sending fails; what was sent before is done
    return _queued(sock)


def _queued(sock: socket.socket) -> channel.Packet | None:
    try:
        return channel.receive(sock)
    except OSError:
        return None


def _do(packet: channel.Packet) -> bool:
    """One job; whether another one may follow."""
    job: dict[str, Any] = json.loads(packet.body)
    fds = dict(zip(job.pop("fds"), packet.fds, strict=True))
    confine.limit_time()
    answer, sound = worker.answered(job["verb"], {**job, "source": -1, **fds}, fds["root"])
    for name, fd in fds.items():
        if name != "report":
            os.close(fd)  # what was mounted is gone when the report ends
    with suppress(OSError):  # nobody wants to know any more
        worker.say(fds["report"], answer)
    os.close(fds["report"])
    return sound
