"""What a backup of a container is: an OCI artifact with its own media types.

    manifest  artifactType application/vnd.cove.container.backup.v1
    ├── config   …container.v1+json            this module's Backup
    ├── layer    …container.changes.v1.tar+zstd  the writable layer, as an image's layer has it
    ├── layer    …volume.v1.tar+zstd           one for each volume with content, annotated with its name
    └── layer    the image's manifest, configuration and layers as they are, unless it is only named

Pure values.
"""

from __future__ import annotations

import msgspec

from cove.engine.containers.records import Record, VolumeRecord
from cove.errors import InvalidArgument, Unsupported
from cove.oci import image as oci

ARTIFACT = "application/vnd.cove.container.backup.v1"
CONFIG = "application/vnd.cove.container.v1+json"
CHANGES = "application/vnd.cove.container.changes.v1.tar+zstd"
VOLUME = "application/vnd.cove.volume.v1.tar+zstd"
OWN = frozenset({CHANGES, VOLUME})
"""The layers that are no part of the image."""
VOLUME_NAME = "cove.volume"
"""The annotation of a volume's layer that says which volume it is."""

_VERSION = 1


class SavedImage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The image below: `manifest` is its digest; `included` says whether its blobs are part of the backup."""

    id: str
    manifest: str
    name: str = ""
    repo_digests: tuple[str, ...] = ()
    included: bool = False


class SavedVolume(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A volume that the container mounts; without `content` only what it was asked to be."""

    record: VolumeRecord
    content: bool = False


class Backup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The configuration document of a backup. `phase`: what the container did when it was taken."""

    version: int = _VERSION
    made_ns: int
    record: Record
    phase: str = "created"
    image: SavedImage
    volumes: tuple[SavedVolume, ...] = ()


def encode(backup: Backup) -> bytes:
    # The version is the first thing to look at; it must be there although it is the default.
    return b'{"version":%d,' % _VERSION + msgspec.json.encode(backup)[1:]


def decode(raw: bytes) -> Backup:
    """Raises Unsupported for a newer version's, InvalidArgument for what is none."""
    if len(raw) > oci.MAX_CONFIG:
        raise InvalidArgument(f"the backup's configuration is too big: {len(raw)} bytes")
    try:
        version = msgspec.json.decode(raw, type=_Version).version
        if version > _VERSION:
            raise Unsupported(f"the backup is of version {version}, which this Cove cannot read; use a newer one")
        return msgspec.json.decode(raw, type=Backup)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"the backup's configuration is not in order: {error}") from None


class _Version(msgspec.Struct, frozen=True):
    version: int
