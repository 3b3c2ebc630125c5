"""An image that was removed while a container stands on its layers: made again of these.

The archives are new ones of the same files, so that the image has another identity than the one that is gone; its
history and what it came from are lost.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import msgspec

from cove.image.content import ContentStore
from cove.image.layers import Layers
from cove.image.travel import artifacts
from cove.image.travel.diff import packed_layer
from cove.oci import image as oci
from cove.oci.image import ContainerConfig, Descriptor, ImageConfig, Manifest, RootFS
from cove.oci.platform import host_platform


class Rebuilt(msgspec.Struct, frozen=True):
    """An image's parts in the content store, not registered. `id` is its configuration's digest."""

    id: str
    manifest: Descriptor
    config: ImageConfig
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> set[str]:
        return {self.id, self.manifest.digest, *(layer.digest for layer in self.layers)}


def rebuilt(content: ContentStore, layers: Layers, chain: str, config: ContainerConfig) -> Rebuilt:
    """The image whose uppermost layer is `chain` ("" for none); `config` is what its containers shall do."""
    described, diff_ids = [], []
    for each in reversed(layers.lineage(chain)):
        blob, diff_id = _stored(content, layers, each)
        described.append(blob)
        diff_ids.append(diff_id)
    host = host_platform()
    document = ImageConfig(
        os=host.os,
        architecture=host.architecture,
        variant=host.variant,
        config=config,
        rootfs=RootFS(diff_ids=tuple(diff_ids)),
    )
    raw = oci.encode(document)
    named = Descriptor(media_type=oci.OCI_CONFIG, digest=content.put(raw), size=len(raw))
    manifest = Manifest(media_type=oci.OCI_MANIFEST, config=named, layers=tuple(described))
    return Rebuilt(named.digest, artifacts.store(content, manifest), document, tuple(described))


def _stored(content: ContentStore, layers: Layers, chain: str) -> tuple[Descriptor, str]:
    """One layer's archive in the store, and its diff id."""
    hashed, facts = hashlib.sha256(), layers.facts(chain)

    def watched(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            hashed.update(piece)
            yield piece

    directory = os.open(layers.directory(chain), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # As a build made it, its archive is hashed with whole seconds.
        pieces = packed_layer(directory, whole_seconds=bool(facts and facts.archive))
        digest = content.ingest(artifacts.compressed(watched(pieces)))
    finally:
        os.close(directory)
    blob = Descriptor(media_type=oci.OCI_LAYER_ZSTD, digest=digest, size=content.size(digest))
    return blob, f"sha256:{hashed.hexdigest()}"
