"""Paths in a container's file system as `docker cp` understands them, looked up by the confined worker.

A path is taken from the container's root. Links on the way are followed inside it; the last name's own
link is followed only when the path says so with a trailing "/" or "/.". Modes are Go's FileMode bits,
as the Engine API sends them.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat as modes
import time
from typing import Any

from cove.errors import InvalidArgument, NotFound
from cove.kernel.rootpath import components, open_in

_MAX_LINKS = 40
# Go's fs.FileMode: the kind of a file in the high bits.
_GO_DIRECTORY, _GO_SYMLINK, _GO_DEVICE, _GO_PIPE, _GO_SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
_GO_SETUID, _GO_SETGID, _GO_CHARACTER, _GO_STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20


def stat(root: int, path: str) -> dict[str, Any]:
    """The Engine API's description of a path: name, size, mode, mtime, linkTarget."""
    parent, name, shown = subject(root, path)
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    target = resolved(root, path) if modes.S_ISLNK(found.st_mode) else ""
    return {
        "name": shown if components(path) else "/",
        "size": found.st_size,
        "mode": go_mode(found.st_mode),
        "mtime": _rfc3339(found.st_mtime_ns),
        "linkTarget": target,
    }


def subject(root: int, path: str) -> tuple[int, str, str]:
    """A descriptor of the directory that `path` lies in, its name there, and what an archive calls it.

    Raises NotFound when there is nothing, InvalidArgument when a trailing slash demands a directory
    and it is none.
    """
    parts = components(path)
    whole = path.endswith(("/", "/.")) or path in ("", ".") or not parts or parts[-1] == ".."
    if whole:
        fd = _open(root, path, os.O_PATH | os.O_DIRECTORY)
        dotted = path.endswith("/.") or not parts or parts[-1] == ".."
        if path and not path.strip("/"):
            return fd, ".", "/"
        return fd, ".", "." if dotted else parts[-1]
    fd = _open(root, "/".join(parts[:-1]), os.O_PATH | os.O_DIRECTORY, path)
    try:
        os.stat(parts[-1], dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, OSError) as error:
        raise _refused(error, path) from error
    return fd, parts[-1], parts[-1]


def directory(root: int, path: str) -> str:
    """The directory to extract into, as a path without links; links that lead to it are followed."""
    os.close(_open(root, path, os.O_PATH | os.O_DIRECTORY))
    return resolved(root, path).strip("/")


def go_mode(mode: int) -> int:
    """A file's mode in Go's bits."""
    kind = {
        modes.S_IFDIR: _GO_DIRECTORY,
        modes.S_IFLNK: _GO_SYMLINK,
        modes.S_IFBLK: _GO_DEVICE,
        modes.S_IFCHR: _GO_DEVICE | _GO_CHARACTER,
        modes.S_IFIFO: _GO_PIPE,
        modes.S_IFSOCK: _GO_SOCKET,
    }.get(modes.S_IFMT(mode), 0)
    special = ((modes.S_ISUID, _GO_SETUID), (modes.S_ISGID, _GO_SETGID), (modes.S_ISVTX, _GO_STICKY))
    return kind | mode & 0o777 | sum(go for bit, go in special if mode & bit)


def resolved(root: int, path: str) -> str:
    """Where a path leads after all links, as text; what does not exist is kept as it is written.

    It is only said, or opened again inside the root: no decision rests on it.
    """
    done: list[str] = []
    left = components(path)[::-1]
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            done = done[:-1]
            continue
        target = _link(root, "/".join([*done, name]))
        if target is None:
            done.append(name)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise InvalidArgument(f"too many symbolic links lead from {path[:200]!r}")
        if target.startswith("/"):
            done = []
        left += components(target)[::-1]
    return "/" + "/".join(done)


def _link(root: int, path: str) -> str | None:
    try:
        fd = open_in(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return os.readlink("", dir_fd=fd) if modes.S_ISLNK(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _open(root: int, path: str, flags: int, called: str = "") -> int:
    try:
        return open_in(root, path or "/", flags)
    except OSError as error:
        raise _refused(error, called or path) from error


def _refused(error: OSError, path: str) -> Exception:
    if error.errno == errno.ENOENT:
        return NotFound(f"Could not find the file {path} in the container")
    if error.errno == errno.ENOTDIR:
        return InvalidArgument(f"{posixpath.normpath(path)} in the container is not a directory")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return InvalidArgument(f"{path[:200]!r} in the container leads nowhere: {os.strerror(error.errno)}")
    return error


def _rfc3339(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"
