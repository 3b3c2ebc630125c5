"""One layer's archive on its way into a new directory, through the confined worker.

The archive comes from an open file, or piece by piece while it is still being downloaded:

    feed, feed, … ─▶ pipe ─▶ worker: decompress, hash, write ─▶ finish: the diff id, the opaque marks
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from cove.errors import InvalidArgument
from cove.image.worker.members import Limits
from cove.image.worker.sandbox import PIPE, Worker
from cove.kernel.rootpath import open_directory

_OPAQUE_MARK = "trusted.overlay.opaque"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What the worker saw: the digest and length of the archive itself, and the bytes of its files."""

    diff_id: str
    archive: int
    size: int


class Extraction:
    """Into the directory behind the descriptor `root`. As a context manager: leaving it early ends the worker."""

    def __init__(self, root: int, diff_id: str, limits: Limits) -> None:
        self._root = root
        self._diff_id = diff_id
        self._limits = limits
        self._worker: Worker | None = None
        self._undo = ExitStack()

    def __enter__(self) -> Extraction:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def read_from(self, fd: int) -> None:
        """Take the whole archive from the open file `fd`."""
        self._start(fd)

    def feed(self, piece: bytes) -> None:
        """The next piece; waits while the worker is busy. Whether it is sound, `finish` tells."""
        (self._worker or self._start(PIPE)).write(piece)

    def end(self) -> None:
        """Nothing more comes; the worker goes on alone."""
        (self._worker or self._start(PIPE)).end()

    def finish(self) -> Unpacked:
        """The archive's end: what it was. InvalidArgument when it is unsound or not what was expected."""
        worker = self._worker or self._start(PIPE)
        worker.end()
        opaque: list[str] = []
        done = worker.result(lambda message: opaque.append(str(message["opaque"])))
        for path in opaque:
            _mark_opaque(self._root, path)
        return Unpacked(done["diff_id"], done["archive"], done["size"])

    def _start(self, stdin: int) -> Worker:
        job: dict[str, Any] = {"diff_id": self._diff_id, "limits": asdict(self._limits)}
        self._worker = self._undo.enter_context(Worker("unpack", self._root, stdin=stdin, **job))
        return self._worker


def _mark_opaque(root: int, path: str) -> None:
    """Hide what lower layers have in this directory (overlayfs documentation, "whiteouts and opaque directories")."""
    try:
        fd = open_directory(root, path or "/", os.O_RDONLY)
    except OSError as error:
        raise InvalidArgument(f"the layer makes {path[:200]!r} opaque, which is no directory of its") from error
    try:
        os.setxattr(fd, _OPAQUE_MARK, b"y")
    finally:
        os.close(fd)
