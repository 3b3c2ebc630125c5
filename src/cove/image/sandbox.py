"""The daemon's side of `cove.image.worker`: starts one for a job, feeds it, and reads what it says.

The daemon never looks into an archive that a stranger made, nor walks a container's tree by path: it
passes descriptors and reads short reports. All functions block; they belong in an executor.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
