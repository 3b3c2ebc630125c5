"""Mounts as the API writes them: what a user asked for, and what a container has."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cove.wire.base import Value


class BindOptions(Value, frozen=True, kw_only=True, omit_defaults=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class Driver(Value, frozen=True, kw_only=True, omit_defaults=True):
    name: str = ""
    options: dict[str, str] = {}


class VolumeOptions(Value, frozen=True, kw_only=True, omit_defaults=True):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: Driver | None = None
    subpath: str = ""


class ImageOptions(Value, frozen=True, kw_only=True, omit_defaults=True):
    subpath: str = ""


class TmpfsOptions(Value, frozen=True, kw_only=True, omit_defaults=True):
    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] = ()


class Mount(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A mount asked for with `--mount`: type "bind", "volume", "tmpfs", "image" or "npipe".

    `idmap` is Cove's own: in a user namespace, files belong inside to whom they belong on disk.
    """

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    idmap: bool = False
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class MountPoint(Value, frozen=True, kw_only=True):
    """A mount that a container has, as inspect and list show it; only volumes have a name and a driver."""

    type: str
    name: str | UnsetType = UNSET
    source: str = ""
    destination: str
    driver: str | UnsetType = UNSET
    mode: str = ""
    rw: bool = msgspec.field(name="RW", default=True)
    propagation: str = ""
