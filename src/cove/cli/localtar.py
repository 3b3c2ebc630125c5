"""Tar archives from and to this machine's file system, for `cove cp`.

`pack` streams a local path as an archive. `unpack` writes an archive that came out of a
container, which may be hostile: every name is walked from a directory descriptor, one
component at a time, never through a symbolic link, so nothing lands outside the target.
"""

from __future__ import annotations

import os
import stat
import tarfile

from cove.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

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
    info = _header(path, name, found, keep_ids=keep_ids)
    if info is None:
        return
    key = (found.st_dev, found.st_ino)
    if info.isreg() and found.st_nlink > 1:
        if key in seen:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, seen[key], 0
        else:
            seen[key] = name
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if info.isreg():
        yield from _content(path, info.size)
    elif info.isdir():
        for child in sorted(os.listdir(path)):
            yield from _entries(os.path.join(path, child), f"{name}/{child}", keep_ids=keep_ids, seen=seen)


def _header(path: str, name: str, found: os.stat_result, *, keep_ids: bool) -> tarfile.TarInfo | None:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
    info.uid, info.gid = (found.st_uid, found.st_gid) if keep_ids else (0, 0)
    mode = found.st_mode
    if stat.S_ISREG(mode):
        info.size = found.st_size
    elif stat.S_ISDIR(mode):
        info.type, info.name = tarfile.DIRTYPE, name.rstrip("/") + "/"
    elif stat.S_ISLNK(mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISFIFO(mode):
        info.type = tarfile.FIFOTYPE
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        info.type = tarfile.CHRTYPE if stat.S_ISCHR(mode) else tarfile.BLKTYPE
        info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
    else:
        return None  # a socket: it has no place in an archive
    return info


def _content(path: str, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes and the padding: a file that shrinks meanwhile is filled with zeros."""
    left = size
    with open(path, "rb") as file:
        while left and (data := file.read(min(left, _PIECE))):
            left -= len(data)
            yield data
    while left:
        piece = min(left, _PIECE)
        left -= piece
        yield bytes(piece)
    if size % _BLOCK:
        yield bytes(_BLOCK - size % _BLOCK)


def renamed(chunks: Iterator[bytes], name: str, *, keep_ids: bool) -> Iterator[bytes]:
    """The archive that comes in `chunks`, its topmost entry called `name` ("." for what is in it alone)."""

    def under(old: str) -> str:
        return "/".join([name, *old.strip("/").split("/")[1:]])

    try:
        with tarfile.open(fileobj=ChunkReader(chunks), mode="r|") as archive:  # type: ignore[call-overload]
            for info in archive:
                for key in ("path", "linkpath"):
                    info.pax_headers.pop(key, None)  # they would win over the names
                info.name = under(info.name) + "/" * info.isdir()
                if info.islnk():
                    info.linkname = under(info.linkname)
                if not keep_ids:
                    info.uid = info.gid = 0
                    info.uname = info.gname = ""
                yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
                if info.isreg() and (source := archive.extractfile(info)) is not None:
                    while data := source.read(_PIECE):
                        yield data
                    yield bytes(-info.size % _BLOCK)
    except tarfile.TarError as error:
        raise InvalidArgument(f"the archive that came out of the container is damaged: {error}") from error
    yield bytes(2 * _BLOCK)


class ChunkReader:
    """An iterator of chunks as the file that `tarfile` reads."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._buffer) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._buffer += chunk
        if size < 0:
            size = len(self._buffer)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data


def unpack(chunks: Iterator[bytes], directory: str, *, rename: tuple[str, str] | None, keep_ids: bool) -> None:
    """Write an archive below a directory; `rename` (old, new) renames its topmost entry.

    Raises InvalidArgument for a name that leads out of the directory.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with tarfile.open(fileobj=ChunkReader(chunks), mode="r|") as archive:  # type: ignore[call-overload]
            later: list[tuple[list[str], tarfile.TarInfo]] = []
            for info in archive:
                parts = _parts(info.name, rename)
                if parts:
                    _place(archive, info, parts, root, rename=rename, keep_ids=keep_ids)
                if parts and info.isdir():
                    later.append((parts, info))
            for parts, info in reversed(later):
                _finish_directory(root, parts, info)
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
            os.utime(name, (info.mtime, info.mtime), dir_fd=parent, follow_symlinks=False)
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
        source = archive.extractfile(info)
        assert source is not None
        with open(fd, "wb") as file:
            _copy(source, file)
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


def _copy(source: IO[bytes], file: IO[bytes]) -> None:
    while data := source.read(_PIECE):
        file.write(data)


def _finish_directory(root: int, parts: list[str], info: tarfile.TarInfo) -> None:
    """A directory's own mode and time, once nothing more is written into it."""
    parent = _parent(root, parts)
    try:
        fd = os.open(parts[-1], _DIRECTORY, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        os.fchmod(fd, info.mode & 0o7777)
        os.utime(fd, (info.mtime, info.mtime))
    finally:
        os.close(fd)
