"""A blob on its way in, kept when the way breaks: the next attempt goes on where this one stopped.

partial/<algorithm>-<hex>     the bytes that came so far, in order

with arrival ─▶ kept() (what an earlier attempt left, hashed again) ─▶ write … ─▶ commit: digest and
length compared, fsynced, named
             └▶ left without commit: the bytes stay, for a day
             └▶ what turned out wrong: the bytes go
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from cove.errors import Internal, InvalidArgument, describe
from cove.oci import digest as digests
from cove.store.files import sync_directory, write_all

T = TypeVar("T")

_CHUNK = 1 << 20
_KEPT_SECONDS = 86400.0


class Arrival:
    """One blob; not for several threads at once."""

    def __init__(self, path: Path, digest: str, size: int, destination: Path) -> None:
        self._path = path
        self._digest = digest
        self._size = size
        self._destination = destination
        self._verifier = digests.Verifier(digest)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = _storing(lambda: os.open(path, flags, 0o600))
        if os.fstat(self._fd).st_size > size:
            os.ftruncate(self._fd, 0)

    @property
    def path(self) -> Path:
        """Where the bytes lie until they are named."""
        return self._path

    @property
    def begun(self) -> bool:
        """Whether an earlier attempt left something."""
        return os.fstat(self._fd).st_size > 0

    @property
    def offset(self) -> int:
        """How many bytes have come."""
        return self._verifier.length

    def kept(self) -> Iterator[bytes]:
        """The bytes of an earlier attempt; to be read before anything is written."""
        while data := os.pread(self._fd, _CHUNK, self._verifier.length):
            self._verifier.update(data)
            yield data
        os.lseek(self._fd, self._verifier.length, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """The next bytes; InvalidArgument when they are more than announced."""
        if self._verifier.length + len(data) > self._size:
            self.discard()
            raise InvalidArgument(f"the blob {self._digest} is longer than the {self._size} bytes announced")
        _storing(lambda: write_all(self._fd, data))
        self._verifier.update(data)

    def commit(self) -> None:
        """Name the blob; InvalidArgument, and nothing is kept, when it is not what was announced."""
        if self._verifier.length != self._size or not self._verifier.agrees():
            self.discard()
            raise InvalidArgument(
                f"the content does not match its digest: expected {self._digest} of {self._size} bytes, got "
                f"{self._verifier.actual} of {self._verifier.length}"
            )
        _storing(lambda: os.fsync(self._fd))
        _storing(lambda: self._path.replace(self._destination))
        sync_directory(self._destination.parent)

    def discard(self) -> None:
        """Keep nothing."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._fd)
        with suppress(OSError):
            if self._path.stat().st_size == 0:
                self._path.unlink()


@contextmanager
def arriving(directory: Path, digest: str, size: int, destination: Path) -> Iterator[Arrival]:
    """An arrival that is closed at the end, its bytes kept unless they were committed or discarded."""
    algorithm, digits = digests.parse(digest)
    arrival = Arrival(directory / f"{algorithm}-{digits}", digest, size, destination)
    try:
        yield arrival
    finally:
        arrival.close()


def forget_old(directory: Path) -> None:
    """Remove what nobody went on with for a day."""
    oldest = time.time() - _KEPT_SECONDS
    for path in directory.iterdir():
        if path.stat().st_mtime < oldest:
            path.unlink()


def _storing(call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise Internal(f"cannot store a blob: {describe(error)}") from error
