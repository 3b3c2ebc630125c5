"""What a pushed manifest says: whether it is sound, what it needs, what it is attached to.

The bytes are kept as they came; this is only a view of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from cove.errors import CoveError
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Index, Manifest
from cove.registry import refusals
from cove.registry.catalogue import Entry

_ELSEWHERE = ("nondistributable", "foreign")


@dataclass(frozen=True, slots=True)
class Examined:
    """A sound manifest. `required` must be in the repository before it; `needs` is all that it refers to."""

    entry: Entry
    document: Manifest | Index
    required: tuple[str, ...]
    needs: Mapping[str, int]


def examine(raw: bytes, content_type: str, digest: str) -> Examined:
    """Read a manifest that was sent as `content_type` ("" when nobody said). Raises Refused."""
    sent = content_type.partition(";")[0].strip()
    if sent and sent not in image.MANIFESTS | image.INDEXES:
        raise refusals.manifest_invalid(f"{sent[:100]!r} is not the type of a manifest that can be kept here")
    try:
        document = image.decode_manifest(raw, sent)
        if document.subject is not None:
            digests.check(document.subject.digest)
    except CoveError as error:
        raise refusals.manifest_invalid(error.message) from error
    if document.schema_version != 2:
        raise refusals.manifest_invalid(f"schemaVersion {document.schema_version} is not supported, only 2")
    entry = Entry(
        digest=digest,
        media_type=sent or image.media_type_of(document),
        size=len(raw),
        subject=document.subject.digest if document.subject else "",
        artifact_type=_artifact_type(document),
        annotations=msgspec.json.encode(document.annotations).decode(),
    )
    if isinstance(document, Index):
        return Examined(entry, document, (), {child.digest: child.size for child in document.manifests})
    parts = (document.config, *document.layers)
    required = tuple(part.digest for part in parts if not _elsewhere(part))
    return Examined(entry, document, required, {part.digest: part.size for part in parts})


def descriptor_of(entry: Entry) -> Descriptor:
    """A manifest as the referrers API lists it."""
    return Descriptor(
        media_type=entry.media_type,
        digest=entry.digest,
        size=entry.size,
        artifact_type=entry.artifact_type,
        annotations=msgspec.json.decode(entry.annotations, type=dict[str, str]),
    )


def _artifact_type(document: Manifest | Index) -> str:
    if document.artifact_type or isinstance(document, Index):
        return document.artifact_type
    return document.config.media_type


def _elsewhere(part: Descriptor) -> bool:
    """Whether a layer may be had from its own addresses only, and so need not be here."""
    return bool(part.urls) or any(word in part.media_type for word in _ELSEWHERE)
