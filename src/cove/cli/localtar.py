"""Tar archives from and to this machine's file system, for `cove cp`.

`pack` streams a local path as an archive. `unpack` writes an archive that came out of a
container, which may be hostile: every name is walked from a directory descriptor, one
component at a time, never through a symbolic link, so nothing lands outside the target.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile

from cove import pax
from cove.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 512
_PIECE = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def pack(path: str, name: str, *, follow: bool, keep_ids: bool) -> Iterator[bytes]:
    """The archive of `path`, in which it is called `name`; `follow` resolves a link at the top."""
    top = os.path.realpath(path) if follow else path
    yield from _entries(top, name, keep_ids=keep_ids, seen={})
    yield bytes(2 * _BLOCK)


def _entries(path: str, name: str, *, keep_ids: bool, seen: dict[tuple[int, int], str]) -> Iterator[bytes]:
    found = os.lstat(path)
    mode = found.st_mode
    if stat.S_ISSOCK(mode):
        return  # it has no place in an archive
    known = pax.attributes(path) if keep_ids and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) else None
    info = pax.member(name.rstrip("/") + "/" * stat.S_ISDIR(mode), found, known)
    if not keep_ids:
        info.uid = info.gid = 0
    if stat.S_ISLNK(mode):
        info.linkname = os.readlink(path)
    first = seen.setdefault((found.st_dev, found.st_ino), name) if found.st_nlink > 1 else name
    if stat.S_ISREG(mode) and first == name:
        yield from _file(path, info)
        return
    if stat.S_ISREG(mode):
        info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
    yield pax.header(info)
    if stat.S_ISDIR(mode):
        for child in sorted(os.listdir(path)):
            yield from _entries(os.path.join(path, child), f"{name}/{child}", keep_ids=keep_ids, seen=seen)


def _file(path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
    """A file, without its holes, and the padding: one that shrinks meanwhile is filled with zeros."""
    with open(path, "rb") as file:
        told = os.fstat(file.fileno())
        runs = pax.runs(file.fileno(), info.size) if told.st_blocks * _BLOCK < info.size else None
        yield pax.header(info) if runs is None else pax.sparse(info, runs)
        for offset, length in runs or [(0, info.size)]:
            file.seek(offset)
            left = length
            while left:
                data = file.read(min(left, _PIECE)) or bytes(min(left, _PIECE))
                left -= len(data)
                yield data
    yield bytes(-info.size % _BLOCK)


def renamed(chunks: Iterator[bytes], name: str, *, keep_ids: bool) -> Iterator[bytes]:
    """The archive that comes in `chunks`, its topmost entry called `name` ("." for what is in it alone)."""

    def under(old: str) -> str:
        return "/".join([name, *old.strip("/").split("/")[1:]])

    try:
        with _reading(chunks) as archive:
            for info in archive:
                # They would win over the names.
                others = {key: value for key, value in info.pax_headers.items() if key not in ("path", "linkpath")}
                info.pax_headers = others
                info.name = under(info.name) + "/" * info.isdir()
                if info.islnk():
                    info.linkname = under(info.linkname)
                if not keep_ids:
                    info.uid = info.gid = 0
                    info.uname = info.gname = ""
                yield from _again(archive, info)
    except tarfile.TarError as error:
        raise InvalidArgument(f"the archive that came out of the container is damaged: {error}") from error
    yield bytes(2 * _BLOCK)


def _again(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    """A member that was read, written under the name it has now."""
    data = _data(archive, info) if info.isreg() else iter(())
    if (found := _holes(info)) is not None:
        yield pax.sparse(info, found)
    else:
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    for _, piece in data:
        yield piece
    if info.isreg():
        yield bytes(-info.size % _BLOCK)


def _reading(chunks: Iterator[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=ChunkReader(chunks), mode="r|")  # type: ignore[call-overload, no-any-return]


def _holes(info: tarfile.TarInfo) -> list[tuple[int, int]] | None:
    """Where a member with holes has data, and its end; None for one without."""
    found: list[tuple[int, int]] | None = getattr(info, "sparse", None)  # which is not what its stub says
    return None if found is None else pax.ended([run for run in found if run[1]], info.size)


def _data(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[tuple[int, bytes]]:
    """(offset, piece) of a file's data, without what its holes would read as."""
    found, stream = _holes(info), archive.fileobj
    assert stream is not None
    stream.seek(info.offset_data)
    for offset, length in found if found is not None else [(0, info.size)]:
        at, left = offset, length
        while left:
            piece = stream.read(min(left, _PIECE))
            if not piece:
                raise tarfile.ReadError("unexpected end of data")
            yield at, piece
            at, left = at + len(piece), left - len(piece)


class ChunkReader:
    """An iterator of chunks as the file that `tarfile` reads."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        gathered = bytearray()
        while size < 0 or len(gathered) < size:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            piece = self._rest if size < 0 else self._rest[: size - len(gathered)]
            self._rest = self._rest[len(piece) :]
            gathered += piece
        return bytes(gathered)


def unpack(chunks: Iterator[bytes], directory: str, *, rename: tuple[str, str] | None, keep_ids: bool) -> None:
    """Write an archive below a directory; `rename` (old, new) renames its topmost entry.

    Raises InvalidArgument for a name that leads out of the directory.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _reading(chunks) as archive:
            later: list[tuple[list[str], tarfile.TarInfo]] = []
            for info in archive:
                parts = _parts(info.name, rename)
                if parts:
                    _place(archive, info, parts, root, rename=rename, keep_ids=keep_ids)
                if parts and info.isdir():
                    later.append((parts, info))
            for parts, info in reversed(later):
                _finish_directory(root, parts, info, keep_ids=keep_ids)
    except tarfile.TarError as error:
        raise InvalidArgument(f"the archive that came out of the container is damaged: {error}") from error
    finally:
        os.close(root)


def _parts(name: str, rename: tuple[str, str] | None) -> list[str]:
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise InvalidArgument(
            f"the archive that came out of the container has the name {name!r}, which leads out of it"
        )
    if rename and parts and parts[0] == rename[0]:
        parts = [*([rename[1]] if rename[1] else []), *parts[1:]]
    return parts


def _parent(root: int, parts: list[str]) -> int:
    """A descriptor of the directory that holds the last part; no component may be a link."""
    at = os.dup(root)
    for part in parts[:-1]:
        try:
            below = os.open(part, _DIRECTORY, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def _place(
    archive: tarfile.TarFile,
    info: tarfile.TarInfo,
    parts: list[str],
    root: int,
    *,
    rename: tuple[str, str] | None,
    keep_ids: bool,
) -> None:
    parent, name = _parent(root, parts), parts[-1]
    try:
        if info.isdir():
            _make_directory(parent, name)
        else:
            _clear(parent, name)
            _make_other(archive, info, parent, name, root, rename)
        if keep_ids and os.geteuid() == 0 and not info.islnk():  # its file has its owner, and may have setuid
            os.chown(name, info.uid, info.gid, dir_fd=parent, follow_symlinks=False)
        if not info.issym() and not info.isdir() and not info.islnk():
            os.chmod(name, info.mode & 0o7777, dir_fd=parent)
        if not info.isdir() and not info.islnk():
            _stamp(info, parent, name, attributes=keep_ids and info.isreg())
    finally:
        os.close(parent)


def _make_directory(parent: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise InvalidArgument(f"a directory cannot be copied over {name!r}, which is none") from None


def _clear(parent: int, name: str) -> None:
    """Take away what is in the place of a new file; a directory is never taken away."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise InvalidArgument(f"a file cannot be copied over the directory {name!r}") from None


def _make_other(
    archive: tarfile.TarFile,
    info: tarfile.TarInfo,
    parent: int,
    name: str,
    root: int,
    rename: tuple[str, str] | None,
) -> None:
    if info.isreg():
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        with open(fd, "wb") as file:
            for offset, piece in _data(archive, info):
                file.seek(offset)
                file.write(piece)
            file.truncate(info.size)
    elif info.issym():
        os.symlink(info.linkname, name, dir_fd=parent)
    elif info.islnk():
        target = _parts(info.linkname, rename)
        holder = _parent(root, target)
        try:
            os.link(target[-1], name, src_dir_fd=holder, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(holder)
    elif info.isfifo():
        os.mkfifo(name, 0o600, dir_fd=parent)
    else:
        kind = stat.S_IFCHR if info.ischr() else stat.S_IFBLK
        os.mknod(name, kind | 0o600, os.makedev(info.devmajor, info.devminor), dir_fd=parent)


def _stamp(info: tarfile.TarInfo, parent: int, name: str, *, attributes: bool) -> None:
    """A file's attributes, then its time. What a file system or an ordinary user cannot keep is left out."""
    if attributes and (wanted := pax.attributes_of(info)):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            _set_attributes(fd, wanted)
        finally:
            os.close(fd)
    when = pax.mtime_ns(info)
    os.utime(name, ns=(when, when), dir_fd=parent, follow_symlinks=False)


def _set_attributes(fd: int, wanted: dict[str, bytes]) -> None:
    for key, value in wanted.items():
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise


def _finish_directory(root: int, parts: list[str], info: tarfile.TarInfo, *, keep_ids: bool) -> None:
    """A directory's own mode, attributes and time, once nothing more is written into it."""
    parent = _parent(root, parts)
    try:
        fd = os.open(parts[-1], _DIRECTORY, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        os.fchmod(fd, info.mode & 0o7777)
        if keep_ids:
            _set_attributes(fd, pax.attributes_of(info))
        when = pax.mtime_ns(info)
        os.utime(fd, ns=(when, when))
    finally:
        os.close(fd)
