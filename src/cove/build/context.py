"""A build's context: the files that a client sent or that an address names, and the Dockerfile among them.

    archive on the request's body ─┐    (a small one only when a step needs its files: cove.build.arrived)
    URL of an archive              ├─▶ unpacked by the confined worker into a directory of its own
    git repository                 ┘
    URL of a Dockerfile ───────────▶ a context of that one file

What lies there is a stranger's: it is only ever reached by descriptor inside its directory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cove.build import fetching
from cove.build.arrived import Arrived, gather
from cove.build.giturl import GitUrl, parse_git
from cove.build.layers import Workshop
from cove.errors import CoveError, InvalidArgument, NotFound, describe
from cove.image.worker.members import Limits
from cove.kernel.rootpath import read_small
from cove.patterns import parse_ignore

_MOST = 16 << 20
_SMALL = Limits(size=16 << 20, entries=12_000)
"""What of a context may lie in memory: with 4 KiB pages and inodes, at most some 64 MiB."""
_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Context:
    """`directory` holds the files; `ignore` are the patterns of what COPY leaves out.

    `moment`: the time of its source in seconds, None for one that tells none: a commit's, a server's Last-Modified,
    or that of the latest file in an archive.
    """

    directory: Path
    dockerfile: bytes
    ignore: tuple[str, ...]
    moment: int | None = None


class Known(Protocol):
    """What was found out about archives before, by name."""

    def same(self, name: str) -> str | None: ...

    def keep_same(self, name: str, same: str) -> None: ...

    def recipe(self, name: str) -> tuple[bytes, tuple[str, ...]] | None: ...

    def keep_recipe(self, name: str, dockerfile: bytes, ignore: tuple[str, ...]) -> None: ...


@dataclass(frozen=True, slots=True)
class Received:
    """A context that came with the request; a small one is unpacked only when its files are needed."""

    files: Path | Arrived
    dockerfile: bytes
    ignore: tuple[str, ...]


def receive(
    workshop: Workshop,
    scratch: Path,
    archive: Iterator[bytes],
    dockerfile: str,
    memory: Callable[[], Path | None],
    known: Known,
) -> Received:
    """The context out of the request's body. `memory` makes an empty directory in memory, where there can be one."""
    return recognized(hold(workshop, scratch, archive, memory), dockerfile, known)


def recognized(files: Path | Arrived, dockerfile: str, known: Known) -> Received:
    """A context with its Dockerfile, for which what arrived before need not be looked at again."""
    if isinstance(files, Path):
        found = opened(files, dockerfile)
        return Received(files, found.dockerfile, found.ignore)
    try:
        same = known.same(files.identity)
        if same is None:
            same = files.without_times()
            known.keep_same(files.identity, same)
        files.identity = same
        name = f"{same} {dockerfile}"
        recipe = known.recipe(name)
        if recipe is None:
            found = opened(files.tree(), dockerfile)
            recipe = (found.dockerfile, found.ignore)
            known.keep_recipe(name, *recipe)
        return Received(files, *recipe)
    except BaseException:
        files.close()
        raise


def hold(
    workshop: Workshop, scratch: Path, archive: Iterator[bytes], memory: Callable[[], Path | None]
) -> Path | Arrived:
    """An archive as it comes: in memory when it is small, else unpacked below `scratch`."""
    fd, digest, pieces = gather(archive, _SMALL.size)
    if fd >= 0:
        return Arrived(fd, digest, lambda held: _unpacked(workshop, scratch, held, memory()))
    directory = _new(scratch)
    workshop.gather(directory, pieces)
    return directory


def _unpacked(workshop: Workshop, scratch: Path, held: int, memory: Path | None) -> Path:
    """In memory, unless it becomes too much there; a wrong archive is told of by the second try."""
    if memory is not None:
        directory = _new(memory)
        try:
            workshop.unpack(directory, held, _SMALL)
            return directory
        except CoveError:
            pass
    directory = _new(scratch)
    workshop.unpack(directory, held)
    return directory


def fetch(workshop: Workshop, scratch: Path, address: str, dockerfile: str | None) -> Context:
    """The context that an address names: a git repository, an archive, or a Dockerfile; see `opened`."""
    git = parse_git(address)
    if git is not None:
        directory, moment = _repository(scratch, git)
        return replace(opened(directory, dockerfile), moment=moment)
    return downloaded(workshop, scratch, _download(scratch, address), dockerfile)


def downloaded(workshop: Workshop, scratch: Path, file: Path, dockerfile: str | None) -> Context:
    """The context in one file: an archive, or a Dockerfile. The file's time is its source's, 0 for none."""
    directory, moment = _new(scratch), int(file.stat().st_mtime) or None
    if not _is_archive(file):
        shutil.move(file, directory / "Dockerfile")
        return replace(opened(directory, ""), moment=moment)
    workshop.gather(directory, _pieces(file))
    file.unlink()
    return replace(opened(directory, dockerfile), moment=moment or _latest(directory))


def _latest(directory: Path) -> int | None:
    """The time of the latest file below, which no link is followed to."""
    times = (
        int(entry.stat(follow_symlinks=False).st_mtime)
        for _, _, _, descriptor in os.fwalk(directory, follow_symlinks=False)
        for entry in os.scandir(descriptor)
        if not entry.is_dir(follow_symlinks=False)
    )
    return max(times, default=None)


def fetch_tree(workshop: Workshop, scratch: Path, address: str) -> Path:
    """The files that an address names: a repository's, an archive's, or the one file, called `context`."""
    git = parse_git(address)
    if git is not None:
        return _repository(scratch, git)[0]
    file, directory = _download(scratch, address), _new(scratch)
    if not _is_archive(file):
        shutil.move(file, directory / "context")
        return directory
    workshop.gather(directory, _pieces(file))
    file.unlink()
    return directory


def _repository(scratch: Path, git: GitUrl) -> tuple[Path, int]:
    """Its files, and when they were committed."""
    work = scratch / "repository"
    found = fetching.check_out(work, git)
    fetching.verified(git, found.commit)
    return fetching.subdirectory(work, git.subdirectory), found.moment


def _download(scratch: Path, address: str) -> Path:
    if not address.lower().startswith(("http://", "https://")):
        raise InvalidArgument(f"the context {address!r} is neither a git repository nor an http(s) address")
    file = scratch / "download"
    fetching.fetch(address, file)
    return file


def opened(directory: Path, dockerfile: str | None) -> Context:
    """The Dockerfile and the patterns of a context that is there; None for a Dockerfile that is somewhere else."""
    if dockerfile is None:
        return Context(directory, b"", ignored(directory))
    content, own = definition(directory, dockerfile)
    return Context(directory, content, ignored(directory) if own is None else own)


def definition(directory: Path, dockerfile: str) -> tuple[bytes, tuple[str, ...] | None]:
    """The Dockerfile of a directory, and the patterns that lie beside it under its name, None for none."""
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name, content = _dockerfile(root, dockerfile)
        own = _read(root, f"{name}.dockerignore")
    finally:
        os.close(root)
    return content, None if own is None else parse_ignore(own.decode("utf-8", "replace"))


def ignored(directory: Path) -> tuple[str, ...]:
    """The patterns that a context's own ignore file has."""
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return parse_ignore((_read(root, ".dockerignore") or b"").decode("utf-8", "replace"))
    finally:
        os.close(root)


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
