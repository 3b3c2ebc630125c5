"""Artifacts on their way in: a manifest that is no image's, and its blobs."""

from __future__ import annotations

from cove.errors import InvalidArgument, Unavailable
from cove.image.distribution.progress import Progress
from cove.image.distribution.seams import Content
from cove.image.distribution.sources import Sources
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Manifest

_ATTEMPTS = 5


def fetch(sources: Sources, content: Content, kind: str, progress: Progress) -> Manifest:
    """Store the blobs of what the reference names; InvalidArgument when it is no artifact of the type `kind`."""
    reference = sources.reference
    fetched = sources.manifest(reference.digest or reference.tag)
    manifest = image.decode_manifest(fetched.raw, fetched.media_type)
    if not isinstance(manifest, Manifest) or kind not in (manifest.artifact_type, manifest.config.media_type):
        raise InvalidArgument(f"{reference.familiar} is no backup of a container; pull it if it is an image")
    for blob in (manifest.config, *manifest.layers):
        _fetch(sources, content, blob)
        progress.layer(digests.short(blob.digest), "Pull complete")
    return manifest


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
