"""Artifacts on their way in: a manifest that is no image's, and its blobs."""

from __future__ import annotations

from cove.errors import InvalidArgument, Unavailable
from cove.image.distribution.seams import Content
from cove.image.distribution.sources import Sources
from cove.oci import image
from cove.oci.image import Descriptor, Index, Manifest

_ATTEMPTS = 5


class Remote:
    """What a reference names at its registry, of which nothing is here yet but the document."""

    def __init__(self, sources: Sources, content: Content) -> None:
        self._sources = sources
        self._content = content
        fetched = sources.manifest(sources.reference.digest or sources.reference.tag)
        self.document: Manifest | Index = image.decode_manifest(fetched.raw, fetched.media_type)

    def is_artifact(self, kind: str) -> bool:
        """Whether it is an artifact of that type."""
        found = self.document
        return isinstance(found, Manifest) and kind in (found.artifact_type, found.config.media_type)

    def fetch(self, blob: Descriptor) -> None:
        """Have a blob of it in the store."""
        _fetch(self._sources, self._content, blob)


def _fetch(sources: Sources, content: Content, blob: Descriptor) -> None:
    """From the first place that sends what the digest says."""
    for attempt in range(_ATTEMPTS):
        if content.has(blob.digest):
            return
        try:
            content.ingest(sources.blob(blob), expected=blob.digest, size=blob.size)
        except (InvalidArgument, Unavailable) as error:
            if isinstance(error, InvalidArgument):
                sources.distrust()
            if attempt == _ATTEMPTS - 1:
                raise Unavailable(f"{blob.digest} did not come whole: {error.message}") from error
