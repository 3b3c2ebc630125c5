"""The files of the Container Device Interface: devices as their vendors describe them.

    /etc/cdi/*.{json,yaml}, /run/cdi/…  ──load──▶ Catalogue: "vendor.com/class=name" → the edits it asks for

A directory named later wins over one before it; two files of one directory that describe the same device make
it ambiguous, and so unusable. A file that cannot be read spoils nothing but its own devices: the reason is told
to whoever asks for a device that is not there. Read anew for each container, as vendors write the files at boot.
Source: the CDI specification (SPEC.md), up to version 1.1.0.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from cove.errors import InvalidArgument

DIRECTORIES = ("/etc/cdi", "/run/cdi")

_NAME = re.compile(
    r"(?P<vendor>[A-Za-z][\w.-]*[A-Za-z0-9])/(?P<kind>[A-Za-z][\w.-]*)=(?P<device>[A-Za-z0-9][\w.:-]*)"
)
_KIND = re.compile(r"[A-Za-z][\w.-]*[A-Za-z0-9]/[A-Za-z][\w.-]*")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.\d+")
_LARGEST = 4 << 20
_SUFFIXES = (".json", ".yaml", ".yml")


Annotations = dict[str, str | bool | int | float]
"""Texts; YAML reads some as other values."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of a file's objects: what this does not know could be a restriction, so it is refused."""


class DeviceNode(_Part, frozen=True, kw_only=True):
    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = "rwm"
    uid: int = 0
    gid: int = 0


class DeviceMount(_Part, frozen=True, kw_only=True):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(_Part, frozen=True, kw_only=True):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class ContainerEdits(_Part, frozen=True, kw_only=True):
    """What a device changes in a container."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    net_devices: tuple[dict[str, str], ...] = ()
    mounts: tuple[DeviceMount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    additional_gids: tuple[int, ...] = msgspec.field(name="additionalGids", default=())
    intel_rdt: dict[str, object] = {}


class SpecDevice(_Part, frozen=True, kw_only=True):
    name: str
    annotations: Annotations = {}
    container_edits: ContainerEdits


class Spec(_Part, frozen=True, kw_only=True):
    """One file."""

    cdi_version: str
    kind: str
    annotations: Annotations = {}
    devices: tuple[SpecDevice, ...]
    container_edits: ContainerEdits = ContainerEdits()


class Catalogue(msgspec.Struct, frozen=True):
    """Every device there is, by its full name; `broken` says of a file why it is left out."""

    devices: Mapping[str, tuple[Spec, SpecDevice]] = msgspec.field(default_factory=dict)
    ambiguous: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    broken: tuple[str, ...] = ()

    def annotations(self, name: str) -> dict[str, str]:
        """Those of a device, and of its file."""
        spec, device = self.devices[name]
        whole = spec.annotations | device.annotations
        return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in whole.items()}

    def kinds(self, kind: str) -> list[str]:
        """The vendors' kinds of a class, as "nvidia.com/gpu" is one of "gpu"."""
        found = {name.partition("=")[0] for name in self.devices}
        return sorted(each for each in found if each.partition("/")[2] == kind)


def is_name(text: str) -> bool:
    """Whether a text names a CDI device."""
    return _NAME.fullmatch(text) is not None


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────


def load(directories: Iterable[str] = DIRECTORIES) -> Catalogue:
    """Read every file of these directories, those that are there."""
    devices: dict[str, tuple[Spec, SpecDevice]] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    broken: list[str] = []
    for directory in directories:
        origin: dict[str, list[str]] = {}
        for path in _files(directory):
            try:
                spec = _read(path)
            except InvalidArgument as error:
                broken.append(error.message)
                continue
            for device in spec.devices:
                name = f"{spec.kind}={device.name}"
                origin.setdefault(name, []).append(path)
                devices[name] = (spec, device)
                ambiguous.pop(name, None)
        ambiguous |= {name: tuple(paths) for name, paths in origin.items() if len(paths) > 1}
    return Catalogue(devices, ambiguous, tuple(broken))


def _files(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [f"{directory}/{name}" for name in names if name.endswith(_SUFFIXES)]


def _read(path: str) -> Spec:
    """One file; InvalidArgument says what is wrong with it."""
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
            trusted = _is_roots_alone(os.fstat(file.fileno()))
        if len(content) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        spec = msgspec.convert(_parse(path, content), Spec)
        _check(spec)
        if not trusted and any(_hooks(spec)):
            raise ValueError("it names programs to run (hooks), and others than root may write it")
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"the CDI file {path} cannot be used: {error}") from None
    return spec


def _is_roots_alone(found: os.stat_result) -> bool:
    """Whether nobody but root can have written a file: what a daemon of root's then does is what root asked for."""
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if found.st_gid else 0))


def _hooks(spec: Spec) -> Iterator[Hook]:
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        yield from edits.hooks


def check_program(path: str) -> None:
    """Whether a hook's program may be run: root's, and nobody else can have written it; else InvalidArgument."""
    try:
        if path != os.path.abspath(path):
            raise ValueError("its path must be absolute")
        if not _is_roots_alone(os.stat(path)):
            raise ValueError("others than root may write it")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgument(f"the hook {path} that a CDI file names cannot be run: {reason}") from None


def _parse(path: str, content: bytes) -> object:
    if path.endswith(".json"):
        return msgspec.json.decode(content)
    import yaml  # costs 20 ms, and most hosts have no such file

    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _check(spec: Spec) -> None:
    version = _VERSION.fullmatch(spec.cdi_version)
    if version is None or (int(version[1]), int(version[2])) > (1, 1):
        raise ValueError(f"its cdiVersion {spec.cdi_version!r} is none up to 1.1.0")
    if _KIND.fullmatch(spec.kind) is None:
        raise ValueError(f"its kind {spec.kind!r} is not of the form vendor.com/class")
    names = [device.name for device in spec.devices]
    if len(names) != len(set(names)):
        raise ValueError("it describes a device twice")
    for name in names:
        if not is_name(f"{spec.kind}={name}"):
            raise ValueError(f"{name!r} is no name of a device")
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        for node in edits.device_nodes:
            if node.type not in ("", "b", "c", "u", "p") or not set(node.permissions) <= set("rwm"):
                raise ValueError(f"the device node {node.path} has a wrong type or wrong permissions")
            if not node.path.startswith("/"):
                raise ValueError(f"the device node {node.path!r} has no absolute path")
        for mount in edits.mounts:
            if not (mount.host_path.startswith("/") and mount.container_path.startswith("/")):
                raise ValueError(f"the mount on {mount.container_path!r} has no absolute paths")
