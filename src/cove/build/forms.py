"""The form that a result is stored and sent in: how its layers are packed, and whose media types its documents have.

    compression=zstd,compression-level=3 ─▶ Form ─▶ each layer that a step made, packed once and remembered

Layers of a base stay as they came, unless `force-compression` says that all are to be of one form.
Source: exporter/containerimage/exptypes and util/compression of moby/buildkit.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import zstandard

from cove.build.cache import BuildCache
from cove.errors import InvalidArgument, Unsupported
from cove.image.decompress import decompressed
from cove.image.making import deflater
from cove.image.store import ImageStore
from cove.oci import image as oci
from cove.oci.image import Descriptor

_KINDS = {"uncompressed": oci.OCI_LAYER, "gzip": oci.OCI_LAYER_GZIP, "zstd": oci.OCI_LAYER_ZSTD}
_LEVELS = {"gzip": (0, 9), "zstd": (1, 22)}
_DOCKERS = {
    oci.OCI_MANIFEST: oci.DOCKER_MANIFEST,
    oci.OCI_INDEX: oci.DOCKER_INDEX,
    oci.OCI_CONFIG: oci.DOCKER_CONFIG,
    oci.OCI_LAYER: oci.DOCKER_LAYER,
    oci.OCI_LAYER_GZIP: oci.DOCKER_LAYER_GZIP,
    oci.OCI_LAYER_ZSTD: oci.DOCKER_LAYER_ZSTD,
}
_ZSTD_LEVEL = 3
_BLOCK = 1 << 20


class Form(msgspec.Struct, frozen=True):
    """What is wished: `level` -1 for the usual one; `force`: layers of bases, too; `docker`: Docker's media types."""

    compression: str = "uncompressed"
    level: int = -1
    force: bool = False
    docker: bool = False

    def media_type(self, oci_type: str) -> str:
        """A document's or a layer's, whose OCI type is given."""
        return _DOCKERS[oci_type] if self.docker else oci_type

    def typed(self, layer: Descriptor) -> Descriptor:
        """A layer under its media type of this form."""
        return msgspec.structs.replace(layer, media_type=self.media_type(layer.media_type))


PLAIN = Form()


def read(attributes: Mapping[str, str], *, usual: str, force: bool, docker: bool) -> Form:
    """The form that options ask for; `usual` is the output's compression. Raises InvalidArgument or Unsupported."""
    kind = attributes.get("compression") or usual
    if kind == "estargz":
        raise Unsupported(
            "compression=estargz is not made by this builder: layers would need an index of their files for lazy "
            "pulls; gzip, zstd and uncompressed are possible"
        )
    if kind not in _KINDS:
        raise InvalidArgument(f"compression={kind} is not known; uncompressed, gzip and zstd are")
    level = _level(kind, attributes.get("compression-level", ""))
    return Form(kind, level, force, docker)


def _level(kind: str, text: str) -> int:
    if not text:
        return -1
    if kind not in _LEVELS:
        raise InvalidArgument(f"compression-level={text} needs compression=gzip or zstd")
    least, most = _LEVELS[kind]
    try:
        level = int(text)
    except ValueError:
        raise InvalidArgument(f"compression-level={text} is not a whole number") from None
    if not least <= level <= most:
        raise InvalidArgument(f"compression-level={text} is not between {least} and {most}, as {kind} has it")
    return level


def packed(store: ImageStore, cache: BuildCache, layer: Descriptor, form: Form) -> Descriptor:
    """The layer as the form wants it, in the store; itself where it is so already. Blocks."""
    wanted = _KINDS[form.compression]
    if layer.media_type == wanted:
        return layer
    name = f"packed {form.compression} {form.level} {layer.digest}"
    known = cache.digest(name)
    if known is None or not store.content.has(known):
        known = store.content.ingest(_pieces(_blocks(store, layer.digest), form))
        cache.keep_digest(name, known)
    return Descriptor(media_type=wanted, digest=known, size=store.content.size(known))


def _blocks(store: ImageStore, digest: str) -> Iterator[bytes]:
    """A layer's archive, whatever it is packed with."""
    with store.content.open(digest) as file:
        yield from decompressed(iter(lambda: file.read(_BLOCK), b""))


def _pieces(archive: Iterable[bytes], form: Form) -> Iterator[bytes]:
    packer = _packer(form)
    for block in archive:
        if packer is None:
            yield block
        elif piece := packer.compress(block):
            yield piece
    if packer is not None:
        yield packer.flush()


def _packer(form: Form) -> Any:
    """An object with `compress` and `flush`; None for what is left as it is."""
    if form.compression == "zstd":
        level = form.level if form.level >= 0 else _ZSTD_LEVEL
        return zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    if form.compression == "gzip":
        return deflater() if form.level < 0 else zlib.compressobj(form.level, zlib.DEFLATED, 31)
    return None
