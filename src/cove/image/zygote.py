"""The process that forks confined workers: `python -m cove.image.zygote FD`.

    daemon                                        zygote                        worker
      │  "job N" + [job, stdin, stdout, report, …] │                               │
      ├───────────────────────────────────────────▶│── fork ──────────────────────▶│ confine, work, report, end
      │  "kill N"                                  │                               │
      ├───────────────────────────────────────────▶│── SIGKILL ───────────────────▶│
      │  end of file: it ends                      │

It has one thread, reads no stranger's byte, and keeps no descriptor of a job.
"""

from __future__ import annotations

import bz2  # noqa: F401  all that any job may need is loaded here, once
import gc
import grp  # noqa: F401
import json
import lzma  # noqa: F401
import os
import signal
import socket
import sys
from contextlib import suppress

import zstandard  # noqa: F401

from cove.image import worker

_MAX_FDS = 8


def main() -> None:
    """Serve until the daemon is gone."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    gc.collect()
    gc.freeze()
    running: dict[int, int] = {}
    while True:
        packet, fds, _, _ = socket.recv_fds(sock, 64, _MAX_FDS)
        if not packet:
            return
        word, number = packet.split()
        _reap(running)
        if word == b"kill":
            _kill(running.get(int(number)))
            continue
        running[int(number)] = _fork(fds, sock)
        for fd in fds:
            os.close(fd)


def _reap(running: dict[int, int]) -> None:
    """Forget those that have ended; a pid is ours until it is reaped here."""
    for number, pid in list(running.items()):
        if os.waitpid(pid, os.WNOHANG)[0]:
            del running[number]


def _kill(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _fork(fds: list[int], sock: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        sock.close()
        document = fds[0]
        job = json.loads(os.pread(document, os.fstat(document).st_size, 0))
        os.close(document)
        for name in ("root", "source", "report"):
            job[name] = fds[job[name]] if job[name] >= 0 else -1
        for target, name in ((0, "stdin"), (1, "stdout")):
            os.dup2(fds[job[name]], target)
            os.close(fds[job[name]])
        worker.perform(job)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
