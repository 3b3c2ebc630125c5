"""Sources that clients look into before they build, each by a definition of it alone: a repository, a file by HTTP.

    Bridge.Solve(a definition of one source) ─▶ fetched ─▶ a reference ─▶ ReadFile · StatFile · ReadDir
    a build's input of the name "context"    ─▶ the same source as the build's context, by its address

So `docker buildx bake ADDRESS` reads its files. Any other graph is refused. Names in a tree are the source's: they
are resolved beneath it, by descriptor.
Source: client/llb/source.go of moby/buildkit.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cove.build import fetching, ops
from cove.build.giturl import parse_git
from cove.buildkit.files import UPLOADS
from cove.buildkit.filesync import DIRECTORY, SYMLINK
from cove.buildkit.frontend import NO_LLB
from cove.buildkit.messages import gateway as wire
from cove.buildkit.messages.common import Definition, Op, SourceOp
from cove.buildkit.messages.session import Stat
from cove.errors import InvalidArgument, NotFound, Unsupported
from cove.grpc.protobuf import decode
from cove.kernel import rootpath

Source = ops.Git | ops.Remote

_GIT = "git://"
_WEB = ("http://", "https://")
_TELLING = frozenset(
    "git.authtokensecret git.authheadersecret git.fullurl git.knownsshhosts git.mountsshsock git.keepgitdir "
    "git.skipsubmodules git.checksum http.filename http.checksum".split()
)
_MOST = 16 << 20


def read(definition: Definition) -> Source:
    """The one source that a definition consists of. Raises Unsupported for any other graph."""
    operations = [decode(Op, each) for each in definition.operations]
    match operations:
        case [Op(source=SourceOp() as source, inputs=()), Op(source=None, inputs=(_,))]:
            pass
        case _:
            raise Unsupported(NO_LLB)
    strange = source.attributes.keys() - _TELLING
    if strange or not source.identifier.startswith((_GIT, *_WEB)):
        what = f"the attribute {min(strange)} of " if strange else ""
        raise Unsupported(f"{what}the source {source.identifier} is not known to this builder: {NO_LLB}")
    if source.identifier.startswith(_GIT):
        return _git(source.identifier.removeprefix(_GIT), source.attributes)
    name = source.attributes.get("http.filename") or source.identifier.rpartition("/")[2] or "index"
    if "/" in name or name in (".", ".."):
        raise InvalidArgument(f"{name!r} cannot be a file's name")
    return ops.Remote(url=source.identifier, name=name, checksum=source.attributes.get("http.checksum", ""))


def _git(identifier: str, attributes: Mapping[str, str]) -> ops.Git:
    address, _, fragment = identifier.partition("#")
    ref, _, subdirectory = fragment.partition(":")
    for value in (attributes.get("git.fullurl", ""), address, ref, attributes.get("git.checksum", "")):
        if value.startswith("-") or "\0" in value or "\n" in value:
            raise InvalidArgument(f"invalid git source {value!r}: it must not begin with a dash")
    return ops.Git(
        url=attributes.get("git.fullurl") or f"https://{address}",
        ref=ref,
        subdirectory=subdirectory,
        checksum=attributes.get("git.checksum", ""),
        keep_git_dir=attributes.get("git.keepgitdir") == "true",
        submodules=attributes.get("git.skipsubmodules") != "true",
    )


def address(source: Source) -> str:
    """The source as a build's context."""
    if isinstance(source, ops.Remote):
        return source.url
    fragment = f"{source.ref}:{source.subdirectory}" if source.subdirectory else source.ref
    return f"{source.url}#{fragment}" if fragment else source.url


def remote(context: str) -> Source | None:
    """The source that an address of a context is; None for a client's own files."""
    if (git := parse_git(context)) is not None:
        return ops.Git(url=git.remote, ref=git.ref, subdirectory=git.subdirectory)
    own = urlsplit(context).hostname == UPLOADS
    return ops.Remote(url=context) if context.startswith(_WEB) and not own else None


def identified(source: Source) -> tuple[str, dict[str, str]]:
    """A source's identifier and attributes, as policies know them."""
    if isinstance(source, ops.Remote):
        return source.url, {"http.checksum": source.checksum} if source.checksum else {}
    plain = address(source).partition("://")[2] or address(source)
    return f"{_GIT}{plain.rpartition('@')[2]}", {"git.fullurl": source.url}


def fetch(source: Source, directory: Path) -> None:
    """Its files into a directory that is not there yet. Blocks."""
    if isinstance(source, ops.Git):
        fetching.clone(directory, source)
    else:
        fetching.download(directory, source)


# ── looking into a tree ───────────────────────────────────────────────────────────────────────────


def read_file(tree: Path, request: wire.ReadFileRequest) -> wire.ReadFileResponse:
    """A file's bytes, or a part of them. Blocks. Raises NotFound or InvalidArgument."""
    asked = request.range or wire.FileRange()
    with _opened(tree, request.path, os.O_RDONLY | os.O_NONBLOCK) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"read {request.path}: it is no regular file")
        length = asked.length or os.fstat(fd).st_size - asked.offset
        if length > _MOST:
            raise InvalidArgument(f"read {request.path}: {length} bytes are asked for, {_MOST} are the most at once")
        return wire.ReadFileResponse(data=os.pread(fd, max(length, 0), asked.offset))


def stat_file(tree: Path, request: wire.StatFileRequest) -> wire.StatFileResponse:
    """What a file is. Blocks. Raises NotFound."""
    with _opened(tree, request.path, os.O_PATH) as fd:
        return wire.StatFileResponse(stat=_told(os.path.basename(request.path.rstrip("/")), os.fstat(fd)))


def read_dir(tree: Path, request: wire.ReadDirRequest) -> wire.ReadDirResponse:
    """The entries of a directory, by name. Blocks. Raises NotFound or InvalidArgument."""
    with _opened(tree, request.path or "/", os.O_RDONLY | os.O_DIRECTORY) as fd:
        names = sorted(name for name in os.listdir(fd) if fnmatch.fnmatchcase(name, request.include or "*"))
        found = [_told(name, os.stat(name, dir_fd=fd, follow_symlinks=False)) for name in names]
    return wire.ReadDirResponse(entries=tuple(found))


@contextmanager
def _opened(tree: Path, path: str, flags: int) -> Iterator[int]:
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = rootpath.open_in(root, path, flags | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"open {path}: no such file or directory") from None
    except OSError as error:
        raise InvalidArgument(f"open {path}: {error.strerror}") from None
    finally:
        os.close(root)
    try:
        yield fd
    finally:
        os.close(fd)


def _told(name: str, found: os.stat_result) -> Stat:
    mode = found.st_mode & 0o777
    mode |= DIRECTORY if stat.S_ISDIR(found.st_mode) else SYMLINK if stat.S_ISLNK(found.st_mode) else 0
    return Stat(path=name, mode=mode, size=found.st_size, mtime_ns=found.st_mtime_ns)
