"""`save`: images as one tar archive, an OCI layout that is Docker's archive as well.

    oci-layout  index.json  blobs/sha256/…        OCI image layout
    manifest.json  repositories                   Docker's list of images and their names

So every tool finds what it knows. An image with several variants is saved with all that are here.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from cove.errors import Internal, InvalidArgument
from cove.image.distribution.seams import Content, Images, StoredImage
from cove.image.variants import Offer, attested
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Index
from cove.oci.platform import Platform
from cove.oci.reference import Reference

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation of an index's entry that holds the full name; `org.opencontainers.image.ref.name` has the tag."""

_CHUNK = 1 << 20
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class _Saved(msgspec.Struct, frozen=True):
    """An image with the names to save it under; `alone`: without the other variants of its index.

    `kept`: the manifests of the only variants that are saved of an index, empty for all of them.
    """

    image: StoredImage
    names: tuple[Reference, ...]
    alone: bool
    kept: frozenset[str] = frozenset()

    @property
    def target(self) -> Descriptor:
        return self.image.manifest if self.alone else self.image.target

    @property
    def blobs(self) -> Iterator[str]:
        stored = self.image
        if not self.alone:
            yield stored.target.digest
        yield from (stored.manifest.digest, stored.id, *(layer.digest for layer in stored.layers))
        if not self.alone:
            yield from (blob.digest for offer in stored.offers if self._keeps(offer) for blob in offer.blobs)

    def _keeps(self, offer: Offer) -> bool:
        """A variant that was asked for, or what is attested of one."""
        return not self.kept or not self.kept.isdisjoint((offer.descriptor.digest, attested(offer.descriptor)))


def save(
    content: Content, images: Images, names: Iterable[str], platforms: Sequence[Platform] = ()
) -> Iterator[bytes]:
    """The archive of all images that `names` (references, repositories or ids) stand for, piece by piece.

    With `platforms`, those variants of each; else all that are here. NotFound is raised before the first piece.
    """
    return _written(content, _chosen(images, names, platforms))


def save_as(content: Content, stored: StoredImage, names: Iterable[Reference]) -> Iterator[bytes]:
    """The archive of one image with everything that is here of it, under names that it need not have."""
    return _written(content, [_Saved(stored, tuple(names), stored.target == stored.manifest)])


def blobs(content: Content, stored: StoredImage) -> Iterator[Descriptor]:
    """Everything that is here of one image, what points at others last."""
    saved = _Saved(stored, (), stored.target == stored.manifest)
    for digest in reversed(list(dict.fromkeys(saved.blobs))):
        yield Descriptor(media_type="", digest=digest, size=content.size(digest))


def _chosen(images: Images, names: Iterable[str], platforms: Sequence[Platform]) -> list[_Saved]:
    """Each image once, with those of its names that were asked for."""
    first = platforms[0] if platforms else None
    found: dict[str, tuple[StoredImage, dict[Reference, None]]] = {}
    for name in names:
        for stored, reference in _meant(images, name, first):
            _, references = found.setdefault(stored.manifest.digest, (stored, {}))
            if reference is not None:
                references[reference] = None
    chosen = []
    for stored, references in found.values():
        kept = frozenset(images.get(stored.target.digest, each).manifest.digest for each in platforms)
        alone = len(kept) == 1 or stored.target == stored.manifest
        chosen.append(_Saved(stored, tuple(references), alone, kept))
    return chosen


def _meant(images: Images, name: str, platform: Platform | None) -> list[tuple[StoredImage, Reference | None]]:
    """What `name` stands for: a bare repository means all its tags, an id no name at all."""
    try:
        bare = Reference.parse(name, default_tag="")
    except InvalidArgument:
        return [(images.get(name, platform), None)]
    if not bare.tag and not bare.digest:
        tagged = [Reference.parse(known) for stored in images.list() for known in stored.names]
        matching = [reference for reference in tagged if reference.name == bare.name]
        if matching:
            return [(images.get(reference.full, platform), reference) for reference in matching]
    stored = images.get(name, platform)
    return [(stored, bare if bare.tag and not bare.digest and bare.familiar in stored.names else None)]


def _written(content: Content, chosen: list[_Saved]) -> Iterator[bytes]:
    blobs: dict[str, int] = {}
    index: list[Descriptor] = []
    listing: list[dict[str, object]] = []
    repositories: dict[str, dict[str, str]] = {}
    for saved in chosen:
        stored = saved.image
        blobs.update((digest, content.size(digest)) for digest in saved.blobs)
        index += _index_entries(saved)
        listing.append(
            {
                "Config": blob_path(stored.id),
                "RepoTags": [name.familiar for name in saved.names],
                "Layers": [blob_path(layer.digest) for layer in stored.layers],
            }
        )
        for name in saved.names if stored.layers else ():
            top = digests.parse(stored.layers[-1].digest)[1]
            repositories.setdefault(name.familiar_name, {})[name.tag] = top
    yield from directory_member("blobs/")
    for algorithm in sorted({digests.parse(digest)[0] for digest in blobs}):
        yield from directory_member(f"blobs/{algorithm}/")
    with content.keeping() as kept:  # a slow client's image may be removed meanwhile
        kept.update(blobs)
        for digest in sorted(blobs):
            yield from blob_member(content, digest, blobs[digest])
    yield from file_member("index.json", image.encode(Index(media_type=image.OCI_INDEX, manifests=tuple(index))))
    yield from file_member("manifest.json", json.dumps(listing).encode())
    yield from file_member("oci-layout", LAYOUT)
    if repositories:
        yield from file_member("repositories", json.dumps(repositories).encode())
    yield bytes(2 * tarfile.BLOCKSIZE)


def _index_entries(saved: _Saved) -> list[Descriptor]:
    """The image under each of its names, or once without."""
    bare = Descriptor(
        media_type=saved.target.media_type,
        digest=saved.target.digest,
        size=saved.target.size,
        platform=saved.image.config.platform if saved.alone else None,
    )
    if not saved.names:
        return [bare]
    return [
        msgspec.structs.replace(bare, annotations={CONTAINERD_NAME: name.full, image.REF_NAME: name.tag})
        for name in saved.names
    ]


def blob_path(digest: str) -> str:
    return "blobs/" + "/".join(digests.parse(digest))


def _header(name: str, size: int, kind: bytes, mode: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, mode
    return info.tobuf(tarfile.GNU_FORMAT)


def directory_member(name: str) -> Iterator[bytes]:
    """A directory of an archive."""
    yield _header(name, 0, tarfile.DIRTYPE, 0o755)


def file_member(name: str, data: bytes) -> Iterator[bytes]:
    """A small file of an archive."""
    yield _header(name, len(data), tarfile.REGTYPE, 0o644) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def blob_member(content: Content, digest: str, size: int) -> Iterator[bytes]:
    """A blob as a file of an OCI layout."""
    yield _header(blob_path(digest), size, tarfile.REGTYPE, 0o644)
    left = size
    with content.open(digest) as file:
        while left and (data := file.read(min(left, _CHUNK))):
            left -= len(data)
            yield data
    if left:
        raise Internal(f"the stored blob {digest} is shorter than it was; pull its image again")
    yield bytes(-size % tarfile.BLOCKSIZE)
