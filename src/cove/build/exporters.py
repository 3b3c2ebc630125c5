"""What comes out of a build: an image with its configuration and history, and forms that leave the store.

Made + results ─▶ configuration, layers ─▶ image under its names
                                        └▶ archive (docker, oci) · root file system (tar, local)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from cove.build.cache import BuildCache
from cove.build.dockerfile.stage import Made, history
from cove.build.graph import Vertex
from cove.build.steps import Result
from cove.errors import Internal, NotFound
from cove.image.images import Image
from cove.image.making import store_image
from cove.image.store import ImageStore
from cove.oci import image as oci
from cove.oci.image import Descriptor, ImageConfig, RootFS

_OCI_TYPES = {
    oci.DOCKER_LAYER: oci.OCI_LAYER,
    oci.DOCKER_LAYER_GZIP: oci.OCI_LAYER_GZIP,
    oci.DOCKER_LAYER_ZSTD: oci.OCI_LAYER_ZSTD,
}


@dataclass(frozen=True, slots=True)
class Assembled:
    """An image that is not named yet."""

    config: ImageConfig
    layers: tuple[Descriptor, ...]


def assemble(
    store: ImageStore, cache: BuildCache, made: Made, results: Mapping[str, Result], epoch: int | None
) -> Assembled:
    """The target's configuration and layers. Times are those of the steps, so that the same is the same again."""
    base = store.images.get(made.base.digest) if made.base is not None else None
    chain = str(results[made.vertex.key].source)
    layers = _layers(store, chain, base)
    diff_ids = _diff_ids(store, chain)
    bare = msgspec.structs.replace(made.config, created="", rootfs=RootFS(diff_ids=diff_ids), comment="")
    times = [str(results[line.vertex.key].created_ns) for line in made.history if line.vertex is not None]
    lines = [line.created_by for line in made.history]
    name = hashlib.sha256(msgspec.json.encode([bare, times, lines])).hexdigest()
    made_ns = epoch * 10**9 if epoch is not None else cache.moment(name, time.time_ns())

    def layered(vertex: Vertex) -> bool:
        return results[vertex.key].source != results[vertex.inputs[0].key].source

    own = history(made, layered, _stamp(made_ns))
    if epoch is None:
        own = tuple(
            msgspec.structs.replace(step, created=_stamp(results[line.vertex.key].created_ns or made_ns))
            if line.vertex is not None
            else step
            for step, line in zip(own, made.history, strict=True)
        )
    config = msgspec.structs.replace(
        bare, created=_stamp(made_ns), history=(*(base.config.history if base else ()), *own)
    )
    return Assembled(config, layers)


def name_image(store: ImageStore, assembled: Assembled, names: list[str]) -> Image:
    """Make it an image; without names it is a dangling one."""
    return store_image(store.content, store.images, assembled.config, assembled.layers, names)


def _layers(store: ImageStore, chain: str, base: Image | None) -> tuple[Descriptor, ...]:
    """The descriptors of all layers, the lowest first: the base's own, then what steps made."""
    below = dict(zip(base.chain_ids, base.layers, strict=True)) if base else {}
    found: list[Descriptor] = []
    for chain_id in reversed(store.layers.lineage(chain)):
        if chain_id in below:
            blob = below[chain_id]
            media_type = _OCI_TYPES.get(blob.media_type, blob.media_type)
            found.append(Descriptor(media_type=media_type, digest=blob.digest, size=blob.size))
            continue
        facts = store.layers.facts(chain_id)
        if facts is None:
            raise NotFound(f"the layer {chain_id} was removed while the build used it; build again")
        if not facts.archive:
            raise Internal(f"the layer {chain_id} has no archive that could be made again")
        found.append(Descriptor(media_type=oci.OCI_LAYER, digest=facts.diff_id, size=facts.archive))
    return tuple(found)


def _diff_ids(store: ImageStore, chain: str) -> tuple[str, ...]:
    found = []
    for chain_id in reversed(store.layers.lineage(chain)):
        facts = store.layers.facts(chain_id)
        if facts is None:
            raise NotFound(f"the layer {chain_id} was removed while the build used it; build again")
        found.append(facts.diff_id)
    return tuple(found)


def _stamp(nanoseconds: int) -> str:
    """RFC 3339 with nanoseconds, as configurations have it."""
    seconds, rest = divmod(nanoseconds, 10**9)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{rest:09d}Z" if rest else f"{whole}Z"
