"""Writing a directory tree as a tar archive: for copies out of a container, exports and new layers.

Walks by descriptors and follows no link, so that a tree which changes meanwhile is at worst copied as a
mixture of old and new. Names are sorted and times exact (pax), so that equal trees give equal bytes.
Kernel file systems (/proc, /sys) are shown as the empty directories that they are mounted on.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

from cove import pax, ustar
from cove.image.worker.extract import OPAQUE, WHITEOUT
from cove.kernel.rootpath import PROC_MAGIC, RESOLVE_NO_SYMLINKS, Irregular, expect_regular, open_expected
from cove.kernel.syscalls import filesystem_magic

_CHUNK, _SMALL = 1 << 20, 64 << 10
_BLOCK = 512
# linux/magic.h: proc, sysfs, cgroup, cgroup2, devpts, debugfs, tracefs, securityfs, bpf, mqueue
KERNEL_FILE_SYSTEMS = frozenset(
    {PROC_MAGIC, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x64626720, 0x74726163, 0x73636673, 0xCAFE4A11, 0x19800202}
)
_OPAQUE_MARK = "trusted.overlay.opaque"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a tree.

    `layer`: an overlay's upper directory, whose whiteouts and opaque marks become `.wh.` names.
    `one_device`: what is mounted below is left out. `moment`: every time is this one, in seconds.
    `skip`: paths below the root that are left out. `bare`: the top directory itself is not shown.
    `whole_seconds`: times without fractions, as layers have them. `sparse`: holes stay holes (GNU tar's manual,
    "PAX Format, Version 1.0"), which an image's layer must not have.
    """

    layer: bool = False
    one_device: bool = False
    moment: int | None = None
    skip: frozenset[str] = frozenset()
    bare: bool = False
    whole_seconds: bool = False
    sparse: bool = False


def pack(
    write: Callable[[bytes], object], parent: int, name: str, arcname: str, view: View, *, proc: int | None = None
) -> int:
    """Write the file or tree `name` in the directory `parent`, called `arcname` in the archive; its files' bytes.

    `proc`: for a tree that others may change meanwhile, as for `rootpath.open_expected`.
    """
    packer = _Packer(write, view, proc)
    packer.add(parent, name, arcname, "")
    write(b"\0" * (2 * _BLOCK))
    return packer.size


class _Packer:
    def __init__(self, write: Callable[[bytes], object], view: View, proc: int | None) -> None:
        self._write = write
        self._view = view
        self._proc = proc
        self._links: dict[tuple[int, int], str] = {}
        self._device: int | None = None
        self.size = 0

    def add(self, parent: int, name: str, arcname: str, path: str) -> None:
        """One name, and what lies below it."""
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return  # gone since it was listed
        if self._device is None:
            self._device = found.st_dev
        if self._view.layer and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            directory, _, plain = arcname.rpartition("/")
            self._header(tarfile.TarInfo(f"{directory}/{WHITEOUT}{plain}" if directory else WHITEOUT + plain))
        elif stat.S_ISDIR(found.st_mode):
            self._directory(parent, name, arcname, path)
        elif stat.S_ISREG(found.st_mode):
            self._file(parent, name, arcname)
        elif not stat.S_ISSOCK(found.st_mode):
            info = self._info(arcname, found)
            if stat.S_ISLNK(found.st_mode):
                info.linkname = os.readlink(name, dir_fd=parent)
            self._header(info)

    def _directory(self, parent: int, name: str, arcname: str, path: str) -> None:
        fd = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=parent)
        try:
            found = os.fstat(fd)
            if path or not self._view.bare:
                self._header(self._info(arcname.rstrip("/") + "/", found, fd))
            if self._left_out(fd, found):
                return
            if self._view.layer and _is_opaque(fd):
                self._header(tarfile.TarInfo(self._below(arcname, OPAQUE)))
            with os.scandir(fd) as entries:
                found_here = sorted((entry.name, entry.is_file(follow_symlinks=False)) for entry in entries)
            for child, is_file in found_here:
                below = f"{path}/{child}" if path else child
                if below in self._view.skip:
                    continue
                if is_file:
                    self._file(fd, child, self._below(arcname, child))
                else:
                    self.add(fd, child, self._below(arcname, child), below)
        finally:
            os.close(fd)

    def _below(self, directory: str, name: str) -> str:
        """A name below a directory of the archive; below a top that is not shown it stands alone."""
        if directory in (".", "./", ""):
            return name if self._view.bare or not directory else f"./{name}"
        return f"{directory.rstrip('/')}/{name}"

    def _left_out(self, fd: int, found: os.stat_result) -> bool:
        """Whether something is mounted here whose content is not shown."""
        if found.st_dev == self._device:
            return False
        return self._view.one_device or filesystem_magic(fd) in KERNEL_FILE_SYSTEMS

    def _file(self, parent: int, name: str, arcname: str) -> None:
        try:
            fd = self._open(parent, name)
        except (FileNotFoundError, Irregular):
            return  # gone, or replaced, since it was listed
        try:
            found = os.fstat(fd)
            if (head := self._plain(arcname, found, fd)) is not None:
                self.size += found.st_size
                self._content(fd, found.st_size, head)
                return
            info = self._info(arcname, found, fd)
            if self._view.one_device and found.st_dev != self._device:
                info.size = 0  # a file mounted here: shown as the empty file that it hides
                self._header(info)
                return
            first = self._links.setdefault((found.st_dev, found.st_ino), arcname) if found.st_nlink > 1 else arcname
            if first != arcname:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
                self._header(info)
                return
            self.size += info.size
            runs = pax.runs(fd, info.size) if self._view.sparse and found.st_blocks * _BLOCK < info.size else None
            if runs is not None:
                self._sparse(fd, info, runs)
                return
            self._header(info)
            self._content(fd, info.size)
        finally:
            os.close(fd)

    def _open(self, parent: int, name: str) -> int:
        if self._proc is not None:
            return open_expected(
                parent, name, os.O_RDONLY, expect_regular, proc=self._proc, resolve=RESOLVE_NO_SYMLINKS
            )
        fd = os.open(name, _OPEN, dir_fd=parent)
        try:
            expect_regular(fd)
        except Irregular:
            os.close(fd)
            raise
        return fd

    def _plain(self, arcname: str, found: os.stat_result, fd: int) -> bytes | None:
        """The header of a file of which there is nothing special to say, as most are; None for others."""
        view = self._view
        seconds, rest = divmod(found.st_mtime_ns, 1_000_000_000)
        if view.sparse or found.st_dev != self._device or os.listxattr(fd):
            return None
        if found.st_nlink > 1 and self._links.setdefault((found.st_dev, found.st_ino), arcname) != arcname:
            return None
        if view.moment is not None:
            seconds = view.moment
        elif rest and not view.whole_seconds:
            return None
        return ustar.header(
            arcname.encode("utf-8", "surrogateescape"),
            mode=found.st_mode,
            uid=found.st_uid,
            gid=found.st_gid,
            size=found.st_size,
            mtime=seconds,
        )

    def _content(self, fd: int, size: int, head: bytes = b"") -> None:
        """Exactly `size` bytes, whatever the file does meanwhile: the header has promised them."""
        left = size
        if size <= _SMALL:
            data = os.read(fd, size)
            self._write(b"".join((head, data, bytes(left - len(data) + -size % _BLOCK))))
            return
        if head:
            self._write(head)
        while left:
            data = os.read(fd, min(left, _CHUNK))
            if not data:
                data = b"\0" * min(left, _CHUNK)
            self._write(data)
            left -= len(data)
        if padding := -size % _BLOCK:
            self._write(b"\0" * padding)

    def _sparse(self, fd: int, info: tarfile.TarInfo, runs: list[tuple[int, int]]) -> None:
        """A file's data without its holes, after a map of where it belongs."""
        self._write(pax.sparse(info, runs))
        for offset, length in runs:
            end = offset + length
            while offset < end:
                data = os.pread(fd, min(end - offset, _CHUNK), offset) or bytes(min(end - offset, _CHUNK))
                self._write(data)
                offset += len(data)
        if padding := -info.size % _BLOCK:
            self._write(bytes(padding))

    def _info(self, arcname: str, found: os.stat_result, fd: int | None = None) -> tarfile.TarInfo:
        info = pax.member(arcname, found, pax.attributes(fd) if fd is not None else None)
        if self._view.whole_seconds or self._view.moment is not None:
            pax.at_whole_second(info, self._view.moment)
        return info

    def _header(self, info: tarfile.TarInfo) -> None:
        self._write(pax.header(info))


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, _OPAQUE_MARK) == b"y"
    except OSError:
        return False
