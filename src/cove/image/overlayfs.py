"""Snapshots as overlayfs mounts: the image's layers below, one writable directory on top.

containers/<key>/upper   what the container changed
containers/<key>/work    the kernel's own scratch space
containers/<key>/shown   which other stacks the container is shown, one a line; absent for none
containers/<key>/chain   which stack of layers is below; written last, so it says "prepared"
mountpoints              the lowest layer of all: what every container has mounted something on is there already,
                         so that no start has to make it, and none shows up as a change; and the marks that programs
                         look for: /.dockerenv tells that this is a container, /etc/mtab where its mounts are listed
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cove.errors import Internal, InvalidArgument, NotFound, describe
from cove.image.layers import EMPTY, Layers
from cove.image.reaping import discard
from cove.image.snapshots import Change
from cove.kernel.mounts import subdirectory
from cove.kernel.syscalls import openat2
from cove.oci.spec import Mount
from cove.paths import ContainerData, DataRoot
from cove.store.files import write_atomic

# Without these, a directory that is renamed or a file whose mode changes would be stored as a reference
# that `changes` and commits would have to understand.
_PLAIN = ("index=off", "redirect_dir=off", "metacopy=off")
_DIRECTORIES = ("dev", "etc", "proc", "sys")
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")
_MTAB = ("etc/mtab", "/proc/mounts")
_MARK = ".dockerenv"
_OPAQUE_MARK = "trusted.overlay.opaque"
_LOOK = os.O_PATH | os.O_NOFOLLOW
_RESOLVE = 0x04 | 0x08  # RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH


class OverlaySnapshots:
    """See `cove.image.snapshots.Snapshots`; safe to use from several threads."""

    def __init__(self, data: DataRoot, layers: Layers) -> None:
        self._data = data
        self._layers = layers
        self._mountpoints = data.mountpoints

    def prepare(self, key: str, chain_id: str | None, shown: Iterable[str] = ()) -> None:
        """Make the directories; Internal when the disk refuses, and then nothing is left."""
        with self._layers.stable:
            for each in (chain_id or "", *shown):
                self._lower(each)
            self._make(key, chain_id or "", sorted({*shown} - {""}))

    def _make(self, key: str, chain_id: str, shown: list[str]) -> None:
        container = self._data.container(key)
        try:
            container.root.mkdir(mode=0o710, parents=True, exist_ok=True)
            for directory in (container.upper, container.work):
                directory.mkdir(mode=0o755)
                directory.chmod(0o755)
            if shown:
                write_atomic(container.shown, "\n".join(shown).encode(), durable=False)
            write_atomic(container.chain, chain_id.encode(), durable=False)
        except OSError as error:
            self.remove(key)
            raise Internal(f"cannot prepare the file system of container {key[:12]}: {describe(error)}") from error

    def mount(self, key: str, *, readonly: bool = False) -> Mount:
        container = self._data.container(key)
        lower = ":".join(str(path) for path in self._lower(self._chain(container)))
        options = (f"lowerdir={lower}", f"upperdir={container.upper}", f"workdir={container.work}", *_PLAIN)
        return Mount(
            destination="/", type="overlay", source="overlay", options=(*options, "ro") if readonly else options
        )

    def image(self, chain_id: str, destination: str, *, subpath: str = "") -> Mount:
        empty = self._data.layers / EMPTY
        empty.mkdir(mode=0o755, exist_ok=True)
        layers = self._layers.stack(chain_id) if chain_id else []
        part = (subdirectory(subpath),) if subpath else ()
        if not layers:
            return Mount(destination=destination, type="bind", source=str(empty), options=("bind", "ro", *part))
        lower = ":".join(map(str, [*layers, empty]))  # the kernel wants two
        options = (f"lowerdir={lower}", *_PLAIN, "ro", *part)
        return Mount(destination=destination, type="overlay", source="overlay", options=options)

    def remove(self, key: str) -> None:
        container = self._data.container(key)
        container.chain.unlink(missing_ok=True)
        container.shown.unlink(missing_ok=True)
        for directory in (container.upper, container.work):
            discard(directory, container.root)

    def usage(self, key: str) -> int:
        """The bytes of the blocks that regular files take; a hard-linked file counts once."""
        try:
            return _usage(self._data.container(key).upper)
        except RecursionError:
            raise _too_deep(key) from None

    def changes(self, key: str) -> list[Change]:
        container = self._data.container(key)
        lower = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in self._lower(self._chain(container))]
        try:
            upper = os.open(container.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                found: list[Change] = []
                _compare(upper, "", lower, found)
            except RecursionError:
                raise _too_deep(key) from None
            finally:
                os.close(upper)
        finally:
            for fd in lower:
                os.close(fd)
        return sorted(found, key=lambda change: change.path)

    def chain(self, key: str) -> str | None:
        """The chain id that the snapshot stands on; None for nothing. NotFound when there is no snapshot."""
        return self._chain(self._data.container(key)) or None

    def chains(self) -> set[str]:
        """The chain ids that any snapshot stands on, or its container is shown."""
        found: set[str] = set()
        for entry in self._data.containers.iterdir() if self._data.containers.is_dir() else ():
            try:
                found.add(ContainerData(entry).chain.read_text())
                found.update(ContainerData(entry).shown.read_text().splitlines())
            except (FileNotFoundError, NotADirectoryError):
                continue
        return found - {""}

    def _chain(self, container: ContainerData) -> str:
        try:
            return container.chain.read_text()
        except FileNotFoundError as error:
            raise NotFound(f"the file system of container {container.root.name[:12]} is gone") from error

    def _lower(self, chain_id: str) -> list[Path]:
        if not (self._mountpoints / _MARK).exists():
            _make_mountpoints(self._mountpoints)
        return [*(self._layers.stack(chain_id) if chain_id else ()), self._mountpoints]


def _make_mountpoints(directory: Path) -> None:
    """Renamed into place when it is complete, as several threads may come here; one without the mark is filled up."""
    new = Path(tempfile.mkdtemp(prefix="mountpoints-", dir=directory.parent))
    _fill_mountpoints(new)
    new.chmod(0o755)
    try:
        new.rename(directory)
    except OSError:  # another one was quicker, or it is an old one
        shutil.rmtree(new)
        _fill_mountpoints(directory)


def _fill_mountpoints(directory: Path) -> None:
    for name in _DIRECTORIES:
        (directory / name).mkdir(mode=0o755, exist_ok=True)
    for name in _FILES:
        (directory / name).touch(mode=0o644)
    link, target = _MTAB
    with suppress(FileExistsError):
        (directory / link).symlink_to(target)
    (directory / _MARK).touch(mode=0o755)


def _too_deep(key: str) -> InvalidArgument:
    return InvalidArgument(f"container {key[:12]} nests directories too deeply for them to be listed")


def _usage(directory: Path) -> int:
    total = 0
    seen: set[tuple[int, int]] = set()
    for _, _, files, fd in os.fwalk(directory, follow_symlinks=False):
        for name in files:
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * 512
    return total


def _compare(directory: int, path: str, lower: list[int], found: list[Change]) -> None:
    """Tell what a directory of the upper layer means to a reader of the whole."""
    for name in os.listdir(directory):
        here = f"{path}/{name}"
        try:
            there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISCHR(there.st_mode) and there.st_rdev == 0:
            found.append(Change(2, here))
            continue
        before = exists_below(lower, here)
        found.append(Change(0 if before else 1, here))
        if stat.S_ISDIR(there.st_mode):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            except OSError:
                continue
            try:
                _compare(fd, here, [] if not before or _is_opaque(fd) else lower, found)
            finally:
                os.close(fd)


def exists_below(lower: list[int], path: str) -> bool:
    """Whether the layers below show this path: the topmost one that knows it decides."""
    for layer in lower:
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            try:
                fd = openat2(layer, "/".join(parts[:depth]), _LOOK, resolve=_RESOLVE)
            except OSError:
                break
            try:
                mode = os.fstat(fd)
                if stat.S_ISCHR(mode.st_mode) and mode.st_rdev == 0:
                    return False
                if depth == len(parts):
                    return True
                if not stat.S_ISDIR(mode.st_mode):
                    return False
            finally:
                os.close(fd)
    return False


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, _OPAQUE_MARK) == b"y"
    except OSError:
        return False
