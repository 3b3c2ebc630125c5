"""A build's context: the files that a client sent or that an address names, and the Dockerfile among them.

    archive on the request's body ─┐
    URL of an archive              ├─▶ unpacked by the confined worker into a directory of its own
    git repository                 ┘
    URL of a Dockerfile ───────────▶ a context of that one file

What lies there is a stranger's: it is only ever reached by descriptor inside its directory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cove.build import fetching
from cove.build.giturl import parse_git
from cove.build.layers import Workshop
from cove.errors import CoveError, InvalidArgument, NotFound, describe
from cove.image.members import Limits
from cove.kernel.rootpath import read_small
from cove.patterns import parse_ignore

_MOST = 16 << 20
_SMALL = Limits(size=16 << 20, entries=12_000)
"""What of a context may lie in memory: with 4 KiB pages and inodes, at most some 64 MiB."""
_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Context:
    """`directory` holds the files; `ignore` are the patterns of what COPY leaves out."""

    directory: Path
    dockerfile: bytes
    ignore: tuple[str, ...]


def receive(
    workshop: Workshop, scratch: Path, archive: Iterator[bytes], dockerfile: str, memory: Path | None = None
) -> Context:
    """The context out of the request's body: a small one below the empty directory `memory`, another on disk."""
    if memory is not None:
        beginning, whole = _beginning(archive)
        if whole and _fits(workshop, _new(memory), beginning):
            return opened(memory / "context", dockerfile)
        archive = chain(beginning, archive)
    directory = _new(scratch)
    workshop.gather(directory, archive)
    return opened(directory, dockerfile)


def _beginning(archive: Iterator[bytes]) -> tuple[list[bytes], bool]:
    """The first pieces, and whether they are all."""
    pieces: list[bytes] = []
    length = 0
    for piece in archive:
        pieces.append(piece)
        length += len(piece)
        if length > _SMALL.size:
            return pieces, False
    return pieces, True


def _fits(workshop: Workshop, directory: Path, pieces: list[bytes]) -> bool:
    """Unpack into a directory in memory, unless it becomes too much; a wrong archive is told of by the second try."""
    try:
        workshop.gather(directory, iter(pieces), _SMALL)
    except CoveError:
        return False
    return True


def fetch(workshop: Workshop, scratch: Path, address: str, dockerfile: str) -> Context:
    """The context that an address names: a git repository, an archive, or a Dockerfile."""
    git = parse_git(address)
    if git is not None:
        work = scratch / "repository"
        fetching.verified(git, fetching.check_out(work, git))
        return opened(fetching.subdirectory(work, git.subdirectory), dockerfile)
    if not address.lower().startswith(("http://", "https://")):
        raise InvalidArgument(f"the context {address!r} is neither a git repository nor an http(s) address")
    file = scratch / "download"
    fetching.fetch(address, file)
    directory = _new(scratch)
    if not _is_archive(file):
        shutil.move(file, directory / "Dockerfile")
        return opened(directory, "")
    workshop.gather(directory, _pieces(file))
    file.unlink()
    return opened(directory, dockerfile)


def opened(directory: Path, dockerfile: str) -> Context:
    """The Dockerfile and the patterns of a context that is there."""
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name, content = _dockerfile(root, dockerfile)
        own = _read(root, f"{name}.dockerignore")
        ignore = own if own is not None else _read(root, ".dockerignore")
    finally:
        os.close(root)
    return Context(directory, content, parse_ignore((ignore or b"").decode("utf-8", "replace")))


def _dockerfile(root: int, asked: str) -> tuple[str, bytes]:
    for name in (asked,) if asked else ("Dockerfile", "dockerfile"):
        content = _read(root, name)
        if content is not None:
            return name, content
    raise NotFound(f"failed to read dockerfile: open {asked or 'Dockerfile'}: no such file or directory")


def _read(root: int, path: str) -> bytes | None:
    try:
        return read_small(root, path, _MOST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidArgument(f"{path} of the context cannot be read: {describe(error)}") from error


def _new(scratch: Path) -> Path:
    directory = scratch / "context"
    directory.mkdir(mode=0o755)
    return directory


def _is_archive(file: Path) -> bool:
    with open(file, "rb") as opened_file:
        head = opened_file.read(512)
    return head.startswith(_MAGICS) or head[257:262] == b"ustar"


def _pieces(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as opened_file:
        while data := opened_file.read(_CHUNK):
            yield data
