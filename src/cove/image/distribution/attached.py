"""Attachments on their way: fetched with an image, sent along with it.

fetch   GET referrers/<digest>, or the tag <algorithm>-<hex>     anything whose subject is the image
        GET manifests/<algorithm>-<hex>.sig, .att, .sbom        what cosign ties to the image by a tag
send    PUT manifests/<digest>, and where the registry does not list referrers itself: the index at the tag
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cove.errors import CoveError, InvalidArgument, NotFound, Unavailable
from cove.image.distribution.registry import Fetched, Repository
from cove.image.distribution.seams import Content
from cove.image.distribution.sources import Sources
from cove.image.trust.attachments import COSIGN_SIGNATURE, COSIGN_TAGS
from cove.oci import image
from cove.oci.image import Descriptor, Index, Manifest

_MOST = 64
_MAX_BYTES = 256 << 20


class NothingAttached:
    """For a store that keeps images alone."""

    def of(self, subject: str) -> tuple[Descriptor, ...]:
        return ()

    def add(self, subject: str, attached: Iterable[Descriptor]) -> None:
        """It is not kept."""

    def parts(self, digest: str) -> tuple[Descriptor, ...]:
        return ()


def fetch(sources: Sources, content: Content, subject: str, *, signatures: bool) -> list[Descriptor]:
    """Store what is attached to `subject`; with `signatures` look for cosign's tag too."""
    found = []
    for entry in sources.referrers(subject)[:_MOST]:
        fetched = sources.manifest(entry.digest)
        manifest = _artifact(fetched)
        if manifest is not None and manifest.subject is not None and manifest.subject.digest == subject:
            found.append(_store(sources, content, fetched, manifest, manifest.artifact_type or entry.artifact_type))
    if signatures:
        try:
            found += _tagged(sources, content, sources.manifest(tag_of(subject, COSIGN_SIGNATURE)), COSIGN_SIGNATURE)
        except NotFound:
            return found
    return found


def tagged(sources: Sources, content: Content, subject: str, kind: str) -> list[Descriptor]:
    """Store what cosign's tag of this kind ties to `subject`, if there is such a tag where the image comes from."""
    try:
        return _tagged(sources, content, sources.manifest_beside(tag_of(subject, kind)), kind)
    except NotFound:
        return []


def _tagged(sources: Sources, content: Content, fetched: Fetched, kind: str) -> list[Descriptor]:
    manifest = _artifact(fetched)
    return [] if manifest is None else [_store(sources, content, fetched, manifest, kind)]


def tag_of(subject: str, kind: str) -> str:
    """Where cosign puts its signatures of `subject`, or what else the artifact type `kind` is."""
    return f"{subject.replace(':', '-')}.{COSIGN_TAGS.get(kind, 'sig')}"


def _artifact(fetched: Fetched) -> Manifest | None:
    try:
        decoded = image.decode_manifest(fetched.raw, fetched.media_type)
    except CoveError:
        return None  # no manifest at all: nothing that could be kept
    return decoded if isinstance(decoded, Manifest) else None


def _store(sources: Sources, content: Content, fetched: Fetched, manifest: Manifest, kind: str) -> Descriptor:
    blobs = (manifest.config, *manifest.layers)
    if sum(blob.size for blob in blobs) > _MAX_BYTES:
        raise Unavailable(f"the attachment {fetched.digest} has more than {_MAX_BYTES >> 20} MiB; it was not kept")
    for blob in blobs:
        if not content.has(blob.digest):
            try:
                content.ingest(sources.blob(blob), expected=blob.digest, size=blob.size)
            except InvalidArgument as error:
                raise Unavailable(f"something else than {blob.digest} was sent; it was not kept") from error
    content.ingest([fetched.raw], expected=fetched.digest, size=len(fetched.raw))
    return Descriptor(
        media_type=image.media_type_of(manifest),
        digest=fetched.digest,
        size=len(fetched.raw),
        artifact_type=kind or manifest.config.media_type,
        annotations=manifest.annotations,
    )


def name(repository: Repository, content: Content, subject: str, attached: Descriptor) -> None:
    """Put an attachment's manifest, whose blobs are there, where others find it."""
    raw = content.read(attached.digest)
    manifest = image.decode_manifest(raw)
    kind = image.media_type_of(manifest)
    if manifest.subject is None:
        repository.put_manifest(tag_of(subject, attached.artifact_type), raw, kind)
        return
    if not repository.put_manifest(attached.digest, raw, kind):
        _list(repository, subject, attached)


def _list(repository: Repository, subject: str, attached: Descriptor) -> None:
    """Add to the index at the tag `<algorithm>-<hex>`, which a registry without referrers has instead."""
    tag = subject.replace(":", "-")
    try:
        index = image.decode_index(repository.manifest(tag).raw)
    except NotFound:
        index = Index(media_type=image.OCI_INDEX)
    if any(entry.digest == attached.digest for entry in index.manifests):
        return
    index = msgspec.structs.replace(index, manifests=(*index.manifests, attached))
    repository.put_manifest(tag, image.encode(index), image.OCI_INDEX)
