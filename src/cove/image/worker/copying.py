"""Copying files between trees for builds, inside the confined worker: what COPY and ADD do.

    Selection (cove.image.worker.trees) ──▶ directories, files, links, devices ──▶ the destination, an upper layer

Both trees are reached by descriptors only. A link in the destination that stands where a directory is copied is
followed inside the destination; anything else in the way of a file is replaced, except a directory.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterable
from typing import Any

from cove.errors import Conflict, InvalidArgument
from cove.image.pump import Pump
from cove.image.worker import extract, members
from cove.image.worker.accounts import owner_of
from cove.image.worker.chmod import mode_rule
from cove.image.worker.places import Place, Places
from cove.image.worker.trees import Copy, Item, Selection, landing
from cove.kernel.rootpath import clean, components, exists, make_directories, open_in

_CHUNK = 1 << 20
_SMALL = 128 << 10
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


def copy(source: int, root: int, upper: int, asked: Copy, limits: members.Limits) -> dict[str, Any]:
    """Copy the selection into the tree `root`, whose upper layer is `upper`; how many files and bytes.

    With -1 for the upper layer, everything goes through the overlay.
    """
    copier = Copier(source, root, upper, asked, limits)
    copier.run()
    return {"files": copier.files, "size": copier.size}


class Copier:
    """One copy into a tree."""

    def __init__(self, source: int, root: int, upper: int, asked: Copy, limits: members.Limits) -> None:
        self._source = source
        self.places = Places(root, upper)
        self.selection = Selection(source, asked)
        self.root = root
        self.asked = asked
        self._limits = limits
        self._owner = owner_of(root, asked.owner) if asked.owner else (0, 0) if asked.root_owned else None
        self._links: dict[tuple[int, int], tuple[str, str]] = {}
        self._mode = mode_rule(asked.mode)
        self.files = 0
        self.size = 0

    def run(self) -> None:
        asked = self.asked
        tops = self.selection.tops()
        destination = clean(asked.destination)
        opened = [(top, *self.selection.open(top)) for top in tops]
        several = len(opened) > 1
        trailing = asked.destination.endswith(("/", "/.")) or asked.destination in (".", "")
        files = [
            top
            for top, fd, name, found in opened
            if not stat.S_ISDIR(found.st_mode) and not (asked.unpack and self._archive(fd, name))
        ]
        if several and files and not trailing and not asked.parents and not self._is_directory(destination):
            raise InvalidArgument(
                f"when using COPY or ADD with more than one source file, the destination {asked.destination} "
                "must be a directory and end with a /"
            )
        if asked.parents and not tops:
            os.close(self._make(destination))
        for top, fd, name, found in opened:
            try:
                self._one(top, fd, name, found, destination, trailing or several)
            finally:
                os.close(fd)

    def _one(self, top: str, fd: int, name: str, found: os.stat_result, destination: str, into: bool) -> None:
        if self.asked.parents:
            kept = self.selection.shown(top)
            above = kept if stat.S_ISDIR(found.st_mode) else posixpath.dirname(kept)
            self._make_parents(top.removesuffix(kept), above, destination)
            destination, into = f"{destination}/{above}", True
        if stat.S_ISDIR(found.st_mode):
            self.tree(self.selection.below(fd, "", top), self.place(destination))
            return
        if self.asked.unpack and self._archive(fd, name):
            self._unpack(fd, name, destination)
            return
        if into or self._is_directory(destination):
            above, last = destination, posixpath.basename(top)
        else:
            above, last = posixpath.split(destination)
        place = self.place(above)
        try:
            self._leaf(Item(fd, name, last, found), place, last)
        finally:
            place.close()

    def _make_parents(self, before: str, kept: str, destination: str) -> None:
        """The directories on the way to a source, each as it is in the source, where they are not there yet."""
        names = components(kept)
        for count in range(1, len(names) + 1):
            path = "/".join(names[:count])
            if self._is_directory(f"{destination}/{path}"):
                continue
            with (
                _held(open_in(self._source, f"{before}{path}", os.O_PATH | os.O_DIRECTORY)) as there,
                _held(self._make(f"{destination}/{path}")) as made,
            ):
                found = os.fstat(there)
                os.fchown(made, *(self._owner or (found.st_uid, found.st_gid)))
                os.fchmod(made, self._mode(found.st_mode))

    def _make(self, path: str) -> int:
        """The directory, made with its parents; they belong to whom the copy belongs, with its mode if it has one.

        Where a link on the way leads to nothing, what it names is made, inside the root as everything.
        """
        owner, mode = self._owner or (0, 0), self._mode(stat.S_IFDIR | 0o755)
        try:
            fd = make_directories(self.root, path, mode, owner)
        except FileExistsError:
            fd = make_directories(self.root, landing(self.root, path), mode, owner)
        try:
            return os.open(".", _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)

    def _is_directory(self, path: str) -> bool:
        try:
            os.close(open_in(self.root, path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def place(self, path: str) -> Place:
        """The directory to write into, made if it is not there."""
        path = clean(path)
        new = not exists(self.root, path)
        return self.places.of(self._make(path), path, new=new)

    def tree(self, items: Iterable[Item], target: Place) -> None:
        """All of a directory's items into `target`; each directory's time is set when it is complete."""
        places = {"": target}
        times: list[tuple[str, os.stat_result]] = []
        try:
            for item in items:
                above, _, last = item.path.rpartition("/")
                into = self._there(places, above)
                if stat.S_ISDIR(item.found.st_mode):
                    places[item.path] = self._directory(into, last, item)
                    times.append((item.path, item.found))
                else:
                    self._leaf(item, into, last)
                self._forget(places, item.path)
            for done, found in reversed(times):
                os.utime(self._there(places, done).fd, ns=(found.st_mtime_ns, found.st_mtime_ns))
        finally:
            for place in places.values():
                place.close()

    def _forget(self, places: dict[str, Place], path: str) -> None:
        """Close directories that the walk has left, when there are many."""
        if len(places) < 256:
            return
        for name in [name for name in places if name and not f"{path}/".startswith(f"{name}/")]:
            places.pop(name).close()

    def _there(self, places: dict[str, Place], path: str) -> Place:
        """The destination's directory for `path`; made when an exclusion left its own entry out."""
        place = places.get(path)
        if place is None:
            place = places[path] = self.place(f"{places[''].path}/{path}")
        return place

    def _directory(self, into: Place, name: str, item: Item) -> Place:
        path = clean(f"{into.path}/{name}")
        try:
            os.mkdir(name, 0o755, dir_fd=into.fd)
        except FileExistsError:
            try:
                fd = open_in(self.root, path, _DIRECTORY)  # a link to a directory is followed, inside the root
            except OSError as error:
                raise Conflict(f"cannot copy the directory {item.path[:200]!r} onto a file") from error
            self._dress(fd, item)
            return Place(path, fd)
        if into.merged < 0:
            place = self.places.below(into, name)
            self._dress(place.fd, item)
            return place
        fd = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=into.fd)
        self._dress(fd, item)
        return self.places.of(fd, path, new=True)

    def _dress(self, fd: int, item: Item) -> None:
        owner = self._owner or (item.found.st_uid, item.found.st_gid)
        os.fchown(fd, *owner)
        os.fchmod(fd, self._mode(item.found.st_mode))

    def _leaf(self, item: Item, place: Place, name: str) -> None:
        found = item.found
        self.files += 1
        if stat.S_ISSOCK(found.st_mode):
            self._clear(place.fd, name)
            return
        into = self.places.into(place, name)
        if stat.S_ISREG(found.st_mode):
            self._file(item, place, into, name)
            return
        self._clear(into, name)
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(item.name, dir_fd=item.parent), name, dir_fd=into)
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=into)
        owner = self._owner or (found.st_uid, found.st_gid)
        os.chown(name, *owner, dir_fd=into, follow_symlinks=False)
        os.utime(name, ns=(found.st_mtime_ns, found.st_mtime_ns), dir_fd=into, follow_symlinks=False)

    def _file(self, item: Item, place: Place, into: int, name: str) -> None:
        found = item.found
        self.size += found.st_size
        if self.size > self._limits.size:
            raise InvalidArgument(f"more than {self._limits.size} bytes were to be copied")
        if found.st_nlink > 1 and self._linked(found, place, into, name):
            return
        source = os.open(item.name, _OPEN, dir_fd=item.parent)
        try:
            target, dressed = self._new(place, into, name, item)
            try:
                _transfer(source, target, found.st_size)
                if not dressed:
                    self._dress(target, item)
                for key in os.listxattr(source):
                    if key == "security.capability" or (key.startswith("user.") and "overlay" not in key):
                        os.setxattr(target, key, os.getxattr(source, key))
                os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _linked(self, found: os.stat_result, place: Place, into: int, name: str) -> bool:
        """A further name of a file that was copied already."""
        here = (place.path, name)
        directory, last = self._links.setdefault((found.st_dev, found.st_ino), here)
        if (directory, last) == here:
            return False
        self._clear(into, name)
        with _held(self.places.linking(into, place, directory)) as there:
            os.link(last, name, src_dir_fd=there, dst_dir_fd=into, follow_symlinks=False)
        return True

    def _new(self, place: Place, into: int, name: str, item: Item) -> tuple[int, bool]:
        """A new file, and whether it has its owner and mode from its birth."""
        mode = self._mode(item.found.st_mode)
        owner = self._owner or (item.found.st_uid, item.found.st_gid)
        born = into == place.upper and owner == (0, 0) and mode <= 0o777 and place.plain
        given = mode if born else 0o600
        try:
            return os.open(name, _NEW, given, dir_fd=into), born
        except FileExistsError:
            self._clear(into, name)
            return os.open(name, _NEW, given, dir_fd=into), born

    def _clear(self, into: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=into)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError) as error:
            raise Conflict(f"cannot copy a file onto the directory {name[:200]!r}") from error

    # ADD's archives

    def _archive(self, fd: int, name: str) -> bool:
        with _held(os.open(name, _OPEN, dir_fd=fd)) as file:
            head = os.pread(file, 512, 0)
        return head.startswith(_MAGICS) or head[257:262] == b"ustar"

    def _unpack(self, fd: int, name: str, destination: str) -> None:
        # Its links are resolved below the destination, which is the root of what it says.
        with _held(self._make(destination)) as root, _held(os.open(name, _OPEN, dir_fd=fd)) as file:
            rules = extract.Rules(owner=self._owner if self.asked.owner else None)
            source = members.Source(Pump(file, self._limits.size))
            totals = extract.extract(source, root, "", rules, self._limits, lambda _: None)
        self.files += totals.members
        self.size += totals.size


class _held:
    """Closes a descriptor at the end of a `with`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _transfer(source: int, target: int, size: int) -> None:
    """The content: in one read when it is small, inside the kernel when it is large."""
    if size <= _SMALL:
        data = os.read(source, _SMALL)
        while data:
            os.write(target, data)
            data = os.read(source, _SMALL) if len(data) == _SMALL else b""
        return
    try:
        while os.copy_file_range(source, target, 1 << 30):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        while data := os.read(source, _CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
