"""Decompressing and hashing an archive beside whoever writes its files.

fd ─▶ child, without any capability: decompress, hash ─▶ pipe ─▶ this process
                                             └─ at its end ─▶ "digest total", or the error
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import NoReturn

from cove.errors import CoveError, Internal, InvalidArgument, describe
from cove.image.decompress import decompressed
from cove.kernel import pipes, privileges

_READ = 128 << 10
_PIECE = 1 << 20


class Pump:
    """Decompresses and hashes in a process of its own, so that both processors work on one layer.

        fd ─▶ child, without any capability: decompress, hash ─▶ pipe ─▶ this process
                                                     └─ at its end ─▶ "digest total", or the error

    A thread would do the same work, but every short system call of the writer would then hand the
    interpreter's lock to and fro. `digest` and `total` are right once the pieces have come to their end.
    """

    def __init__(self, fd: int, limit: int, through: tuple[int, int] | None = None) -> None:
        """`through` is a pipe for the pieces, made by `wide_pipe` while that was allowed."""
        self.digest = ""
        self.total = 0
        self._pieces, pieces = through or wide_pipe()
        self._verdict, verdict = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._pieces)
            os.close(self._verdict)
            privileges.set_capabilities(0, 0, 0, 0)
            _decompress(fd, limit, pieces, verdict)
        os.close(pieces)
        os.close(verdict)

    def __iter__(self) -> Iterator[memoryview]:
        """The pieces; each is overwritten by the next one."""
        buffer = bytearray(_PIECE)
        view = memoryview(buffer)
        while count := os.readv(self._pieces, [buffer]):
            yield view[:count]
        os.close(self._pieces)
        kind, _, text = os.read(self._verdict, 65536).decode().partition(" ")
        os.close(self._verdict)
        os.waitpid(self._child, 0)
        if not kind:
            raise InvalidArgument("the archive cannot be decompressed: it needs more than is allowed")
        if not kind.startswith("sha256:"):
            raise Internal(text) if kind == "Internal" else InvalidArgument(text)
        self.digest, self.total = kind, int(text)


def wide_pipe() -> tuple[int, int]:
    """A pipe for a pump; a confined process gets a narrow one when a host's pipes are many (pipe(7))."""
    outlet, inlet = os.pipe()
    pipes.widen(inlet, _PIECE)
    return outlet, inlet


def _decompress(fd: int, limit: int, pieces: int, verdict: int) -> NoReturn:
    """The child's whole life."""
    digest = hashlib.sha256()
    total = 0
    try:
        for piece in decompressed(_reads(fd)):
            total += len(piece)
            if total > limit:
                raise InvalidArgument(f"the archive unpacks to more than the {limit} bytes allowed")
            digest.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(pieces, view) :]
        os.write(verdict, f"sha256:{digest.hexdigest()} {total}".encode())
    except CoveError as error:
        os.write(verdict, f"{type(error).__name__} {error.message}".encode())
    except OSError as error:
        os.write(verdict, f"Internal the archive cannot be read: {describe(error)}".encode())
    finally:
        os._exit(0)


def _reads(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, _READ):
        yield data
