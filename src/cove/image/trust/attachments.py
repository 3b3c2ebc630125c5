"""What is attached to images: signatures, bills of materials, provenance. Kept beside them, never acted on here.

    image/attachments.json     {subject's digest: [descriptors of the manifests attached to it]}

An attachment is a manifest whose `subject` is an image's manifest or index (image-spec, "Guidelines for Artifact
Usage"), or cosign's signature, attestation or bill of materials, which a tag ties to its subject. It lives as long
as its subject is an image here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cove.errors import CoveError, Internal, describe
from cove.image.content import ContentStore
from cove.oci import image as oci
from cove.oci.image import Descriptor, Manifest
from cove.store.files import write_atomic

COSIGN_TAGS = {f"application/vnd.dev.cosign.artifact.{suffix}.v1+json": suffix for suffix in ("sig", "att", "sbom")}
"""What cosign ties to an image by the tag `<algorithm>-<hex>.<suffix>`: artifact types, and the suffix of each."""
COSIGN_SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"

_Kept = dict[str, tuple[Descriptor, ...]]


class Attachments:
    """Which manifests are attached to which; safe to use from several threads."""

    def __init__(self, path: Path, content: ContentStore) -> None:
        self._path = path
        self._content = content
        self._lock = threading.Lock()
        self._kept: _Kept = {}
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError):
            self._kept = {}  # a damaged list: attachments are fetched again with the next pull

    def of(self, subject: str) -> tuple[Descriptor, ...]:
        return self._kept.get(subject, ())

    def add(self, subject: str, attached: Iterable[Descriptor]) -> None:
        """Keep manifests that are in the content store already, with their blobs."""
        with self._lock:
            known = {each.digest: each for each in self._kept.get(subject, ())}
            both = known | {each.digest: each for each in attached}
            if both != known:
                self._save(self._kept | {subject: tuple(both.values())})

    def keep_only(self, subjects: set[str]) -> None:
        """Forget what is attached to anything else."""
        with self._lock:
            kept = {subject: attached for subject, attached in self._kept.items() if subject in subjects}
            if len(kept) != len(self._kept):
                self._save(kept)

    def blobs(self, subjects: set[str]) -> set[str]:
        """The digests of all that is attached to these, attachments of attachments included."""
        found: set[str] = set()
        waiting = set(subjects)
        while waiting:
            attached = {each.digest for subject in waiting for each in self.of(subject)} - found
            for digest in attached:
                found |= {digest, *(blob.digest for blob in self.parts(digest))}
            waiting = attached
        return found

    def parts(self, digest: str) -> tuple[Descriptor, ...]:
        """The blobs of an attached manifest; none of a damaged one."""
        try:
            manifest = oci.decode_manifest(self._content.read(digest))
        except CoveError:
            return ()
        return (manifest.config, *manifest.layers) if isinstance(manifest, Manifest) else ()

    def _save(self, kept: _Kept) -> None:
        try:
            write_atomic(self._path, msgspec.json.encode(kept))
        except OSError as error:
            raise Internal(f"cannot write the list of attachments: {describe(error)}") from error
        self._kept = kept
