"""A build's context on this machine: a directory without what its ignore file leaves out, or an archive on stdin.

directory ─▶ walked, sorted, excluded names left out ─▶ tar, in pieces of a quarter of a megabyte
                                  └─ large ─▶ a list of what there is; tar of what the daemon does not have of it
"""

from __future__ import annotations

import os
import stat

from cove import ustar
from cove.errors import InvalidArgument
from cove.patterns import Ignore, parse_ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from typing import BinaryIO

    Member = tuple[str, str, os.stat_result]
    """Where a file is, what it is called in the context, and what it is."""

_PIECE = 256 * 1024
_BLOCK = ustar.BLOCK
_MANY, _LARGE = 2000, 16 << 20


class Directory:
    """What a directory's context has. `dockerfile` is what the Dockerfile is called in it."""

    def __init__(self, place: str, dockerfile: str, members: list[Member], extra: list[tuple[str, bytes]]) -> None:
        self._place = place
        self.dockerfile = dockerfile
        self._members = members
        self._extra = extra

    @property
    def large(self) -> bool:
        """Whether it pays to ask what the daemon has of it."""
        sizes = (found.st_size for _, _, found in self._members if stat.S_ISREG(found.st_mode))
        return len(self._members) > _MANY or sum(sizes) > _LARGE

    @property
    def key(self) -> str:
        """What the directory is called from one build to the next, among those of all machines."""
        import hashlib

        try:
            with open("/etc/machine-id", encoding="ascii") as file:
                machine = file.read().strip()
        except OSError:
            machine = os.uname().nodename
        found, path = os.stat(self._place), os.path.realpath(self._place)
        whole = f"{machine} {path} {found.st_dev} {found.st_ino}".encode(errors="surrogateescape")
        return f"{path.encode(errors='replace').decode()} {hashlib.sha256(whole).hexdigest()[:16]}"

    def listing(self) -> bytes:
        """What there is, as the daemon takes it; what comes from elsewhere has no time, and is always sent."""
        import json

        rows: list[tuple[str, int, int, int, str]] = [(_plain(name), 0, 0, 0, "") for name, _ in self._extra]
        firsts: dict[tuple[int, int], str] = {}
        for path, name, found in self._members:
            size, link = 0, ""
            if stat.S_ISREG(found.st_mode):
                size, first = found.st_size, _first(name, found, firsts)
                link = "" if first == name else first
            elif stat.S_ISLNK(found.st_mode):
                link = os.readlink(path)
            rows.append((_plain(name), found.st_mode, size, found.st_mtime_ns, _plain(link)))
        return json.dumps(rows, separators=(",", ":")).encode()

    def archive(self, known: Iterable[int] = ()) -> Iterator[bytes]:
        """The archive, without the content of what the daemon has: `known` are places in the listing."""
        left_out = {place - len(self._extra) for place in known}
        return _gathered(_archive(self._members, self._extra, left_out))


def of_directory(directory: str, dockerfile: str) -> Directory:
    """A directory's context.

    `dockerfile` may lie elsewhere, or be "-" for stdin; "" is Dockerfile in the directory.
    """
    if not os.path.isdir(directory):
        raise InvalidArgument(f"the build context {directory} is not a directory")
    extra: list[tuple[str, bytes]] = []
    name = dockerfile or "Dockerfile"
    inside = _inside(directory, dockerfile) if dockerfile and dockerfile != "-" else name
    if dockerfile == "-":
        import sys

        inside, content = ".dockerfile.stdin", sys.stdin.buffer.read()
        extra.append((inside, content))
    elif not inside:
        inside = ".dockerfile.elsewhere"
        with open(dockerfile, "rb") as file:
            extra.append((inside, file.read()))
    elif not dockerfile and not os.path.exists(os.path.join(directory, name)):
        name = inside = "dockerfile" if os.path.exists(os.path.join(directory, "dockerfile")) else name
    patterns, ignore_file = _patterns(directory, inside)
    if extra:
        extra.append((".dockerignore", "\n".join((*patterns, inside, ".dockerignore")).encode()))
    kept = {inside, ignore_file}
    given = {name for name, _ in extra}
    members = list(_walked(directory, "", Ignore(patterns), kept, given))
    return Directory(directory, inside, members, extra)


def of_files(directory: str) -> Iterator[bytes]:
    """The archive of a directory that is no Dockerfile's, without what its own ignore file leaves out."""
    patterns, _ = _patterns(directory, "")
    return _gathered(_archive(_walked(directory, "", Ignore(patterns), set(), set())))


def of_layout(directory: str, index: bytes) -> Iterator[bytes]:
    """The archive of an OCI image layout with another `index`; what is Docker's own in it stays away."""
    ignore = Ignore(("manifest.json", "repositories"))
    members = _walked(directory, "", ignore, set(), {"index.json"})
    return _gathered(_archive(members, [("index.json", index)]))


def of_dockerfile(content: bytes) -> Iterator[bytes]:
    """A context of nothing but a Dockerfile."""
    yield _member("Dockerfile", content) + bytes(2 * _BLOCK)


def is_archive(head: bytes) -> bool:
    """Whether what came on stdin is an archive rather than a Dockerfile."""
    magics = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
    return head.startswith(magics) or head[257:262] == b"ustar"


def from_stdin(source: BinaryIO) -> Iterator[bytes]:
    """An archive, or a Dockerfile, as it comes."""
    head = b""
    while len(head) < _BLOCK and (piece := os.read(source.fileno(), _PIECE)):
        head += piece
    if not is_archive(head):
        rest = [head]
        while piece := os.read(source.fileno(), _PIECE):
            rest.append(piece)
        yield from of_dockerfile(b"".join(rest))
        return
    yield head
    while piece := os.read(source.fileno(), _PIECE):
        yield piece


def _inside(directory: str, dockerfile: str) -> str:
    """The Dockerfile's path in the context; "" when it lies elsewhere."""
    path = dockerfile if os.path.exists(dockerfile) else os.path.join(directory, dockerfile)
    if not os.path.exists(path):
        raise InvalidArgument(f"there is no Dockerfile at {dockerfile}")
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(directory))
    return "" if relative.startswith("../") else relative


def _patterns(directory: str, dockerfile: str) -> tuple[tuple[str, ...], str]:
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                return parse_ignore(file.read()), name
        except (FileNotFoundError, NotADirectoryError):
            continue
    return (), ".dockerignore"


def _archive(
    members: Iterable[Member], extra: Iterable[tuple[str, bytes]] = (), left_out: Container[int] = ()
) -> Iterator[bytes]:
    """All members, but regular files at the places `left_out`."""
    firsts: dict[tuple[int, int], str] = {}
    for name, content in extra:
        yield _member(name, content)
    for place, (path, name, found) in enumerate(members):
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            yield _head(name + "/", found, ustar.DIRECTORY)
        elif stat.S_ISLNK(mode):
            yield _head(name, found, ustar.SYMBOLIC_LINK, os.readlink(path))
        elif stat.S_ISFIFO(mode):
            yield _head(name, found, ustar.FIFO)
        elif (first := _first(name, found, firsts)) != name:
            yield _head(name, found, ustar.HARD_LINK, first)
        elif place not in left_out:
            yield _head(name, found, ustar.REGULAR)
            yield from _content(path, found.st_size)
    yield bytes(2 * _BLOCK)


def _first(name: str, found: os.stat_result, firsts: dict[tuple[int, int], str]) -> str:
    """The first name that a regular file came by; its own unless it is a further one."""
    return firsts.setdefault((found.st_dev, found.st_ino), name) if found.st_nlink > 1 else name


def _walked(directory: str, above: str, ignore: Ignore, kept: set[str], given: set[str]) -> Iterator[Member]:
    with os.scandir(directory) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{above}/{entry.name}" if above else entry.name
        if name in given:
            continue
        out = bool(ignore) and name not in kept and ignore.excludes(name)
        if entry.is_dir(follow_symlinks=False):
            if out and ignore.prunes(name) and not any(each.startswith(f"{name}/") for each in kept):
                continue
            if not out:
                yield entry.path, name, entry.stat(follow_symlinks=False)
            yield from _walked(entry.path, name, ignore, kept, given)
        elif not out:
            found = entry.stat(follow_symlinks=False)
            if stat.S_IFMT(found.st_mode) in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO):
                yield entry.path, name, found


def _plain(text: str) -> str:
    """Any bytes of a name as text that every reader takes."""
    return text if text.isascii() else os.fsencode(text).decode("latin-1")


def _content(path: str, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes and the padding: a file that shrinks meanwhile is filled with zeros."""
    left = size
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while left and (data := os.read(fd, min(left, _PIECE))):
            left -= len(data)
            yield data
    finally:
        os.close(fd)
    if left or size % _BLOCK:
        yield bytes(left + -size % _BLOCK)


def _head(name: str, found: os.stat_result, kind: bytes, link: str = "") -> bytes:
    size = found.st_size if kind == ustar.REGULAR else 0
    encoded, target = os.fsencode(name), os.fsencode(link)
    mtime = max(0, int(found.st_mtime))
    plain = ustar.header(encoded, mode=found.st_mode, size=size, mtime=mtime, kind=kind, link=target)
    if plain is not None:
        return plain
    import tarfile  # only for names and sizes that a plain header cannot hold: importing it takes longer than most

    info = tarfile.TarInfo(name)
    info.mode, info.size, info.mtime, info.type = stat.S_IMODE(found.st_mode), size, mtime, kind
    info.linkname = link
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _member(name: str, content: bytes) -> bytes:
    head = ustar.header(os.fsencode(name), mode=0o644, size=len(content))
    assert head is not None
    return head + content + bytes(-len(content) % _BLOCK)


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        if len(buffer) >= _PIECE:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)
