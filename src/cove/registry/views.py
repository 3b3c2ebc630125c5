"""What a page tells of a repository, read from manifests and configurations; knows no HTML.

A tag shows its variants: one for an image, one for each image of an index. What is not stored here (a
variant that a cache was never asked for, or that was never pushed) says so by `complete`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cove.errors import CoveError
from cove.oci import image
from cove.oci.image import Descriptor, ImageConfig, Index, Manifest
from cove.oci.platform import Platform
from cove.registry.catalogue import Entry, Tag
from cove.registry.manifests import descriptor_of
from cove.registry.storage import Storage

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Layer:
    """`step` is what made it, where its image says so."""

    digest: str
    size: int
    step: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One manifest of a tag; sizes are those of what is transferred."""

    digest: str
    platform: Platform
    media_type: str
    artifact_type: str
    size: int
    layers: tuple[Layer, ...]
    created: str
    command: tuple[str, ...]
    complete: bool

    @property
    def is_image(self) -> bool:
        return self.platform.os not in ("", _UNKNOWN)


@dataclass(frozen=True, slots=True)
class TagView:
    """A tag with its variants, Linux first, and what is attached to its manifest."""

    name: str
    digest: str
    changed: float
    media_type: str
    variants: tuple[Variant, ...]
    attached: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class RepositoryLine:
    """A repository in the list of all."""

    name: str
    tags: int
    size: int
    changed: float


def line(storage: Storage, name: str) -> RepositoryLine:
    tags = storage.catalogue.tags(name)
    changed = max((tag.changed for tag in tags), default=0.0)
    return RepositoryLine(name, len(tags), storage.catalogue.room(name), changed)


def tag_view(storage: Storage, repository: str, tag: Tag) -> TagView | None:
    """None when the tag went meanwhile."""
    entry = storage.catalogue.manifest(repository, tag.digest)
    if entry is None:
        return None
    variants = sorted(_variants(storage, repository, entry), key=_order)
    attached = tuple(descriptor_of(found) for found in storage.catalogue.referrers(repository, tag.digest))
    return TagView(tag.name, tag.digest, tag.changed, entry.media_type, tuple(variants), attached)


def _order(variant: Variant) -> tuple[bool, bool, str]:
    return not variant.is_image, variant.platform.os != "linux", str(variant.platform)


def _variants(storage: Storage, repository: str, entry: Entry) -> list[Variant]:
    document = _document(storage, entry)
    if isinstance(document, Manifest):
        return [_variant(storage, repository, document, entry, None)]
    if document is None:
        return []
    found = []
    for child in document.manifests:
        inner = storage.catalogue.manifest(repository, child.digest)
        manifest = _document(storage, inner) if inner else None
        if inner is not None and isinstance(manifest, Manifest):
            found.append(_variant(storage, repository, manifest, inner, child.platform))
        else:
            found.append(_absent(child))
    return found


def _document(storage: Storage, entry: Entry) -> Manifest | Index | None:
    try:
        return image.decode_manifest(storage.manifest_bytes(entry), entry.media_type)
    except CoveError:
        return None


def _variant(
    storage: Storage, repository: str, manifest: Manifest, entry: Entry, platform: Platform | None
) -> Variant:
    config = _config(storage, repository, manifest)
    layers = tuple(
        Layer(part.digest, part.size, step)
        for part, step in zip(manifest.layers, _steps(config, len(manifest.layers)), strict=True)
    )
    parts = (manifest.config, *manifest.layers)
    return Variant(
        digest=entry.digest,
        platform=platform or (config.platform if config else Platform()),
        media_type=entry.media_type,
        artifact_type="" if manifest.config.media_type in image.CONFIGS else entry.artifact_type,
        size=sum(part.size for part in parts),
        layers=layers,
        created=config.created if config else "",
        command=(*config.config.entrypoint, *config.config.cmd) if config else (),
        complete=all(storage.catalogue.blob(repository, part.digest) is not None for part in parts),
    )


def _absent(child: Descriptor) -> Variant:
    return Variant(
        digest=child.digest,
        platform=child.platform or Platform(),
        media_type=child.media_type,
        artifact_type=child.artifact_type,
        size=child.size,
        layers=(),
        created="",
        command=(),
        complete=False,
    )


def _config(storage: Storage, repository: str, manifest: Manifest) -> ImageConfig | None:
    part = manifest.config
    known = storage.catalogue.blob(repository, part.digest)
    if part.media_type not in image.CONFIGS or known is None or known > image.MAX_CONFIG:
        return None
    try:
        return image.decode_config(storage.content.read(part.digest))
    except CoveError:
        return None


def _steps(config: ImageConfig | None, count: int) -> tuple[str, ...]:
    """What made each layer; empty texts when the history does not fit the layers."""
    made = [step.created_by for step in config.history if not step.empty_layer] if config else []
    return tuple(made) if len(made) == count else ("",) * count
