"""What comes out of a build: an image with its configuration and history, and forms that leave the store.

Made + results ─▶ configuration, layers ─▶ image under its names
                                        └▶ archive (docker, oci) · root file system (tar, local)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from cove.build import forms, ops
from cove.build.annotations import Annotations
from cove.build.cache import BuildCache
from cove.build.dockerfile.stage import Made, history
from cove.build.forms import Form
from cove.build.graph import Vertex
from cove.build.selections import Result
from cove.errors import CoveError, Internal, NotFound
from cove.image.images import Image
from cove.image.store import ImageStore
from cove.oci import image as oci
from cove.oci.image import Descriptor, ImageConfig, Index, Manifest, RootFS

CACHE = "dev.cove.build.cache"
"""Annotation of a manifest: which steps made which of its layers."""

_OCI_TYPES = {
    oci.DOCKER_LAYER: oci.OCI_LAYER,
    oci.DOCKER_LAYER_GZIP: oci.OCI_LAYER_GZIP,
    oci.DOCKER_LAYER_ZSTD: oci.OCI_LAYER_ZSTD,
}

_NO_ANNOTATIONS = Annotations()

Attest = Callable[[int, Descriptor], Descriptor]
"""Makes a statement about the manifest of the part at that place; how an index names the statement."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """An image that is not named yet.

    `steps`: by key or recipe, how many layers there were after the step, and when. `moment`: what its time goes by,
    and the time in nanoseconds.
    """

    config: ImageConfig
    layers: tuple[Descriptor, ...]
    steps: dict[str, tuple[int, int]]
    moment: tuple[str, int]


def assemble(
    store: ImageStore,
    cache: BuildCache,
    made: Made,
    results: Mapping[str, Result],
    keys: Mapping[str, tuple[str, ...]],
    epoch: int | None,
    told: Callable[[str], int | None] = lambda _: None,
    form: Form = forms.PLAIN,
) -> Assembled:
    """The target's configuration and layers. Times are those of the steps, so that the same is the same again.

    `told`: the time that another daemon gave the same configuration. `form` is what layers are packed as.
    """
    base = store.images.get(made.base.digest) if made.base is not None else None
    chain = str(results[made.vertex.key].source)
    layers = _layers(store, chain, base, lambda layer: forms.packed(store, cache, layer, form), force=form.force)
    diff_ids = _diff_ids(store, chain)
    bare = msgspec.structs.replace(made.config, parent="", created="", rootfs=RootFS(diff_ids=diff_ids), comment="")
    times = [str(results[line.vertex.key].created_ns) for line in made.history if line.vertex is not None]
    lines = [line.created_by for line in made.history]
    name = hashlib.sha256(msgspec.json.encode([bare, times, lines])).hexdigest()
    made_ns = epoch * 10**9 if epoch is not None else cache.moment(name, told(name) or time.time_ns())

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
    depths = {chain_id: depth for depth, chain_id in enumerate(reversed(store.layers.lineage(chain)), 1)}
    steps = {
        key: (depths[str(found.source)], found.created_ns)
        for line in made.history
        if line.vertex is not None and line.vertex.key in keys
        if (found := results[line.vertex.key]).source in depths
        for key in keys[line.vertex.key]
    }
    return Assembled(config, layers, steps, (name, made_ns))


def own_steps(targets: Iterable[Made]) -> Iterator[Vertex]:
    """The steps that results themselves consist of, without other stages'; with what they were linked from."""
    for made in targets:
        for line in made.history:
            if line.vertex is not None:
                yield from (each for each in line.vertex.inputs[1:] if isinstance(line.vertex.step, ops.Link))
                yield line.vertex


def name_image(
    store: ImageStore,
    parts: list[Assembled],
    names: list[str],
    *,
    cached: bool,
    attest: Attest | None = None,
    annotations: Annotations = _NO_ANNOTATIONS,
    form: Form = forms.PLAIN,
) -> Image:
    """Make it an image, or with several platforms an index of images; without names it is a dangling one.

    `cached`: the manifest tells which steps made which layers, so that other builds may take them from the image.
    `attest` makes a statement about each manifest, which then lie with them in an index. Documents are of the form's
    media types, but OCI's where there are annotations or statements, which Docker's do not have.
    """
    if attest is not None or annotations != _NO_ANNOTATIONS:
        form = msgspec.structs.replace(form, docker=False)
    manifests = [_manifest(store, part, annotations, form, cached=cached) for part in parts]
    annotations.check(indexed=len(manifests) > 1 or attest is not None)
    if attest is not None:
        manifests += [attest(place, manifest) for place, manifest in enumerate(manifests)]
    if len(manifests) == 1:
        target = manifests[0]
    else:
        kind = form.media_type(oci.OCI_INDEX)
        listed = Index(
            media_type=kind, manifests=tuple(manifests), annotations=dict(sorted(annotations.index.items()))
        )
        raw = oci.encode(listed)
        target = Descriptor(media_type=kind, digest=store.content.put(raw), size=len(raw))
    for name in names or (target.digest,):
        try:
            known = store.images.get(name)
        except CoveError:
            break
        if known.target.digest != target.digest:
            break
    else:
        return known
    return store.images.register(target.digest, names)


def _manifest(store: ImageStore, part: Assembled, wanted: Annotations, form: Form, *, cached: bool) -> Descriptor:
    raw = oci.encode(part.config)
    described = Descriptor(media_type=form.media_type(oci.OCI_CONFIG), digest=store.content.put(raw), size=len(raw))
    platform = part.config.platform
    annotations = dict(sorted(wanted.of_manifest(platform).items()))
    if cached:
        annotations[CACHE] = msgspec.json.encode(part.steps).decode()
    kind, layers = form.media_type(oci.OCI_MANIFEST), tuple(form.typed(layer) for layer in part.layers)
    manifest = oci.encode(Manifest(media_type=kind, config=described, layers=layers, annotations=annotations))
    digest = store.content.put(manifest)
    return Descriptor(
        media_type=kind,
        digest=digest,
        size=len(manifest),
        platform=platform,
        annotations=dict(sorted(wanted.of_descriptor(platform).items())),
    )


def _layers(
    store: ImageStore, chain: str, base: Image | None, pack: Callable[[Descriptor], Descriptor], *, force: bool
) -> tuple[Descriptor, ...]:
    """The descriptors of all layers, the lowest first: the base's own, then what steps made, which `pack` packs.

    `force`: it packs the base's, too.
    """
    below = dict(zip(base.chain_ids, base.layers, strict=True)) if base else {}
    found: list[Descriptor] = []
    for chain_id in reversed(store.layers.lineage(chain)):
        if chain_id in below:
            blob = below[chain_id]
            media_type = _OCI_TYPES.get(blob.media_type, blob.media_type)
            plain = Descriptor(media_type=media_type, digest=blob.digest, size=blob.size)
            found.append(pack(plain) if force else plain)
            continue
        found.append(pack(layer_blob(store, chain_id)))
    return tuple(found)


def layer_blob(store: ImageStore, chain_id: str) -> Descriptor:
    """The descriptor of the archive of a layer that a step made, here or where it came from."""
    facts = store.layers.facts(chain_id)
    if facts is None:
        raise NotFound(f"the layer {chain_id} was removed while the build used it; build again")
    if facts.archive:
        return Descriptor(media_type=oci.OCI_LAYER, digest=facts.diff_id, size=facts.archive)
    return _brought(store, chain_id)


def _brought(store: ImageStore, chain_id: str) -> Descriptor:
    """The descriptor of a layer that came from elsewhere: that of an image which has it."""
    for image in store.images.list():
        if chain_id in image.chain_ids:
            blob = image.layers[image.chain_ids.index(chain_id)]
            media_type = _OCI_TYPES.get(blob.media_type, blob.media_type)
            return Descriptor(media_type=media_type, digest=blob.digest, size=blob.size)
    raise Internal(f"the layer {chain_id} has no archive that could be made again")


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
