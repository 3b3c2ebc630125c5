"""An image's layers as the steps of unpacking them: which blob makes which directory on top of which."""

from __future__ import annotations

import msgspec

from cove.errors import InvalidArgument, Unsupported
from cove.oci import digest as digests
from cove.oci.chain import chain_ids
from cove.oci.image import LAYERS, Descriptor, ImageConfig, Manifest


class Step(msgspec.Struct, frozen=True):
    """`blob`, uncompressed, is `diff_id`; on top of `parent` ("" for none) it makes `chain_id`."""

    blob: Descriptor
    diff_id: str
    chain_id: str
    parent: str

    @property
    def label(self) -> str:
        """What people see of the layer."""
        return digests.short(self.blob.digest)


def unpackable(config: ImageConfig) -> bool:
    """Whether this host keeps the image's layers as directories: another system's are kept as they came."""
    return config.os in {"", "linux"}


def steps(manifest: Manifest, config: ImageConfig, name: str) -> tuple[Step, ...]:
    """The steps, the lowest first; an error names the image as `name`."""
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise InvalidArgument(
            f"the image {name} is damaged: it has {len(manifest.layers)} layers, but {len(diff_ids)} in its "
            f"configuration"
        )
    for blob in manifest.layers:
        if blob.media_type not in LAYERS:
            raise Unsupported(f"the image {name} has a layer of type {blob.media_type}, which cannot be unpacked")
    chain = chain_ids(diff_ids)
    parents = ("", *chain[:-1])
    return tuple(Step(*parts) for parts in zip(manifest.layers, diff_ids, chain, parents, strict=False))
