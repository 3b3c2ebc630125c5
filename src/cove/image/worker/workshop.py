"""The process that makes archive workers: `python -m cove.image.worker.workshop FD`.

    daemon                                   workshop                          worker
      │  number · job · descriptors            │  network, IPC, UTS of its own    │
      ├───────────────────────────────────────▶│ fork ───────────────────────────▶│ cove.image.worker.worker.run(job)
      │  number · pidfd                        │                                  │
      │◀───────────────────────────────────────┤                                  │
      │◀──────────────────────────────────── report, archive ─────────────────────┤

An interpreter that starts for each layer costs more than most layers do. So one starts when the first job
comes, with everything imported that any job needs, forks for each, and ends when nothing came for a while.
Short jobs of builds share a fork, which stays (`cove.image.worker.serving`).
It never reads what a job is about, and holds nothing of the daemon's.
"""

from __future__ import annotations

import gc
import grp  # noqa: F401  all that any job may need is imported here, before any root changes
import json
import os
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

from cove.errors import describe
from cove.image.worker import confine, serving, worker
from cove.ipc import channel

_IDLE = 5.0
_REAP_MS = 200


def main() -> None:
    """Serve the socket at the descriptor in argv until the daemon goes or nothing is to be done."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    try:
        confine.leave_host()
    except OSError as error:
        # A client that gets this instead of a pidfd tells it.
        channel.send(sock, 0, f"cannot confine the archive worker: {describe(error)}".encode())
        return
    gc.collect()
    gc.freeze()
    gc.disable()
    children = 0
    asked = time.monotonic()
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    while True:
        left = asked + _IDLE - time.monotonic()
        ready = waiting.poll(_REAP_MS if children else max(0, left) * 1000)
        children -= _reap()
        if ready:
            packet = _next(sock)
            if packet is None:
                return
            _answer(sock, packet)
            children += 1
            asked = time.monotonic()
        elif not children and left <= 0:
            return


def _next(sock: socket.socket) -> channel.Packet | None:
    """The next job; None when the daemon has gone, whatever it had still to hear."""
    try:
        return channel.receive(sock)
    except ConnectionError:
        return None


def _answer(sock: socket.socket, packet: channel.Packet) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        packet.close()
        channel.send(sock, packet.number, f"cannot make an archive worker: {describe(error)}".encode())
        return
    if pid == 0:
        _work(sock, packet)
    pidfd = os.pidfd_open(pid)
    packet.close()
    with suppress(OSError):  # the daemon is gone; the worker notices when its pipes end
        channel.send(sock, packet.number, b"", [pidfd])
    os.close(pidfd)


def _work(sock: socket.socket, packet: channel.Packet) -> NoReturn:
    """The worker's life: its descriptors where the job says they are."""
    try:
        sock.close()
        job: dict[str, Any] = json.loads(packet.body)
        fds = dict(zip(job.pop("fds"), packet.fds, strict=True))
        for name, number in (("stdin", 0), ("stdout", 1)):
            given = fds.pop(name, -1)
            if given < 0:
                given = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            os.dup2(given, number)
            os.close(given)
        if job["verb"] == "serve":
            serving.serve(fds["jobs"], reads_trusted=job["layer"])
        else:
            worker.run({**job, "root": -1, "source": -1, "userns": -1, **fds})
    finally:
        os._exit(1)


def _reap() -> int:
    """How many workers have ended."""
    ended = 0
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            ended += 1
    return ended


if __name__ == "__main__":
    main()
