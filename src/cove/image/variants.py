"""What a name points at: one image, or an index of its variants, as far as they are in the store.

    name ─▶ manifest ─▶ configuration, layers
    name ─▶ index ─▶ manifest (linux/amd64) ─▶ …         complete here: a Variant
                 ─▶ manifest (windows/amd64)             not here, or not all of it: an Offer without one
                 ─▶ manifest (unknown/unknown)           an attestation about one of the others

Documents are read here and never written. A manifest's bytes never change, so what they say is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import msgspec

from cove.errors import CoveError, InvalidArgument, NotFound
from cove.oci import digest as digests
from cove.oci import image as oci
from cove.oci.chain import chain_ids
from cove.oci.image import Descriptor, ImageConfig, Index, Manifest
from cove.oci.platform import Platform, best, host_platform

Kind = Literal["image", "attestation", "index", "unknown"]
_MAX_NESTING = 3
_MAX_OFFERS = 1000


class Blobs(Protocol):
    """What is needed of the content store."""

    def exists(self, digest: str) -> bool: ...
    def read(self, digest: str) -> bytes: ...


class Variant(msgspec.Struct, frozen=True):
    """One image for one platform, complete in the store; `id` is the digest of its configuration."""

    id: str
    manifest: Descriptor
    config: ImageConfig
    raw_config: bytes
    layers: tuple[Descriptor, ...]
    chain_ids: tuple[str, ...]

    @property
    def platform(self) -> Platform:
        return self.config.platform


class Offer(msgspec.Struct, frozen=True):
    """One entry of an index. `blobs` is everything of it that is here, its manifest first, once it is complete."""

    descriptor: Descriptor
    kind: Kind
    variant: Variant | None = None
    blobs: tuple[Descriptor, ...] = ()

    @property
    def platform(self) -> Platform | None:
        return self.variant.platform if self.variant else self.descriptor.platform


class Target(msgspec.Struct, frozen=True):
    """What a name points at, and what of it is here."""

    descriptor: Descriptor
    offers: tuple[Offer, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(offer.variant for offer in self.offers if offer.variant is not None)

    @property
    def blobs(self) -> set[str]:
        """The digests of everything that keeps it whole."""
        found = {blob.digest for offer in self.offers for blob in offer.blobs}
        return found | {self.descriptor.digest}

    def default(self) -> Variant:
        """The variant that this host runs best; the first one when it runs none."""
        if not self.variants:
            raise NotFound(f"no variant of {digests.short(self.descriptor.digest)} is complete here; pull it again")
        chosen = best(host_platform(), [(variant.platform, variant) for variant in self.variants])
        return chosen or self.variants[0]

    def on(self, platform: Platform) -> Variant | None:
        """The variant for `platform`, if it is here."""
        return best(platform, [(variant.platform, variant) for variant in self.variants])


class Variants:
    """Reads targets from a content store; safe to use from several threads."""

    def __init__(self, content: Blobs) -> None:
        self._content = content
        self._manifests: dict[str, tuple[Manifest, Descriptor]] = {}
        self._variants: dict[str, Variant] = {}

    def target(self, digest: str) -> Target:
        """The target with this digest. Raises what reading it raises."""
        if digest in self._manifests:
            document: Manifest | Index = self._manifests[digest][0]
            descriptor = self._manifests[digest][1]
        else:
            raw = self._content.read(digest)
            document = oci.decode_manifest(raw)
            descriptor = Descriptor(media_type=oci.media_type_of(document), digest=digest, size=len(raw))
        if isinstance(document, Index):
            return Target(descriptor, tuple(self._offers(document, 0)))
        # A single image's layers were all there when it was named; only the documents are read again.
        variant = self._variant(document, descriptor)
        return Target(descriptor, (Offer(descriptor, "image", variant, _parts(descriptor, document)),))

    def forget(self, digests_in_use: set[str]) -> None:
        """Keep in memory only what these targets need."""
        self._manifests = {digest: known for digest, known in self._manifests.items() if digest in digests_in_use}
        self._variants = {digest: known for digest, known in self._variants.items() if digest in digests_in_use}

    def _offers(self, index: Index, depth: int) -> Iterator[Offer]:
        if depth >= _MAX_NESTING or len(index.manifests) > _MAX_OFFERS:
            raise InvalidArgument("the image's index is nested too deeply or too long; ask its publisher")
        for entry in index.manifests:
            if entry.media_type in oci.INDEXES:
                here = self._content.exists(entry.digest)
                yield Offer(entry, "index", blobs=(entry,) if here else ())
                if here:
                    nested = oci.decode_manifest(self._content.read(entry.digest), entry.media_type)
                    assert isinstance(nested, Index)
                    yield from self._offers(nested, depth + 1)
            else:
                yield self._offer(entry)

    def _offer(self, entry: Descriptor) -> Offer:
        kind = kind_of(entry)
        if not self._content.exists(entry.digest):
            return Offer(entry, kind)
        try:
            manifest, _ = self._manifest(entry.digest)
            parts = _parts(entry, manifest)
            if not all(self._content.exists(blob.digest) for blob in parts):
                return Offer(entry, kind)
            if kind == "image" and manifest.config.media_type in oci.CONFIGS:
                return Offer(entry, kind, self._variant(manifest, entry), parts)
            return Offer(entry, "unknown" if kind == "image" else kind, None, parts)
        except CoveError:
            return Offer(entry, kind)  # damaged, or no image: as good as not here

    def _manifest(self, digest: str) -> tuple[Manifest, Descriptor]:
        known = self._manifests.get(digest)
        if known is None:
            raw = self._content.read(digest)
            manifest = oci.decode_manifest(raw)
            if isinstance(manifest, Index):
                raise InvalidArgument(f"{digest} is an index where a manifest is expected")
            descriptor = Descriptor(media_type=oci.media_type_of(manifest), digest=digest, size=len(raw))
            known = self._manifests[digest] = (manifest, descriptor)
        return known

    def _variant(self, manifest: Manifest, descriptor: Descriptor) -> Variant:
        digest = descriptor.digest
        known = self._variants.get(digest)
        if known is not None:
            return known
        raw = self._content.read(manifest.config.digest)
        config = oci.decode_config(raw)
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise InvalidArgument(
                f"invalid image: its configuration names {len(config.rootfs.diff_ids)} layers, "
                f"its manifest {len(manifest.layers)}"
            )
        plain = Descriptor(media_type=oci.media_type_of(manifest), digest=digest, size=descriptor.size)
        chain = chain_ids(config.rootfs.diff_ids)
        found = Variant(manifest.config.digest, plain, config, raw, manifest.layers, chain)
        self._manifests[digest] = (manifest, plain)
        self._variants[digest] = found
        return found


def kind_of(entry: Descriptor) -> Kind:
    """What an index's entry says that it is."""
    if entry.annotations.get(oci.ATTESTATION_TYPE) == "attestation-manifest":
        return "attestation"
    if entry.platform is not None and entry.platform.os == "unknown":
        return "unknown"
    return "image" if entry.media_type in oci.MANIFESTS else "unknown"


def attested(entry: Descriptor) -> str:
    """The digest of the manifest that an attestation is about."""
    return entry.annotations.get(oci.ATTESTATION_SUBJECT, "")


def _parts(descriptor: Descriptor, manifest: Manifest) -> tuple[Descriptor, ...]:
    return (descriptor, manifest.config, *manifest.layers)
