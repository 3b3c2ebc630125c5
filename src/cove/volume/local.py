"""Volumes that are directories of the data root, or any file system the host can mount.

    volumes/<name>/_data/     the content

Owns that tree. With the option `size` the content cannot outgrow that (`cove.volume.sized`). With the options
`type`, `device` and `o` (as for mount(8)) a volume is a mount of that device instead, made inside each container
that uses it: nothing is ever mounted on the host.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from cove.errors import CoveError, Internal, InvalidArgument, Unavailable, describe
from cove.kernel.mounts import subdirectory
from cove.kernel.rootpath import beneath
from cove.oci.spec import Mount
from cove.paths import DataRoot
from cove.volume import sized

_log = logging.getLogger(__name__)
_OPTIONS = frozenset({"type", "device", "o", "size"})
_SHARES = ("cifs", "smb3")
_BY_ADDRESS = ("nfs", *_SHARES)


class LocalDriver:
    """The built-in driver."""

    name = "local"

    def __init__(self, data: DataRoot, limits: sized.Limits) -> None:
        self._root = data.volumes
        self._limits = limits
        self._addresses: dict[str, str] = {}

    def create(self, name: str, options: Mapping[str, str]) -> None:
        """Make an empty directory, or check the options of a device."""
        check_options(options)
        was_there = self.exists(name)
        try:
            self.path(name).mkdir(mode=0o755, parents=True, exist_ok=True)
            os.chmod(self._root / name, 0o701)
            if "size" in options:
                self._bound(name, sized.parse(options["size"]))
        except CoveError:
            if not was_there:
                self.remove(name)
            raise
        except OSError as error:
            raise Internal(f"The volume {name} cannot be made: {describe(error)}") from error

    def _bound(self, name: str, size: int) -> None:
        """Give a new volume its size; one that has one keeps it."""
        if self._disk(name).exists() or self._limits.used(self.path(name)) is not None:
            return
        if self._limits.hold(self.path(name)):
            self._limits.limit((self.path(name),), size)
        else:
            sized.make(self._disk(name), size)

    def _disk(self, name: str) -> Path:
        return self._root / name / "disk"

    def exists(self, name: str) -> bool:
        return self.path(name).is_dir()

    def path(self, name: str) -> Path:
        return self._root / name / "_data"

    def prepare(self, options: Mapping[str, str]) -> None:
        """Look up the server of a network file system, as its kernel client wants an address."""
        if server := _server(options):
            self._addresses[server] = _address(server)

    def mount(
        self, name: str, destination: str, options: Mapping[str, str], *, subpath: str = "", readonly: bool = False
    ) -> Mount:
        """A bind mount of the directory, or the device's own file system."""
        access = "ro" if readonly else "rw"
        part = (subdirectory(subpath),) if subpath else ()
        if "size" in options and self._disk(name).exists():
            return sized.mount(self._disk(name), destination, (access, *part))
        if "size" in options:
            self._limits.check(self.path(name))
        if not options.get("device"):
            shown = ("rbind", access, *part)
            return Mount(destination=destination, source=str(self.path(name)), type="bind", options=shown)
        return self._device(options, destination, ("ro", *part) if readonly else part)

    def _device(self, options: Mapping[str, str], destination: str, further: tuple[str, ...]) -> Mount:
        """The mount of a device, as mount(8) would make it: `further` options come after the volume's own."""
        words = _words(options)
        kind, device = options.get("type", ""), options["device"]
        if kind in ("", "none") or {"bind", "rbind"} & set(words):
            return Mount(destination=destination, source=device, type="bind", options=(*words, *further))
        if server := _server(options):
            others = (word for word in words if not word.startswith("addr="))
            words = (*others, f"addr={self._addresses.get(server, server)}")
        return Mount(destination=destination, source=device, type=kind, options=(*words, *further))

    def empty(self, name: str, subpath: str = "") -> bool:
        """Never true of a missing directory: there is nothing to copy into."""
        try:
            base = os.open(self.path(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = beneath(base, subpath or ".", os.O_RDONLY | os.O_DIRECTORY)
            finally:
                os.close(base)
        except OSError:
            return False
        try:
            with os.scandir(found) as entries:
                return next(entries, None) is None
        finally:
            os.close(found)

    def size(self, name: str) -> int:
        """Blocks used, each file once however many names it has."""
        if self._disk(name).exists():
            return sized.used(self._disk(name))
        if (counted := self._limits.used(self.path(name))) is not None:
            return counted
        seen: set[tuple[int, int]] = set()
        total = 0
        for _, directories, files, directory in os.fwalk(self.path(name)):
            for each in (*files, *directories):
                try:
                    found = os.stat(each, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * 512
        return total

    def unfinished(self, token: str) -> str:
        return f".{token}.removed"

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
            self._limits.release(self.path(name))
            os.rename(self._root / name, doomed)
            shutil.rmtree(doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise Internal(f"The volume {name} cannot be removed: {describe(error)}") from error

    def recover(self, wanted: Mapping[str, Mapping[str, str]]) -> set[str]:
        doomed = {name for name in os.listdir(self._root) if name.startswith(".") and name.endswith(".removed")}
        missing = {name for name in wanted if not self.exists(name)}
        removed = {name for name in missing if f".{name}.removed" in doomed}
        for name in missing - removed:
            try:
                self.create(name, wanted[name])
            except CoveError as error:
                _log.warning("the volume %s is not there: %s", name, error.message)
        for name in doomed:
            shutil.rmtree(self._root / name, ignore_errors=True)
        return removed


def _words(options: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(word for word in options.get("o", "").split(",") if word)


def _server(options: Mapping[str, str]) -> str:
    """The server of a network file system: that of `addr=`, or of a share's own path; "" where none is told."""
    kind = options.get("type", "")
    if not kind.startswith(_BY_ADDRESS):
        return ""
    told = next((word.partition("=")[2] for word in _words(options) if word.startswith("addr=")), "")
    share = options.get("device", "").replace("\\", "/")
    if not told and kind in _SHARES and share.startswith("//") and "ip=" not in options.get("o", ""):
        told = share.removeprefix("//").partition("/")[0]
    return told


def _address(name: str) -> str:
    """The address of a server; raises Unavailable."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise Unavailable(f"The volume's server {name} cannot be found: {error.strerror or error}") from None


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
    for option, needed in (("type", "device"), ("o", "device"), ("device", "type"), ("o", "type")):
        if options.get(option) and not options.get(needed):
            raise InvalidArgument(f'create: missing required option: "{needed}"')
