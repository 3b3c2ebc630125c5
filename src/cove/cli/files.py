"""Files of this machine as streams: input from a file or stdin, output that is whole or absent."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, nullcontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

_PIECE = 256 * 1024


def open_input(path: str) -> AbstractContextManager[BinaryIO]:
    """The file at `path`, or stdin for ""."""
    return open(path, "rb") if path else nullcontext(sys.stdin.buffer)


def chunks_of(source: BinaryIO) -> Iterator[bytes]:
    """Pieces as they come: a pipe is not waited for until it fills a piece."""
    fd = source.fileno()
    while data := os.read(fd, _PIECE):
        yield data


@contextmanager
def open_output(path: str) -> Iterator[BinaryIO]:
    """A file that appears at `path` only when it is complete; stdout for ""."""
    if not path:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as special:  # a device or a FIFO is written where it is
            yield special
        return
    temporary = f"{path}.{os.getpid()}.part"
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
