"""Files of this machine as streams: input from a file or stdin, output that is whole or absent."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, nullcontext

from cove.cli.flags import Call, UsageError
from cove.cli.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

_PIECE = 256 * 1024


def output_of(call: Call) -> str:
    """Where `-o` says that a tar archive goes, "" for stdout. Raises UsageError for a terminal."""
    path = call.text("output")
    if not path and is_terminal(1):
        raise UsageError("a tar archive is not for a terminal; use -o FILE, or send it somewhere with | or >")
    return path


def input_of(call: Call, doing: str = "import") -> str:
    """Where `-i` says that an archive comes from, "" for stdin. Raises UsageError for a terminal."""
    path = call.text("input")
    if not path and is_terminal(0):
        raise UsageError(f"there is no archive to {doing}: use -i FILE, or send one to stdin")
    return path


def write_all(chunks: Iterable[bytes], path: str) -> None:
    """Every piece into the file at `path`, which is whole or absent; to stdout for ""."""
    with open_output(path) as out:
        for chunk in chunks:
            out.write(chunk)


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
