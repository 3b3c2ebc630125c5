"""Volumes that are directories of the data root, or any file system the host can mount.

    volumes/<name>/_data/     the content

Owns that tree. With the option `size` the content is a file system of that size (`cove.volume.sized`). With the
options `type`, `device` and `o` (as for mount(8)) a volume is a mount of that device instead, made inside each
container that uses it: nothing is ever mounted on the host.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cove.errors import CoveError, Internal, InvalidArgument, NotFound, describe
from cove.oci.spec import Mount
from cove.paths import DataRoot
from cove.volume import sized

_OPTIONS = frozenset({"type", "device", "o", "size"})


class LocalDriver:
    """The built-in driver."""

    name = "local"

    def __init__(self, data: DataRoot) -> None:
        self._root = data.volumes

    def create(self, name: str, options: Mapping[str, str]) -> None:
        """Make an empty directory, or check the options of a device."""
        check_options(options)
        try:
            self.path(name).mkdir(mode=0o755, parents=True, exist_ok=True)
            os.chmod(self._root / name, 0o701)
            if "size" in options and not self._disk(name).exists():
                sized.make(self._disk(name), sized.parse(options["size"]))
        except CoveError:
            self.remove(name)
            raise
        except OSError as error:
            raise Internal(f"The volume {name} cannot be made: {describe(error)}") from error

    def _disk(self, name: str) -> Path:
        return self._root / name / "disk"

    def exists(self, name: str) -> bool:
        return self.path(name).is_dir()

    def path(self, name: str) -> Path:
        return self._root / name / "_data"

    def mount(
        self, name: str, destination: str, options: Mapping[str, str], *, subpath: str = "", readonly: bool = False
    ) -> Mount:
        """A bind mount of the directory, or the device's own file system."""
        access = "ro" if readonly else "rw"
        if "size" in options:
            if subpath:
                raise InvalidArgument(f"The volume {name} has a size; a subpath works only for volumes without one")
            return sized.mount(self._disk(name), destination, access)
        if not options.get("device"):
            source = _inside(self.path(name), subpath)
            return Mount(destination=destination, source=str(source), type="bind", options=("rbind", access))
        if subpath:
            raise InvalidArgument(f"The volume {name} is a device; a subpath works only for volumes with a directory")
        words = tuple(word for word in options.get("o", "").split(",") if word)
        kind = options.get("type", "")
        if kind in ("", "none") or {"bind", "rbind"} & set(words):
            return Mount(destination=destination, source=options["device"], type="bind", options=(*words, access))
        return Mount(destination=destination, source=options["device"], type=kind, options=(*words, access))

    def empty(self, name: str) -> bool:
        """Never true of a missing directory: there is nothing to copy into."""
        try:
            with os.scandir(self.path(name)) as entries:
                return next(entries, None) is None
        except FileNotFoundError:
            return False

    def size(self, name: str) -> int:
        """Blocks used, each file once however many names it has."""
        if self._disk(name).exists():
            return sized.used(self._disk(name))
        seen: set[tuple[int, int]] = set()
        total = 0
        for _, _, files, directory in os.fwalk(self.path(name)):
            for file in files:
                try:
                    found = os.stat(file, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_size
        return total

    def rename(self, name: str, to: str) -> None:
        try:
            os.rename(self._root / name, self._root / to)
        except OSError as error:
            raise Internal(f"The volume {name} cannot be renamed: {describe(error)}") from error

    def remove(self, name: str) -> None:
        """Renamed first, so that a crash half-way leaves no half-empty volume under its name."""
        doomed = self._root / f".{name}.removed"
        try:
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(self._root / name, doomed)
            shutil.rmtree(doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise Internal(f"The volume {name} cannot be removed: {describe(error)}") from error

    def sweep(self) -> None:
        """Finish removals that a crash cut short."""
        with os.scandir(self._root) as entries:
            for entry in entries:
                if entry.name.startswith(".") and entry.name.endswith(".removed"):
                    shutil.rmtree(entry.path, ignore_errors=True)


def check_options(options: Mapping[str, str]) -> None:
    """Refuse options that this driver would have to ignore; raises InvalidArgument."""
    for option in options:
        if option not in _OPTIONS:
            raise InvalidArgument(
                f'create: invalid option: "{option}"; the local driver knows type, device, o and size'
            )
    if "size" in options and options.keys() & {"type", "o", "device"}:
        raise InvalidArgument(
            "create: a size is for volumes of Cove's own; give that device its size where it is made"
        )
    if (options.get("type") or options.get("o")) and not options.get("device"):
        raise InvalidArgument("create: missing required option: device")


def _inside(base: Path, subpath: str) -> Path:
    """`base`/`subpath`, refused when it could lead out: the volume's content is a container's to write.

    The runtime resolves the path again by descriptor when it mounts; this check is for a clear message.
    """
    if not subpath:
        return base
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise InvalidArgument(f"invalid volume subpath {subpath!r}: it must be relative and stay inside the volume")
    walked = base
    for part in subpath.split("/"):
        walked = walked / part
        if walked.is_symlink():
            raise InvalidArgument(f"invalid volume subpath {subpath!r}: {part} is a symbolic link")
    if not walked.exists():
        raise NotFound(f"cannot access path {subpath}: no such file or directory in the volume")
    return walked
