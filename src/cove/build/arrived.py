"""A context's archive as it arrived: held in memory, unpacked when the first step needs its files.

    body ─▶ gather: memory, digest ─▶ what the cache knows of an archive with this digest ─▶ nothing is unpacked
                                 └─▶ tree(): unpacked once, by whoever asks first ─▶ a directory

The same directory sent again is the same archive, byte for byte, or but for times (`cove.build.timeless`). It knows
nothing of Dockerfiles or steps.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cove.build import timeless
from cove.errors import Unavailable

Unpack = Callable[[int], Path]
"""Unpack what a descriptor holds from its beginning; where it lies then."""


class Arrived:
    """An archive in memory. `identity` is its digest; `close` it when nobody needs its files any more."""

    def __init__(self, fd: int, digest: str, unpack: Unpack) -> None:
        self.identity = f"archive {digest}"
        self._fd = fd
        self._unpack = unpack
        self._lock = threading.Lock()
        self._tree: Path | None = None

    @classmethod
    def there(cls, tree: Path, identity: str) -> Arrived:
        """One whose files lie on a file system already."""
        found = cls(-1, "", lambda _: tree)
        found.identity = identity
        found._tree = tree
        return found

    def tree(self) -> Path:
        """Its files on a file system. Blocks; the first call unpacks."""
        with self._lock:
            if self._tree is None:
                if self._fd < 0:
                    raise Unavailable("the build's context is gone: the build has ended")
                self._tree = self._unpack(self._fd)
                self._let_go()
            return self._tree

    def without_times(self) -> str:
        """What it is called if times do not count; its identity where that cannot be told. Blocks."""
        with self._lock:
            found = timeless.digest(self._fd) if self._fd >= 0 else None
        return self.identity if found is None else f"content {found}"

    def close(self) -> None:
        """Forget the archive, after an unpacking that is going on; the unpacked tree is its owner's to remove."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def gather(archive: Iterator[bytes], most: int) -> tuple[int, str, Iterable[bytes]]:
    """The archive in memory, a descriptor, and its digest; one that is longer than `most` comes back as its pieces.

    Then the descriptor is -1, and the pieces are all of it.
    """
    fd = os.memfd_create("cove-context", os.MFD_CLOEXEC)
    try:
        digest, length = hashlib.sha256(), 0
        for piece in archive:
            _write(fd, piece)
            digest.update(piece)
            length += len(piece)
            if length > most:
                break
        else:
            return fd, f"sha256:{digest.hexdigest()}", ()
    except BaseException:
        os.close(fd)
        raise
    return -1, "", _again(fd, archive)


def _again(fd: int, rest: Iterator[bytes]) -> Iterator[bytes]:
    """What was gathered, then what follows."""
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        while data := os.read(fd, 1 << 20):
            yield data
    finally:
        os.close(fd)
    yield from rest


def _write(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]
