"""Making an image out of a layer: what import, commit and bootstrap share.

archive ─▶ gzip unless compressed ─▶ content store
       └─▶ unpacked meanwhile, which tells its diff id
        ─▶ configuration ─▶ manifest ─▶ named
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from cove.image.content import ContentStore
from cove.image.decompress import decompressed
from cove.image.images import Image, Images
from cove.image.layers import Layers
from cove.oci import image as oci
from cove.oci.image import Descriptor, ImageConfig, Manifest

_GZIP, _ZSTD, _OTHERS = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", (b"BZh", b"\xfd7zXZ\0")
_LEVEL, _ISAL_LEVEL = 3, 1


class StoredLayer(msgspec.Struct, frozen=True):
    """A layer in the store and unpacked."""

    blob: Descriptor
    diff_id: str
    chain_id: str


def store_layer(content: ContentStore, layers: Layers, archive: Iterable[bytes], parent: str = "") -> StoredLayer:
    """Store a layer's archive, of any compression, and unpack it on top of `parent`."""
    with layers.adopting(parent) as adopting:
        media_type, stream = _compressed(archive, adopting.feed)
        digest = content.ingest(stream)
        chain_id, seen = adopting.finish()
    blob = Descriptor(media_type=media_type, digest=digest, size=content.size(digest))
    return StoredLayer(blob, seen.diff_id, chain_id)


def store_image(
    content: ContentStore, images: Images, config: ImageConfig, layers: Iterable[Descriptor], names: Iterable[str]
) -> Image:
    """Store a configuration and its manifest, and name the image."""
    raw = oci.encode(config)
    described = Descriptor(media_type=oci.OCI_CONFIG, digest=content.put(raw), size=len(raw))
    manifest = Manifest(media_type=oci.OCI_MANIFEST, config=described, layers=tuple(layers))
    return images.register(content.put(oci.encode(manifest)), names)


def _compressed(archive: Iterable[bytes], seen: Callable[[bytes], None]) -> tuple[str, Iterator[bytes]]:
    """The archive as it will be stored, and what it is called then; `seen` gets it piece by piece as it comes."""
    pieces = iter(archive)
    head = b""
    while len(head) < 6 and (piece := next(pieces, None)) is not None:
        head += piece
    whole = _chained(head, pieces)
    if head.startswith(_GZIP):
        return oci.OCI_LAYER_GZIP, _watched(whole, seen)
    if head.startswith(_ZSTD):
        return oci.OCI_LAYER_ZSTD, _watched(whole, seen)
    return oci.OCI_LAYER_GZIP, _gzipped(_watched(decompressed(whole) if head.startswith(_OTHERS) else whole, seen))


def _watched(stream: Iterator[bytes], seen: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in stream:
        seen(piece)
        yield piece


def _gzipped(stream: Iterator[bytes]) -> Iterator[bytes]:
    """gzip, without a time in its header."""
    deflate = deflater()
    for data in stream:
        if piece := deflate.compress(data):
            yield piece
    yield deflate.flush()


def deflater() -> Any:
    """Packs as gzip, with isal where it exists: its level 1 packs like zlib's 3, in a sixth of the time."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    return isal_zlib.compressobj(_ISAL_LEVEL, zlib.DEFLATED, 31)


def _chained(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest
