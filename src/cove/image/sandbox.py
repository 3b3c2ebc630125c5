"""The daemon's side of `cove.image.worker`: starts one for a job, feeds it, and reads what it says.

The daemon never looks into an archive that a stranger made, nor walks a container's tree by path: it
passes descriptors and reads short reports. All functions block; they belong in an executor.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Protocol

import cove
from cove import errors
from cove.errors import CoveError, Internal
from cove.oci.spec import Mount

_PIPE = 1 << 20
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


class _Process(Protocol):
    """What a Worker needs of its process; subprocess.Popen has it."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


class Zygote:
    """A process with everything a worker imports, which forks one for each job: two milliseconds instead of eighty.

    Each job is confined by itself, as if it had been started alone; the zygote does nothing but fork. It is
    started with the first job and ends with the daemon's end of the socket. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0

    def start(self) -> None:
        """Begin to load, so that the first job need not wait for it."""
        with self._lock:
            self._connect()

    def fork(self, job: dict[str, Any], stdin: int, stdout: int) -> _Forked:
        """A confined worker for `job`; its descriptors (root, source, report) are passed with it."""
        with ExitStack() as given:
            near_in, stdin = _end(stdin, given, writing=True)
            near_out, stdout = _end(stdout, given, writing=False)
            places = {"stdin": stdin, "stdout": stdout, "report": job["report"]}
            places |= {name: job[name] for name in ("root", "source") if job[name] >= 0}
            document = os.memfd_create("job", os.MFD_CLOEXEC)
            given.callback(os.close, document)
            numbered = {name: position for position, name in enumerate(places, 1)}
            os.pwrite(document, json.dumps(job | {"root": -1, "source": -1} | numbered).encode(), 0)
            with self._lock:
                sock = self._connect()
                self._number += 1
                number = self._number
                socket.send_fds(sock, [b"job %d" % number], [document, *places.values()])
        return _Forked(self, number, near_in, near_out)

    def kill(self, number: int) -> None:
        """End a job that nobody wants any more."""
        with self._lock, contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.send(b"kill %d" % number)

    def _connect(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        if self._socket is not None:
            self._socket.close()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "cove.image.zygote", str(far.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(far.fileno(),),
                cwd="/",
                env=_ENVIRONMENT | {"PYTHONPATH": str(Path(cove.__file__).parent.parent)},
            )
        self._socket = near
        return near

    def close(self) -> None:
        """End it; jobs that still run end with their pipes."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self._process is not None:
                self._process.wait()


class _Forked:
    """A worker of the zygote: ended when its report pipe is."""

    def __init__(self, zygote: Zygote, number: int, stdin: IO[bytes] | None, stdout: IO[bytes] | None) -> None:
        self._zygote = zygote
        self._number = number
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self._zygote.kill(self._number)

    def wait(self) -> int:
        """The report's end, which the Worker reads, is the process' end."""
        self.returncode = 0
        return 0


def _end(asked: int, given: ExitStack, *, writing: bool) -> tuple[IO[bytes] | None, int]:
    """(our end of a pipe, the worker's end), or (None, the descriptor itself)."""
    if asked == subprocess.DEVNULL:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        given.callback(os.close, null)
        return None, null
    if asked != subprocess.PIPE:
        return None, asked
    read, write = os.pipe()
    near, far = (write, read) if writing else (read, write)
    given.callback(os.close, far)
    return os.fdopen(near, "wb" if writing else "rb", buffering=0), far


class Worker:
    """One running job. Use as a context manager: leaving it early ends the process."""

    def __init__(
        self,
        verb: str,
        root: int,
        *,
        mounts: Sequence[Mount] = (),
        place: str = "",
        userns: int = -1,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        zygote: Zygote | None = None,
        source: int = -1,
        **job: Any,
    ) -> None:
        self._report, report = os.pipe()
        try:
            given = {
                "verb": verb,
                "root": root,
                "report": report,
                "place": place,
                "userns": userns,
                "mounts": _plain(mounts),
                **job,
            }
            if zygote is not None:
                self._process: _Process = zygote.fork(given | {"source": source}, stdin, stdout)
                return
            # -P keeps the working directory off the path; without site packages (-S) it starts sooner.
            site = "-s" if job.get("zstd") else "-S"
            self._process = subprocess.Popen(
                [sys.executable, site, "-P", "-m", "cove.image.worker", json.dumps(given)],
                stdin=stdin,
                stdout=stdout,
                pass_fds=[fd for fd in (root, report, userns) if fd >= 0],
                cwd="/",
                env={**_ENVIRONMENT, "PYTHONPATH": str(Path(cove.__file__).parent.parent)},
                close_fds=True,
            )
            if self._process.stdin is not None:
                fcntl.fcntl(self._process.stdin.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
        except BaseException:
            os.close(self._report)
            raise
        finally:
            os.close(report)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(OSError):
                while os.read(self._report, _CHUNK):
                    pass
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()
        os.close(self._report)

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
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            return False
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(stdin.fileno(), view) :]
        except BrokenPipeError:
            self.end()
            return False
        return True

    def end(self) -> None:
        """Nothing more comes."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def output(self) -> Iterator[bytes]:
        """The archive as it comes; no faster than it is taken."""
        stdout = self._process.stdout
        assert stdout is not None
        fcntl.fcntl(stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
        while data := os.read(stdout.fileno(), _CHUNK):
            yield data

    def result(self, heard: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """What the job came to, or its error; `heard` gets the messages before the last one."""
        rest = b""
        total = 0
        last: dict[str, Any] = {}
        while data := os.read(self._report, _CHUNK):
            total += len(data)
            if total > _REPORT:
                raise Internal("the archive worker reported more than is allowed")
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                last = json.loads(line)
                if heard is not None and "done" not in last and "error" not in last:
                    heard(last)
        self._process.wait()
        if "done" in last:
            return dict(last["done"])
        if "error" in last:
            kind = getattr(errors, str(last["error"]), Internal)
            raise kind(str(last["message"])) if issubclass(kind, CoveError) else Internal(str(last["message"]))
        raise Internal(f"the archive worker died without a word (status {self._process.returncode})")


def _plain(mounts: Sequence[Mount]) -> list[dict[str, Any]]:
    return [
        {"destination": m.destination, "source": m.source, "type": m.type, "options": list(m.options)} for m in mounts
    ]
