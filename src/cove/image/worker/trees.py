"""Which files of a tree a COPY or ADD means, and their digest; inside the confined worker.

    source tree ──▶ selected (names, patterns, exclusions) ──▶ digest   what a COPY would bring: its cache key
                                                           └─▶ cove.image.worker.copying

The tree is reached by descriptors only; names in it are resolved inside its root by the kernel. Times never
count for a digest; owners do only where they are kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from cove.errors import InvalidArgument, NotFound
from cove.image.worker.index import Index
from cove.kernel.rootpath import clean, components, open_in
from cove.patterns import Ignore
from cove.wildcards import has_wildcard, matcher

_CHUNK = 1 << 20
_SMALL = 128 << 10
_MAX_LISTED = 20_000
_MOST_LINKS = 40
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CODEC = ("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Copy:
    """What a COPY or ADD asks for.

    `owner`: "user:group" in the destination's own accounts, "" keeps the source's (`root_owned`: 0:0 instead).
    `mode`: octal or symbolic, "" keeps. `unpack`: archives among the sources are unpacked; None: only if `archives`.
    `ignore` are the context's own exclusions, `excludes` the instruction's.
    """

    sources: list[str]
    destination: str = "/"
    owner: str = ""
    root_owned: bool = True
    mode: str = ""
    ignore: list[str] = field(default_factory=list)
    excludes: list[str] = field(default_factory=list)
    parents: bool = False
    unpack: bool = False
    contents: bool = True
    epoch: int | None = None


class Item(NamedTuple):
    """One selected name: what it is below the destination, and where it lies."""

    parent: int
    name: str
    path: str
    found: os.stat_result


class Selection:
    """The names that sources stand for, in order; `base` is a descriptor of the tree."""

    def __init__(self, base: int, asked: Copy) -> None:
        self._base = base
        self._asked = asked
        self._ignore = Ignore(asked.ignore)
        self._excludes = Ignore(asked.excludes)
        self._meant: dict[str, str] = {}

    def tops(self) -> list[str]:
        """The sources with their patterns resolved: paths in the tree."""
        found: list[str] = []
        for source in self._asked.sources:
            path = clean(source).strip("/")
            # A pattern that fits nothing is nothing to copy: `COPY package.json package-lock.json* ./`.
            matched = sorted(self._matching("", path.split("/"))) if has_wildcard(path) else [path]
            self._meant |= dict.fromkeys(matched, source)
            found += matched
        # What two sources mean is copied where the later one stands: it may replace what came between.
        return list(dict.fromkeys(reversed(found)))[::-1]

    def _matching(self, above: str, names: list[str]) -> Iterator[str]:
        name, rest = names[0], names[1:]
        any_depth = name == "**" and self._asked.parents  # elsewhere it is an asterisk, as in the reference
        try:
            fd = open_in(self._base, above or "/", _DIRECTORY)
        except OSError:
            return
        try:
            listed = os.listdir(fd) if has_wildcard(name) else [name]
            if not rest and not has_wildcard(name):
                os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        finally:
            os.close(fd)
        for found in listed:
            if has_wildcard(name) and not any_depth and not matcher(name).fullmatch(found):
                continue
            path = f"{above}/{found}" if above else found
            if self._ignore.excludes(path) and self._ignore.prunes(path):
                continue
            if rest:
                yield from self._matching(path, rest)
                if any_depth:
                    yield from self._matching(path, names)
            elif not self._ignore.excludes(path):
                yield path
        if any_depth and rest:
            yield from self._matching(above, rest)

    def open(self, top: str) -> tuple[int, str, os.stat_result]:
        """(directory, name in it, what it is) of a source; a link there is followed, inside the tree."""
        if not top:
            fd = os.open(".", _DIRECTORY, dir_fd=self._base)
            return fd, ".", os.fstat(fd)
        if self._ignore.excludes(top) and self._ignore.prunes(top):
            raise NotFound(f'"/{top}": not found: .dockerignore leaves it out of the context')
        try:
            fd = open_in(self._base, top, os.O_PATH)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise NotFound(f'"/{top}": not found') from error
            if error.errno == errno.ELOOP:
                raise InvalidArgument(f'"/{top}" is a link that leads nowhere') from error
            raise
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            directory = os.open(".", _DIRECTORY, dir_fd=fd)
            os.close(fd)
            return directory, ".", found
        os.close(fd)
        real = real_path(self._base, top)
        directory_path, name = posixpath.split(real)
        return open_in(self._base, directory_path or "/", _DIRECTORY), name, found

    def below(self, fd: int, path: str, context: str) -> Iterator[Item]:
        """Everything in the directory `fd`; directories before what they hold."""
        some_out = bool(self._ignore) or bool(self._excludes)
        for name in sorted(os.listdir(fd)):
            here = f"{path}/{name}" if path else name
            there = f"{context}/{name}" if context else name
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            kind = stat.S_IFMT(found.st_mode)
            if kind == stat.S_IFCHR and found.st_rdev == 0:
                continue  # a whiteout of the lowest layer
            out = some_out and (self._ignore.excludes(there) or self._excludes.excludes(here))
            if kind != stat.S_IFDIR:
                if not out:
                    yield Item(fd, name, here, found)
                continue
            if out and self._ignore.prunes(there) and self._excludes.prunes(here):
                continue
            if not out:
                yield Item(fd, name, here, found)
            inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=fd)
            try:
                yield from self.below(inner, here, there)
            finally:
                os.close(inner)

    def shown(self, top: str) -> str:
        """With `parents`, the path that is kept of one of `tops`: what follows "/./" in its source, or all."""
        before, pivot, _ = self._meant[top].partition("/./")
        return "/".join(top.split("/")[len(components(before)) :]) if pivot else top


def real_path(root: int, path: str) -> str:
    """Where a path leads after its links, as a path inside the root."""
    from cove.image.worker.inside import resolved

    return resolved(root, path).strip("/")


def landing(root: int, path: str) -> str:
    """The path with links replaced that lead to nothing, so that what they name can be made; ELOOP beyond 40."""
    done = ""
    names = [name for name in path.split("/") if name]
    for _ in range(_MOST_LINKS):
        for position, name in enumerate(names):
            text = _dangling(root, f"{done}/{name}")
            if text is not None:
                done = "" if text.startswith("/") else f"/{real_path(root, done)}"
                names = [*(each for each in text.split("/") if each not in ("", ".")), *names[position + 1 :]]
                break
            done = posixpath.normpath(f"{done}/{name}")
        else:
            return done or "/"
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _dangling(root: int, path: str) -> str | None:
    """The text of a link that leads to nothing; None for anything else."""
    try:
        os.close(open_in(root, path, os.O_PATH))
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            link = open_in(root, path, os.O_PATH | os.O_NOFOLLOW)
            try:
                return os.readlink("", dir_fd=link) if stat.S_ISLNK(os.fstat(link).st_mode) else None
            finally:
                os.close(link)
    return None


# ── digest ────────────────────────────────────────────────────────────────────────────────────────


def digest(root: int, asked: Copy, *, listed: bool, index: Index | None = None) -> dict[str, Any]:
    """What copying would bring, as one digest; with `listed`, of each file too ([path, digest]).

    Of files that the index knows as they are, the content is not read; `change` is what it tells in the end.
    """
    selection = Selection(root, asked)
    total = hashlib.sha256()
    files: list[tuple[str, str]] = []
    count = size = 0
    tops = selection.tops()
    only: str | None = None
    for top in tops:
        fd, name, found = selection.open(top)
        try:
            whole = stat.S_ISDIR(found.st_mode)
            only = top if whole and len(tops) == 1 else None
            shown = posixpath.normpath(top) if top else ""
            total.update(f"{'directory' if whole else 'file'} {posixpath.basename(top)}\0".encode(*_CODEC))
            if asked.parents:
                total.update(f"{selection.shown(top)}\0".encode(*_CODEC))
            items = selection.below(fd, "", top) if whole else iter([Item(fd, name, "", found)])
            for item in items:
                line = _described(item, asked, index, item.path if only is not None else f"{top}/{item.path}")
                total.update(line)
                count += 1
                size += item.found.st_size if stat.S_ISREG(item.found.st_mode) else 0
                if listed and len(files) < _MAX_LISTED:
                    files.append((f"{shown}/{item.path}".strip("/"), hashlib.sha256(line).hexdigest()[:16]))
        finally:
            os.close(fd)
    change = index.finish(only) if index else None
    told = asdict(change) if change else None
    return {"digest": f"sha256:{total.hexdigest()}", "files": files, "count": count, "size": size, "change": told}


def _described(item: Item, asked: Copy, index: Index | None, path: str) -> bytes:
    """All of a name that counts."""
    found = item.found
    kind = stat.S_IFMT(found.st_mode)
    mode = 0 if asked.mode else stat.S_IMODE(found.st_mode)
    owner = "" if asked.owner or asked.root_owned else f"{found.st_uid}:{found.st_gid}"
    head = f"{item.path}\0{kind:o} {mode:o} {owner} "
    if kind == stat.S_IFREG:
        content = index.content(path, found, lambda: _content_digest(item)) if index else _content_digest(item)
        return head.encode(*_CODEC) + content
    more = ""
    if kind == stat.S_IFLNK:
        more = os.readlink(item.name, dir_fd=item.parent)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        more = f"{found.st_rdev}"
    if index:
        index.content(path, found, lambda: hashlib.sha256(more.encode(*_CODEC)).digest())
    return (head + more).encode(*_CODEC) + b"\0"


def _content_digest(item: Item) -> bytes:
    fd = os.open(item.name, _OPEN, dir_fd=item.parent)
    try:
        data = os.read(fd, _SMALL)
        content = hashlib.sha256(data)
        while len(data) == _SMALL or len(data) == _CHUNK:
            data = os.read(fd, _CHUNK)
            content.update(data)
        for key in os.listxattr(fd):
            if key == "security.capability":
                content.update(key.encode() + os.getxattr(fd, key))
        return content.digest()
    finally:
        os.close(fd)
