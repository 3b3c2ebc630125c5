"""Paths inside a container's file system, resolved by descriptor so that no link leads out of it.

Everything in a container's root is hostile: links point at the host, names change between two looks, small
files are endless. Each function takes a descriptor of the root (O_PATH will do) and resolves below it with
openat2(2): RESOLVE_IN_ROOT (absolute links and ".." stay inside) and RESOLVE_NO_MAGICLINKS.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from cove.kernel.syscalls import filesystem_magic, openat2

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PROC_MAGIC = 0x9FA0
_PATH_MAX = 4096
_MOST_LINKS = 40  # as the kernel follows in one path
_MOST_MOVES = 128
_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS


def open_in(root: int, path: str, flags: int = os.O_PATH, *, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` inside `root`; `resolve` adds RESOLVE_* restrictions.

    What is moved out of the root while it is looked up is looked up again, at last as what is not there.
    """
    for _ in range(_MOST_MOVES):
        try:
            return openat2(root, path or "/", flags, mode=mode, resolve=_INSIDE | resolve)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def beneath(directory: int, path: str, flags: int = os.O_PATH) -> int:
    """Open the relative `path` below `directory`; OSError(EXDEV) when it, or a link on its way, leads out."""
    return openat2(directory, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)


def clean(path: str) -> str:
    """`path` as an absolute one without ".", ".." and doubled slashes, cleaned by its letters alone."""
    return os.path.normpath("/" + path.lstrip("/"))


def components(path: str) -> list[str]:
    """The names of a path. ".." is kept: only the kernel can resolve it."""
    return [name for name in path.split("/") if name and name != "."]


def make_directories(root: int, path: str, mode: int = 0o755, owner: tuple[int, int] | None = None) -> int:
    """mkdir -p inside `root`: an O_PATH descriptor of the directory. New ones get `mode` and `owner`.

    Links on the way are followed inside the root; a dangling one is refused (EEXIST).
    """
    path = clean(path)
    try:
        return open_in(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        if path == "/":
            raise
    above, _, name = path.rpartition("/")
    parent = make_directories(root, above, mode, owner)
    try:
        return _make_one(parent, name, mode, owner)
    finally:
        os.close(parent)


def open_directory(root: int, path: str, flags: int = os.O_PATH, *, make: tuple[int, int] | None = None) -> int:
    """A directory inside `root` whose path may be longer than one call takes (PATH_MAX).

    With `make`, the owner of new ones, what is missing is made. Links are followed inside the root as far as one
    call goes, and refused (ELOOP) beyond it.
    """
    path = clean(path)
    flags |= os.O_DIRECTORY | os.O_CLOEXEC
    head, rest = _cut(path)
    if not rest:
        if make is None or flags & os.O_ACCMODE:
            return open_in(root, path, flags)
        return make_directories(root, path, owner=make)
    fd = open_directory(root, head, make=make)
    while rest:
        head, rest = _cut(rest) if make is None else _first(rest)
        above = fd
        try:
            if make is not None:
                with suppress(FileExistsError):
                    os.close(_make_one(above, head, 0o755, make))
            wanted = flags if not rest else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            fd = openat2(above, head, wanted, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        finally:
            os.close(above)
    return fd


def _cut(path: str) -> tuple[str, str]:
    """As much of a path as one call takes, and the rest."""
    if len(path) * 4 < _PATH_MAX or len(os.fsencode(path)) < _PATH_MAX:
        return path, ""
    at = path.rfind("/", 1, _PATH_MAX // 4)
    return (path[:at], path[at + 1 :]) if at > 0 else _first(path.lstrip("/"))


def _first(path: str) -> tuple[str, str]:
    first, _, rest = path.partition("/")
    return first, rest


def _make_one(parent: int, name: str, mode: int, owner: tuple[int, int] | None) -> int:
    os.mkdir(name, mode, dir_fd=parent)
    made = openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    os.fchmod(made, mode | (os.fstat(made).st_mode & stat.S_ISGID))  # which the kernel inherits from above
    if owner is not None:
        os.fchown(made, *owner)
    return made


def mount_target(root: int, path: str, *, directory: bool, resolve: int = 0) -> int:
    """A descriptor of the place to mount on, made (a directory, or an empty file) where absent.

    A dangling link, as images have for /etc/resolv.conf, is followed inside the root: its target is made.
    """
    path = clean(path)
    try:
        return open_in(root, path, os.O_PATH, resolve=resolve)
    except FileNotFoundError:
        path = path if resolve else _without_links(root, path)
    if directory:
        made = make_directories(root, path)
        if not resolve:
            return made
        os.close(made)
        return open_in(root, path, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
    above, _, name = path.rpartition("/")
    parent = make_directories(root, above)
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
        return openat2(parent, name, os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    finally:
        os.close(parent)


def _without_links(root: int, path: str) -> str:
    """`path` with its links replaced by what they say, dangling ones too; a name, to be resolved in `root` again."""
    done: list[str] = []
    names, links = components(path)[::-1], 0
    while names:
        name = names.pop()
        if name == "..":
            del done[-1:]
            continue
        try:
            fd = open_in(root, "/" + "/".join((*done, name)), os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            done.append(name)
            continue
        try:
            target = os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)
        if target is None:
            done.append(name)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith("/"):
            done.clear()
        names += components(target)[::-1]
    return "/" + "/".join(done)


def exists(root: int, path: str) -> bool:
    """Whether anything is there inside `root`."""
    try:
        os.close(open_in(root, clean(path), os.O_PATH))
    except OSError:
        return False
    return True


Expect = Callable[[int], None]
"""Looks at a descriptor that was opened with O_PATH; raises when it is not what was expected."""


def open_expected(
    root: int, path: str, flags: int, expect: Expect, *, proc: int | None = None, resolve: int = 0
) -> int:
    """Open what `expect` has looked at. A device acts when it is opened, which a look does not do.

    `proc`: a procfs in which this process is "self", to open the very thing that was looked at. Without it the name
    is opened once more: for a process that may open no other devices than whoever could swap the name meanwhile.
    """
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    handle = open_in(root, path, os.O_PATH, resolve=resolve)
    try:
        expect(handle)
        if proc is not None:
            return os.open(f"self/fd/{handle}", flags, dir_fd=proc)
        found = open_in(root, path, flags, resolve=resolve)
    finally:
        os.close(handle)
    try:
        expect(found)
    except BaseException:
        os.close(found)
        raise
    return found


class Irregular(OSError):
    """It is no regular file."""


def expect_regular(fd: int) -> None:
    """Irregular (EINVAL) unless it is a regular file."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Irregular(errno.EINVAL, "not a regular file")


def read_small(root: int, path: str, limit: int = 1 << 20, *, proc: int | None = None) -> bytes:
    """The content of a regular file; OSError(EFBIG) beyond `limit` bytes, OSError(EINVAL) for anything else.

    A FIFO or device is never opened for reading, so it can neither block nor act; `proc` as for `open_expected`.
    """
    readable = open_expected(root, path, os.O_RDONLY, expect_regular, proc=proc)
    with open(readable, "rb", buffering=0) as file:
        content = bytearray()
        while len(content) <= limit:
            chunk = file.read(limit + 1 - len(content))
            if not chunk:
                return bytes(content)
            content += chunk
    raise OSError(errno.EFBIG, f"larger than {limit} bytes", path)


def write_procfs(proc: int, path: str, content: bytes) -> None:
    """Write to a file of a procfs whose root is `proc`, see `open_procfs`."""
    fd = open_procfs(proc, path)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def open_procfs(proc: int, path: str) -> int:
    """A file of the procfs whose root is `proc`, to be written; checked to be of one, no link, no mount crossed."""
    fd = openat2(
        proc, path, os.O_WRONLY | os.O_NOCTTY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
    )
    if filesystem_magic(fd) != PROC_MAGIC:
        os.close(fd)
        raise OSError(errno.EINVAL, "not a procfs file", path)
    return fd
