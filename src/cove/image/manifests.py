"""Indexes made here: several images, one per platform, under one name (`cove manifest`).

    create(name, images) ─▶ index of their manifests ─▶ named
    annotate(name, member, …) ─▶ a new index with one entry changed ─▶ the name moves, the old index goes

Every member's content is in the store already, so that the index can be pushed and run as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cove.errors import Conflict, InvalidArgument, NotFound
from cove.image.content import ContentStore
from cove.image.images import Image, Images
from cove.oci import image as oci
from cove.oci.image import Descriptor, Index
from cove.oci.platform import Platform
from cove.oci.reference import Reference


def create(content: ContentStore, images: Images, name: str, members: Iterable[str], *, amend: bool = False) -> Image:
    """Make the index `name` of the images `members`; with `amend` add them to the one that has the name."""
    before = _existing(content, images, name)
    if before is not None and not amend:
        raise Conflict(f"there is an image {name} already; add to it with --amend, or choose another name")
    entries = {entry.digest: entry for entry in before.manifests} if before else {}
    for member in members:
        entries |= {entry.digest: entry for entry in _entries(images.get(member))}
    if not entries:
        raise InvalidArgument(f"no image was named: say which ones {name} shall stand for")
    index = before or Index(media_type=oci.OCI_INDEX)
    return _named(content, images, name, msgspec.structs.replace(index, manifests=tuple(entries.values())))


def annotate(
    content: ContentStore,
    images: Images,
    name: str,
    member: str,
    *,
    platform: Mapping[str, object],
    annotations: Mapping[str, str],
) -> Image:
    """Change what the index `name` says of `member` (an image's name, or a manifest's digest).

    `platform` holds those fields of `Platform` that change.
    """
    index = _existing(content, images, name)
    if index is None:
        raise InvalidArgument(f"{name} is a single image, whose manifest cannot be annotated; make an index of it")
    digest = member if ":" in member and member.startswith("sha") else images.get(member).manifest.digest
    if digest not in {entry.digest for entry in index.manifests}:
        raise NotFound(f"{name} has no manifest {member}; add it with `cove manifest create --amend`")
    entries = [
        _annotated(entry, platform, annotations) if entry.digest == digest else entry for entry in index.manifests
    ]
    return _named(content, images, name, msgspec.structs.replace(index, manifests=tuple(entries)))


def document(content: ContentStore, images: Images, name: str) -> bytes:
    """The manifest or index that `name` points at, byte for byte."""
    return content.read(images.get(name).target.digest)


def _existing(content: ContentStore, images: Images, name: str) -> Index | None:
    try:
        raw = document(content, images, name)
    except NotFound:
        return None
    decoded = oci.decode_manifest(raw)
    if isinstance(decoded, Index):
        return decoded
    raise Conflict(f"{name} is a single image; an index needs a name of its own")


def _entries(image: Image) -> Iterable[Descriptor]:
    """What an image adds to an index: its manifest, or those of its own index that are here."""
    if image.target.media_type in oci.INDEXES:
        return [offer.descriptor for offer in image.offers if offer.blobs and offer.kind != "index"]
    return [msgspec.structs.replace(image.manifest, platform=image.config.platform)]


def _annotated(entry: Descriptor, platform: Mapping[str, object], annotations: Mapping[str, str]) -> Descriptor:
    said = entry.platform or Platform()
    return msgspec.structs.replace(
        entry,
        platform=msgspec.structs.replace(said, **platform) if platform else entry.platform,
        annotations={**entry.annotations, **annotations},
    )


def _named(content: ContentStore, images: Images, name: str, index: Index) -> Image:
    """The name moves to the new index; the old one, if nothing else names it, is forgotten."""
    full = Reference.parse(name).full
    try:
        old = images.get(full).target.digest
    except NotFound:
        old = ""
    image = images.register(content.put(oci.encode(index)), [full])
    if old and old != image.target.digest:
        images.forget_unnamed(old)
    return image
