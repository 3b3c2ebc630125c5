"""Finished steps on their way to other daemons: one artifact that says which layer each step made, and has them.

    manifest ─▶ configuration: {"steps": {KEY: [chain id, when]}, "layers": {chain id: {parent, diff id, blob}}}
            └─▶ the layers that steps made; those of base images stay where the bases come from

A step is taken by its key, or where it uses other stages by its recipe; only then its layers come, each verified by
its digest and unpacked on what it stood on. What cannot be made again byte by byte is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from cove.build.exporters import CACHE, layer_blob
from cove.build.graph import Vertex
from cove.build.selections import Result
from cove.errors import InvalidArgument
from cove.image.derived import make_derivable
from cove.image.images import Image
from cove.image.store import ImageStore
from cove.image.travel import artifacts
from cove.oci import image as oci
from cove.oci.chain import chained
from cove.oci.image import Descriptor, Manifest

KIND = "application/vnd.cove.build.cache.v1+json"
FOREIGN = "application/vnd.buildkit.cacheconfig.v0"
"""BuildKit's own: its keys are digests of its low-level language."""
IS_FOREIGN = "it is BuildKit's own, whose keys are of its low-level language, which no step here has"
MAX_DOCUMENT = 64 << 20

Fetch = Callable[[Descriptor], None]
"""Have a blob in the store."""


class Layer(msgspec.Struct, frozen=True):
    """What a step made. `blob` is the digest of its archive among the manifest's layers."""

    parent: str
    diff_id: str
    blob: str


class Document(msgspec.Struct, frozen=True):
    """Which steps there are: by key or recipe the chain id of the result, and when it was made in nanoseconds.

    `moments`: when configurations were first made, by what they consist of.
    """

    steps: dict[str, tuple[str, int]] = {}
    layers: dict[str, Layer] = {}
    moments: dict[str, int] = {}


def gathered(
    store: ImageStore,
    vertices: Iterable[Vertex],
    results: Mapping[str, Result],
    keys: Mapping[str, tuple[str, ...]],
    moments: Mapping[str, int],
) -> tuple[Document, tuple[Descriptor, ...]]:
    """What is known of these steps, and the descriptors of their layers. `keys`: all that each is known by."""
    steps: dict[str, tuple[str, int]] = {}
    layers: dict[str, Layer] = {}
    blobs: dict[str, Descriptor] = {}
    for vertex in vertices:
        if vertex.key not in keys or vertex.key not in results:
            continue
        found = results[vertex.key]
        chain, below = str(found.source), str(results[vertex.inputs[0].key].source)
        steps |= dict.fromkeys(keys[vertex.key], (chain, found.created_ns))
        facts = store.layers.facts(chain)
        if chain != below and facts is not None:
            blob = layer_blob(store, chain)
            layers[chain] = Layer(facts.parent, facts.diff_id, blob.digest)
            blobs[blob.digest] = blob
    return Document(steps, layers, dict(moments)), tuple(blobs.values())


def packed(store: ImageStore, document: Document, layers: tuple[Descriptor, ...]) -> tuple[Descriptor, Manifest]:
    """The artifact, with its documents in the content store."""
    raw = msgspec.json.encode(document)
    config = Descriptor(media_type=KIND, digest=store.content.put(raw), size=len(raw))
    manifest = Manifest(media_type=oci.OCI_MANIFEST, artifact_type=KIND, config=config, layers=layers)
    return artifacts.store(store.content, manifest), manifest


class Offer:
    """Finished steps that somebody offers. `fetch` brings a blob of theirs."""

    def __init__(self, store: ImageStore, raw: bytes, manifest: Manifest, fetch: Fetch) -> None:
        if len(raw) > MAX_DOCUMENT:
            raise InvalidArgument(f"the cache's document is longer than {MAX_DOCUMENT} bytes")
        try:
            self._document = msgspec.json.decode(raw, type=Document)
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"the cache's document cannot be read: {error}") from error
        self._store = store
        self._blobs = {blob.digest: blob for blob in manifest.layers}
        self._fetch = fetch

    def take(self, key: str) -> tuple[str, int] | None:
        """The chain id of a step's result, whose layers are here then, and when it was made. Blocks."""
        found = self._document.steps.get(key)
        if found is None:
            return None
        chain, made = found
        missing: list[tuple[str, Layer]] = []
        while chain and not self._store.layers.is_unpacked(chain):
            layer = self._document.layers.get(chain)
            if layer is None or len(missing) > oci.MAX_LAYERS:
                return None  # it stands on something that is not here
            missing.append((chain, layer))
            chain = layer.parent
        for chain, layer in reversed(missing):
            if not self._bring(chain, layer):
                return None
        return found[0], made

    def moment(self, name: str) -> int | None:
        """When a configuration was first made."""
        return self._document.moments.get(name)

    def _bring(self, chain: str, layer: Layer) -> bool:
        blob = self._blobs.get(layer.blob)
        if blob is None or chain != chained(layer.parent, layer.diff_id):
            return False
        self._fetch(blob)
        self._store.layers.unpack(blob, layer.diff_id, chain, layer.parent)
        return make_derivable(self._store.layers, chain)


class Inline:
    """The steps that an image offers, whose layers are here with it."""

    def __init__(self, steps: Mapping[str, tuple[str, int]]) -> None:
        self._steps = steps

    def take(self, key: str) -> tuple[str, int] | None:
        """As `Offer.take`."""
        return self._steps.get(key)

    def moment(self, name: str) -> int | None:
        """As `Offer.moment`; none is told."""
        return None


def inline(store: ImageStore, image: Image) -> Inline | None:
    """The steps that an image offers; None when it offers none."""
    manifest = oci.decode_manifest(store.content.read(image.manifest.digest))
    text = manifest.annotations.get(CACHE, "")
    if not text:
        return None
    try:
        steps = msgspec.json.decode(text, type=dict[str, tuple[int, int]])
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"the cache in the image {image.id} cannot be read: {error}") from error
    depth = len(image.chain_ids)
    return Inline({key: (image.chain_ids[n - 1], made) for key, (n, made) in steps.items() if 0 < n <= depth})
