"""Writing an archive's members below one directory, by descriptors only.

Every name is resolved inside the root by the kernel (`cove.kernel.rootpath`): absolute links and ".." stay
inside, whoever swaps them meanwhile. What already lies where a member wants to be makes room, except that
a directory stays a directory.

Two ways to use it: a **layer**, where `.wh.` names become what overlayfs understands (a character device
0:0 hides a name; directories to be made opaque are reported, because only the daemon may mark them); and a
**copy** into a container, where names are plain and directories may be protected.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cove.errors import Conflict, InvalidArgument
from cove.image.worker import members as tar
from cove.image.worker.members import Limits, Member, Source
from cove.kernel.rootpath import open_directory, open_in

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_META = ".wh..wh."  # aufs' bookkeeping, which only old tools still write
_MAX_CACHED = 128
_DEFAULT_ACL = "system.posix_acl_default"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Rules:
    """How members meet what is there.

    `layer`: whiteouts have their meaning. `keep_kinds`: a directory and a file never replace each other.
    `owner` replaces every member's own. `top`: the archive's own top directory is the one that is written into,
    which becomes as that is (a layer's always does).
    """

    layer: bool = False
    keep_kinds: bool = False
    owner: tuple[int, int] | None = None
    top: bool = False


@dataclass(slots=True)
class Totals:
    """What was written: members and the bytes of regular files."""

    members: int = 0
    size: int = 0


def extract(
    source: Source, root: int, base: str, rules: Rules, limits: Limits, opaque: Callable[[str], None]
) -> Totals:
    """Write every member below `base` inside `root`; `opaque` hears of each directory that hides the layers below."""
    writer = _Writer(root, base, rules, opaque)
    try:
        for member, data in tar.members(source, limits):
            writer.write(member, data)
        writer.finish()
    finally:
        writer.close()
    return writer.totals


class _Writer:
    def __init__(self, root: int, base: str, rules: Rules, opaque: Callable[[str], None]) -> None:
        self._root = root
        self._base = base.strip("/")
        self._rules = rules
        self._opaque = opaque
        self._parents: dict[str, int] = {}
        self._directories: dict[str, Member] = {}
        self._inheriting: set[int] = set()
        self.totals = Totals()

    def write(self, member: Member, data: Iterator[memoryview]) -> None:
        path = self._inside(member.name, member.name)
        self.totals.members += 1
        if path == self._base:
            if (self._rules.layer or self._rules.top) and member.kind == tar.DIRECTORY:
                self._dress_directory(path, member)
            return
        parent_path, _, name = path.rpartition("/")
        parent = self._parents.get(parent_path)
        if parent is None:
            parent = self._open_parent(parent_path)
        if self._rules.layer and name.startswith(WHITEOUT):
            self._whiteout(parent, parent_path, name)
        elif member.kind == tar.DIRECTORY:
            self._directory(parent, path, name, member)
        elif member.kind == tar.REGULAR:
            self._file(parent, name, member, data)
        else:
            self._special(parent, name, member)

    def finish(self) -> None:
        """Directories get last what new names in them would have changed, or inherited."""
        for path, member in self._directories.items():
            try:
                fd = open_directory(self._root, path or "/", os.O_RDONLY | os.O_NOFOLLOW)
            except OSError:
                continue  # replaced by a later member, which had its own
            try:
                if _DEFAULT_ACL in member.xattrs:
                    _set_attribute(fd, _DEFAULT_ACL, member.xattrs[_DEFAULT_ACL], member.name)
                os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
            finally:
                os.close(fd)

    def close(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        self._inheriting.clear()

    # Names

    def _inside(self, name: str, member: str) -> str:
        """`name` below the base, made plain; one that climbs out is refused."""
        plain = name[2:] if name.startswith("./") else name
        plain = plain.strip("/")
        if not plain or plain[0] == "." or "/." in plain or "//" in plain:
            plain = posixpath.normpath(name.lstrip("/") or ".")
            if plain == ".." or plain.startswith("../"):
                raise InvalidArgument(
                    f"the archive's member {member[:200]!r} leads out of the directory it belongs into"
                )
            if plain == ".":
                return self._base
        return f"{self._base}/{plain}" if self._base else plain

    def _open_parent(self, path: str) -> int:
        """The directory `path`, made if it is not there."""
        if len(self._parents) >= _MAX_CACHED:
            self.close()
        try:
            fd = open_directory(self._root, path or "/", make=(0, 0))
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidArgument(f"the archive puts members below {path[:200]!r}, which is no directory") from error
        self._parents[path] = fd
        if os.fstat(fd).st_mode & stat.S_ISGID:
            self._inheriting.add(fd)
        return fd

    # Kinds

    def _whiteout(self, parent: int, parent_path: str, name: str) -> None:
        if name == OPAQUE:
            self._opaque(parent_path)
            return
        hidden = name.removeprefix(WHITEOUT)
        if name.startswith(_META):
            return
        if hidden in ("", ".", ".."):
            raise InvalidArgument(f"the layer has the impossible whiteout {name!r}")
        self._clear(parent, hidden)
        # A whiteout needs no CAP_MKNOD; overlayfs looks at type and number alone (kernel docs, overlayfs).
        os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)

    def _directory(self, parent: int, path: str, name: str, member: Member) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(there.st_mode):
                self._refuse_kind(name, "non-directory", "directory")
                self._clear(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        self._dress_directory(path, member, parent, name)

    def _dress_directory(self, path: str, member: Member, parent: int | None = None, name: str = "") -> None:
        if parent is None:
            fd = open_directory(self._root, path or "/", os.O_RDONLY)
        else:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._dress(fd, member)
        finally:
            os.close(fd)
        self._directories[path] = member
        if member.mode & stat.S_ISGID and (known := self._parents.pop(path, None)) is not None:
            self._inheriting.discard(known)
            os.close(known)

    def _file(self, parent: int, name: str, member: Member, data: Iterator[memoryview]) -> None:
        plain = self._born_right(parent, member)
        try:
            fd = os.open(name, _NEW_FILE, member.mode if plain else 0o600, dir_fd=parent)
        except FileExistsError:
            fd = self._replace(parent, name)
            plain = False
        try:
            if member.runs is None:
                for piece in data:
                    if (written := os.write(fd, piece)) != len(piece):
                        _write(fd, piece[written:])
            else:
                _write_sparse(fd, member, data)
            if not plain:
                self._dress(fd, member)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)
        self.totals.size += member.size

    def _born_right(self, parent: int, member: Member) -> bool:
        """Whether a new file has the right owner and mode from its birth, as most of a layer's files have.

        So it is for a file of root's without set-id bits or attributes, unless its directory hands down a group.
        """
        return (
            self._rules.layer
            and member.uid == 0 == member.gid
            and member.mode <= 0o777
            and not member.xattrs
            and parent not in self._inheriting
        )

    def _replace(self, parent: int, name: str) -> int:
        """A fresh file where something lies; a file that is a mount point is written in place."""
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(there.st_mode):
            self._refuse_kind(name, "directory", "non-directory")
        try:
            self._clear(parent, name)
        except OSError as error:
            if error.errno != errno.EBUSY or not stat.S_ISREG(there.st_mode):
                raise
            return os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        return os.open(name, _NEW_FILE, 0o600, dir_fd=parent)

    def _special(self, parent: int, name: str, member: Member) -> None:
        """Links, devices and FIFOs: made in one call, after what was there is gone."""
        try:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        if there is not None:
            if stat.S_ISDIR(there.st_mode):
                self._refuse_kind(name, "directory", "non-directory")
            if member.kind == tar.HARD_LINK and self._same(there, member):
                return
            self._clear(parent, name)
        if member.kind == tar.HARD_LINK:
            self._hard_link(parent, name, member)
            return
        if member.kind == tar.SYMBOLIC_LINK:
            if not member.link:
                raise InvalidArgument(f"the archive's symbolic link {member.name[:200]!r} has no target")
            os.symlink(member.link, name, dir_fd=parent)
        elif member.kind == tar.FIFO:
            os.mknod(name, stat.S_IFIFO | member.mode, dir_fd=parent)
        else:
            kind = stat.S_IFCHR if member.kind == tar.CHARACTER else stat.S_IFBLK
            os.mknod(name, kind | member.mode, os.makedev(*member.device), dir_fd=parent)
        uid, gid = self._rules.owner or (member.uid, member.gid)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if member.mode & 0o6000 and self._rules.layer and member.kind != tar.SYMBOLIC_LINK:
            os.chmod(name, member.mode, dir_fd=parent)  # chown took these bits; nobody else is in a layer's directory
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, parent: int, name: str, member: Member) -> None:
        directory, target = posixpath.split(self._inside(member.link, member.name))
        try:
            source = open_directory(self._root, directory or "/")
        except OSError as error:
            raise _no_target(member) from error
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, PermissionError) as error:
            raise _no_target(member) from error
        finally:
            os.close(source)

    def _same(self, there: os.stat_result, member: Member) -> bool:
        """Whether a hard link's name already is what it links to: clearing it would lose the file."""
        try:
            fd = open_in(self._root, self._inside(member.link, member.name), os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return False
        target = os.fstat(fd)
        os.close(fd)
        return (target.st_dev, target.st_ino) == (there.st_dev, there.st_ino)

    # Helpers

    def _dress(self, fd: int, member: Member) -> None:
        """Owner, mode, attributes, in this order: a change of owner drops set-id bits and capabilities."""
        os.fchown(fd, *(self._rules.owner or (member.uid, member.gid)))
        os.fchmod(fd, member.mode)
        for key, value in member.xattrs.items():
            if _wanted(key) and key != _DEFAULT_ACL:  # which new files would inherit: it comes last
                _set_attribute(fd, key, value, member.name)

    def _refuse_kind(self, name: str, there: str, new: str) -> None:
        if self._rules.keep_kinds:
            raise InvalidArgument(f'cannot overwrite {there} "{name}" with {new} "{name}"')

    def _clear(self, parent: int, name: str) -> None:
        """Remove what lies there, whatever it is; directories' descriptors may now be stale."""
        try:
            os.unlink(name, dir_fd=parent)
            return
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            pass
        held = os.dup(parent)
        try:
            self.close_except(parent)
            remove_tree(held, name)
        finally:
            os.close(held)

    def close_except(self, kept: int) -> None:
        """Forget the cached directories but one."""
        for path, fd in list(self._parents.items()):
            if fd != kept:
                self._inheriting.discard(fd)
                os.close(fd)
                del self._parents[path]


def remove_tree(parent: int, name: str) -> None:
    """rm -r by descriptors: a link is removed, never followed."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_directory in found:
            if is_directory:
                remove_tree(fd, child)
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _wanted(key: str) -> bool:
    """What an archive may set: `trusted.` is overlayfs' own, the rest of `security.` the host policy's."""
    if key.startswith("user."):
        return not key.startswith("user.overlay.")
    return key in ("security.capability", "system.posix_acl_access", "system.posix_acl_default")


def _set_attribute(fd: int, key: str, value: bytes, name: str) -> None:
    try:
        os.setxattr(fd, key, value)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return  # this file system keeps no such attributes; the file is whole without them
        if error.errno in (errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.EACCES):
            raise InvalidArgument(f"the archive's member {name[:200]!r} has an invalid attribute {key}") from error
        if error.errno == errno.EPERM and not key.startswith("security."):
            raise Conflict(f"the attribute {key} of {name[:200]!r} cannot be set here") from error
        raise


def _write(fd: int, piece: memoryview) -> None:
    written = os.write(fd, piece)
    while written < len(piece):
        written += os.write(fd, piece[written:])


def _write_sparse(fd: int, member: Member, data: Iterator[memoryview]) -> None:
    """Put each run where it belongs and leave holes between."""
    os.ftruncate(fd, member.size)
    rest = memoryview(b"")
    for offset, length in member.runs or ():
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            while not rest:
                rest = next(data)
            piece, rest = rest[:length], rest[length:]
            _write(fd, piece)
            length -= len(piece)


def _no_target(member: Member) -> InvalidArgument:
    return InvalidArgument(
        f"the archive's hard link {member.name[:200]!r} points at {member.link[:200]!r}, which is not there"
    )
