"""The daemon's side of `cove.image.worker.worker`: has one made for a job, feeds it, and reads what it says.

The daemon never looks into an archive that a stranger made, nor walks a container's tree by path: it
passes descriptors and reads short reports. All functions block; they belong in an executor.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cove
from cove import errors
from cove.errors import CoveError, Internal
from cove.ipc import channel
from cove.kernel import pipes
from cove.oci.spec import Mount

PIPE, NOTHING = subprocess.PIPE, subprocess.DEVNULL
PIPE_SIZE = 1 << 20
_CHUNK = 256 << 10
_REPORT = 16 << 20
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    # In its POSIX form, so that the C library opens no time zone's file in a container's root.
    "TZ": "UTC0",
    # mallopt(3): keep the pieces' memory instead of asking the kernel for cleared pages each time.
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


class _Workshop:
    """The process that makes workers (`cove.image.worker.workshop`), started when it is needed and not there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0

    def hire(self, job: bytes, fds: Sequence[int]) -> int:
        """A new worker for `job`: its pidfd. Raises Internal."""
        with self._lock:
            for again in (False, True):
                try:
                    return self._ask(self._open(), job, fds)
                except OSError as error:
                    # It may have ended a moment ago because nothing was to be done.
                    self._close()
                    if again:
                        raise Internal(f"the archive worker cannot be started: {error}") from error
        raise AssertionError("the second attempt returns or raises")

    def _ask(self, sock: socket.socket, job: bytes, fds: Sequence[int]) -> int:
        self._number += 1
        channel.send(sock, self._number, job, fds)
        answer = channel.receive(sock)
        if answer is None:
            raise BrokenPipeError("it ended")
        if not answer.fds:
            raise Internal(answer.body.decode(errors="replace"))
        return answer.fds[0]

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = channel.pair()
            with theirs:
                # -P keeps the working directory off the path.
                self._process = subprocess.Popen(
                    [sys.executable, "-s", "-P", "-m", "cove.image.worker.workshop", str(theirs.fileno())],
                    stdin=NOTHING,
                    stdout=NOTHING,
                    pass_fds=[theirs.fileno()],
                    cwd="/",
                    env={**_ENVIRONMENT, "PYTHONPATH": str(Path(cove.__file__).parent.parent)},
                )
                # It ends when nothing is to be done, and is then buried at once.
                threading.Thread(target=self._process.wait, name="workshop", daemon=True).start()
        return self._socket

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.wait()
        self._socket = self._process = None


_workshop = _Workshop()
hire = _workshop.hire


class Worker:
    """One running job. Use as a context manager: leaving it early ends the process.

    `root` and `source` are descriptors of the trees that it works on. `stdin` and `stdout` are descriptors too,
    or PIPE to feed it and to take its output here.
    """

    def __init__(
        self,
        verb: str,
        root: int,
        *,
        mounts: Sequence[Mount] = (),
        place: str = "",
        userns: int = -1,
        stdin: int = NOTHING,
        stdout: int = NOTHING,
        source: int = -1,
        **job: Any,
    ) -> None:
        self._stdin = self._stdout = self._pidfd = -1
        self._report, report = os.pipe()
        theirs = {
            "report": report,
            "root": root,
            "source": source,
            "userns": userns,
            "stdin": stdin,
            "stdout": stdout,
        }
        ours = [report]
        try:
            if stdin == PIPE:
                theirs["stdin"], self._stdin = os.pipe()
                ours.append(theirs["stdin"])
                pipes.widen(self._stdin, PIPE_SIZE)
            if stdout == PIPE:
                self._stdout, theirs["stdout"] = os.pipe()
                ours.append(theirs["stdout"])
                pipes.widen(self._stdout, PIPE_SIZE)
            given = {name: fd for name, fd in theirs.items() if fd >= 0}
            told = {"verb": verb, "place": place, "mounts": _plain(mounts), "fds": list(given), **job}
            self._pidfd = hire(json.dumps(told).encode(), list(given.values()))
        except BaseException:
            self._close()
            raise
        finally:
            for fd in ours:
                os.close(fd)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._wait()
        self._close()

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Give the whole archive. A worker that wants no more ends this early; its report says why."""
        try:
            for chunk in chunks:
                if not self.write(chunk):
                    return
        finally:
            self.end()

    def write(self, chunk: bytes) -> bool:
        """Give the next piece of the archive; False when the worker wants no more."""
        if self._stdin < 0:
            return False
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(self._stdin, view) :]
        except BrokenPipeError:
            self.end()
            return False
        return True

    def end(self) -> None:
        """Nothing more comes."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def output(self) -> Iterator[bytes]:
        """The archive as it comes; no faster than it is taken."""
        while data := os.read(self._stdout, _CHUNK):
            yield data

    def result(self, heard: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """What the job came to, or its error; `heard` gets the messages before the last one."""
        last = listen(self._report, heard)
        self._wait()
        return outcome(last)

    def _wait(self) -> None:
        """Until the process has ended."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        ended.poll()

    def _close(self) -> None:
        for fd in (self._stdin, self._stdout, self._report, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._stdin = self._stdout = self._report = self._pidfd = -1


def listen(report: int, heard: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """The last message of a report, once it ends; `heard` gets those before it."""
    rest = b""
    total = 0
    last: dict[str, Any] = {}
    while data := os.read(report, _CHUNK):
        total += len(data)
        if total > _REPORT:
            raise Internal("the archive worker reported more than is allowed")
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            last = json.loads(line)
            if heard is not None and "done" not in last and "error" not in last:
                heard(last)
    return last


def outcome(last: dict[str, Any]) -> dict[str, Any]:
    """What a report's last message says that the job came to; or its error is raised."""
    if "done" in last:
        return dict(last["done"])
    if "error" in last:
        kind = getattr(errors, str(last["error"]), Internal)
        raise kind(str(last["message"])) if issubclass(kind, CoveError) else Internal(str(last["message"]))
    raise Internal("the archive worker died without a word")


def _plain(mounts: Sequence[Mount]) -> list[dict[str, Any]]:
    return [
        {"destination": m.destination, "source": m.source, "type": m.type, "options": list(m.options)} for m in mounts
    ]
