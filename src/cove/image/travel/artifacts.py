"""Artifacts: manifests that are no image's, as archives. Their blobs lie in the content store while they travel.

    oci-layout  index.json  blobs/sha256/…        OCI image layout with one manifest

Owns neither what the blobs mean nor how long they stay.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import zstandard

from cove.errors import Internal, InvalidArgument, describe
from cove.image.distribution.seams import Content
from cove.image.travel.loading import Contents
from cove.image.travel.saving import LAYOUT, blob_member, blob_path, directory_member, file_member
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Index, Manifest

_LEVEL = 3


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A stream as one zstd frame, in bounded memory."""
    packer = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def store(content: Content, manifest: Manifest) -> Descriptor:
    """Store a manifest made here; what to call it by."""
    raw = image.encode(manifest)
    return Descriptor(
        media_type=image.media_type_of(manifest),
        digest=content.put(raw),
        size=len(raw),
        artifact_type=manifest.artifact_type,
    )


def save(content: Content, artifact: Descriptor, manifest: Manifest) -> Iterator[bytes]:
    """The artifact as an archive, piece by piece."""
    sizes = {artifact.digest: artifact.size} | {
        blob.digest: blob.size for blob in (manifest.config, *manifest.layers)
    }
    yield from file_member("oci-layout", LAYOUT)
    yield from file_member("index.json", image.encode(Index(media_type=image.OCI_INDEX, manifests=(artifact,))))
    yield from directory_member("blobs/")
    for algorithm in sorted({digests.parse(digest)[0] for digest in sizes}):
        yield from directory_member(f"blobs/{algorithm}/")
    for digest, size in sizes.items():
        yield from blob_member(content, digest, size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def load(content: Content, kind: str, stream: Iterable[bytes], spool: Path, what: str) -> Manifest:
    """Store the blobs of an archive; its one artifact of the type `kind`, which people call `what`.

    InvalidArgument for any other archive.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="load-", dir=spool) as directory, ExitStack() as around:
            contents = around.enter_context(Contents(content, Path(directory)))
            contents.take_all(stream)
            if not contents.has("index.json"):
                raise InvalidArgument(f"the archive is no {what}: it has no index.json")
            index = image.decode_index(contents.read("index.json", image.MAX_MANIFEST))
            for entry in index.manifests:
                raw = contents.read(blob_path(entry.digest), image.MAX_MANIFEST)
                manifest = image.decode_manifest(raw, entry.media_type)
                if isinstance(manifest, Manifest) and manifest.artifact_type == kind:
                    _check_complete(content, manifest)
                    return manifest
            raise InvalidArgument(f"the archive is no {what}: no manifest in it is one's")
    except OSError as error:
        raise Internal(f"the archive could not be read: {describe(error)}") from error


def _check_complete(content: Content, manifest: Manifest) -> None:
    for blob in (manifest.config, *manifest.layers):
        if not content.exists(blob.digest) or content.size(blob.digest) != blob.size:
            raise InvalidArgument(f"the archive is incomplete: {blob_path(blob.digest)} is missing")
