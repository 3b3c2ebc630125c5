"""The registry's use cases, without HTTP: blobs, manifests and tags of repositories, within quotas.

    root/
    ├── oci-layout blobs/ ingest/ partial/   the content store (`cove.image.content`); each blob once
    ├── uploads/                             `uploads`
    ├── registry.db                          `catalogue`
    └── token.key lock

The order of every push: bytes verified and on disk ─▶ (under `stable`) in the store and in the catalogue.
So nothing is ever named that is not there, and the collector, which deletes under `stable` only what the
catalogue does not know, never takes what was just stored. Calls block; they are made in threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from cove.errors import NotFound
from cove.image.content import ContentStore
from cove.oci import digest as digests
from cove.registry import clock, refusals
from cove.registry.catalogue import Catalogue, Entry
from cove.registry.manifests import Examined, examine
from cove.registry.uploads import Room, Upload, Uploads

GRACE_SECONDS = 3600.0
"""How long a repository keeps a blob that somebody sent or asked for and that no manifest needs yet."""


class Storage:
    """One registry's content on one root."""

    def __init__(self, root: Path, *, quota: int = 0, repository_quota: int = 0) -> None:
        self.content = ContentStore(root)
        self.catalogue = Catalogue(root / "registry.db")
        self.room = Room(quota)
        self.uploads = Uploads(root / "uploads", self.room)
        self._repository_quota = repository_quota
        self._touched: dict[tuple[str, str], float] = {}
        self._read: dict[tuple[str, str], float] = {}
        self.room.taken = sum(self.content.size(digest) for digest in self.content.digests())

    def close(self) -> None:
        for upload in self.uploads:
            self.uploads.end(upload, kept=False)
        self.catalogue.close()

    # ── blobs ─────────────────────────────────────────────────────────────────────────────────────

    def blob_size(self, repository: str, digest: str) -> int | None:
        """The size of a blob that the repository has; it stays for a while, for somebody counts on it."""
        self._touched[repository, digest] = clock.now()
        size = self.catalogue.blob(repository, digest)
        if size is None:
            del self._touched[repository, digest]
        return size

    def open_blob(self, digest: str) -> BinaryIO:
        """A blob that `blob_size` told of. Raises NotFound."""
        return self.content.open(digest)

    def finish(self, upload: Upload, digest: str) -> None:
        """Make the upload a blob of its repository. Raises Refused when it is something else; then it is gone."""
        repository, size = upload.repository, upload.length
        kept = False
        try:
            if not upload.is_(digest):
                raise refusals.digest_invalid(
                    f"what was sent is not {digest}: it was cut off or damaged, send it again"
                )
            self._check_quota(repository, digest, size)
            with self.content.stable:
                if not self._stored(digest):
                    self.content.adopt(upload.path, digest)
                    kept = True
                self.catalogue.add_blob(repository, digest, size)
        finally:
            self.uploads.end(upload, kept=kept)

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Give the repository a blob that `source` has (any repository, if ""); whether there was one."""
        with self.content.stable:
            holder = source or self.catalogue.holder(digest) or ""
            size = self.catalogue.blob(holder, digest) if holder else None
            if size is None or not self._stored(digest):
                return False
            self._check_quota(repository, digest, size)
            self.catalogue.add_blob(repository, digest, size)
        return True

    def remove_blob(self, repository: str, digest: str) -> None:
        """Take a blob from the repository. Raises Refused when it has none or a manifest needs it."""
        if self.catalogue.blob(repository, digest) is None:
            raise refusals.blob_unknown(repository, digest)
        manifest = self.catalogue.needed_by(repository, digest)
        if manifest is not None and self.catalogue.manifest(repository, manifest) is not None:
            raise refusals.Refused(
                405, "UNSUPPORTED", f"the manifest {manifest} needs the blob {digest}; delete that first"
            )
        self.catalogue.remove_blob(repository, digest)
        self._touched.pop((repository, digest), None)

    # ── manifests and tags ────────────────────────────────────────────────────────────────────────

    def manifest(self, repository: str, which: str) -> Entry:
        """The manifest at a tag or digest. Raises Refused."""
        tag = None if ":" in which else self.catalogue.tag(repository, which)
        digest = tag.digest if tag else which
        entry = self.catalogue.manifest(repository, digest) if ":" in digest else None
        if entry is None:
            raise refusals.manifest_unknown(repository, which)
        self._read[repository, entry.digest] = clock.now()
        return entry

    def manifest_bytes(self, entry: Entry) -> bytes:
        """A manifest's own bytes, verified once more. Raises NotFound, Internal."""
        return self.content.read(entry.digest)

    def put_manifest(
        self, repository: str, raw: bytes, content_type: str, *, digest: str = "", tags: Iterable[str] = ()
    ) -> Examined:
        """Keep a manifest, exactly as it came, under a digest and tags. Raises Refused."""
        if digest and not digests.matches(raw, digest):
            raise refusals.digest_invalid(f"the manifest that was sent is not {digest}")
        digest = digest or digests.of(raw)
        found = examine(raw, content_type, digest)
        with self.content.stable:
            self._check_required(repository, found)
            self._keep(repository, raw, found, tags)
        return found

    def keep_manifest(
        self, repository: str, raw: bytes, content_type: str, digest: str, tags: Iterable[str]
    ) -> Entry:
        """Keep an upstream's manifest, whose blobs may come later or never. Raises Refused."""
        found = examine(raw, content_type, digest)
        with self.content.stable:
            self._keep(repository, raw, found, tags)
        return found.entry

    def remove_manifest(self, repository: str, which: str) -> None:
        """Take away a tag, or a manifest with all its tags. Raises Refused."""
        if ":" not in which:
            if self.catalogue.tag(repository, which) is None:
                raise refusals.manifest_unknown(repository, which)
            self.catalogue.remove_tag(repository, which)
            return
        if self.catalogue.manifest(repository, which) is None:
            raise refusals.manifest_unknown(repository, which)
        self.catalogue.remove_manifest(repository, which)

    # ── garbage ───────────────────────────────────────────────────────────────────────────────────

    def collect(self, *, grace: float = GRACE_SECONDS) -> int:
        """Delete what no repository has any more, while others push and pull; the bytes that this freed."""
        self.uploads.forget_idle()
        before = clock.now() - grace
        with self.content.stable:
            self._note_use(before)
            for repository, digest, size in self.catalogue.forget_blobs(before):
                if (repository, digest) in self._touched:  # asked for in this very moment
                    self.catalogue.add_blob(repository, digest, size)
        self.catalogue.forget_repositories(before)
        freed = 0
        for digest in list(self.content.digests()):
            if not self.catalogue.keeps(digest):
                freed += self._sweep(digest)
        return freed

    def forget_untagged(self, age: float) -> int:
        """Take away manifests that nothing names and nobody asked for so long; how many they were."""
        with self.content.stable:
            self._note_use(clock.now() - age)
            found = self.catalogue.untagged(clock.now() - age)
            self.catalogue.remove_manifests(found)
        return len(found)

    def forget(self, manifests: Iterable[tuple[str, str]]) -> None:
        """Take away (repository, digest) that were not asked for meanwhile either."""
        with self.content.stable:
            self.catalogue.remove_manifests([key for key in manifests if key not in self._read])

    def _sweep(self, digest: str) -> int:
        with self.content.stable:
            if self.catalogue.keeps(digest):
                return 0
            try:
                size = self.content.size(digest)
            except NotFound:
                return 0
            self.content.delete(digest)
        self.room.give(size)
        return size

    def _note_use(self, before: float) -> None:
        """Write down what was asked for; what was asked for long ago need not be remembered here."""
        blobs, manifests = dict(self._touched), dict(self._read)
        self._read = {}
        self.catalogue.used(blobs, manifests)
        self._touched = {key: at for key, at in self._touched.items() if at >= before}

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _stored(self, digest: str) -> bool:
        return self.content.path(digest).is_file()

    def _check_required(self, repository: str, found: Examined) -> None:
        for digest in found.required:
            if self.catalogue.blob(repository, digest) is None or not self._stored(digest):
                raise refusals.Refused(
                    404, "MANIFEST_BLOB_UNKNOWN", f"the manifest needs the blob {digest}, which {repository} has not"
                )

    def _keep(self, repository: str, raw: bytes, found: Examined, tags: Iterable[str]) -> None:
        digest = found.entry.digest
        self._check_quota(repository, digest, len(raw))
        if not self._stored(digest):
            self.room.take(len(raw))
            try:
                self.content.ingest([raw], expected=digest, size=len(raw))
            except BaseException:
                self.room.give(len(raw))
                raise
        self.catalogue.add_manifest(repository, found.entry, found.needs, tags)

    def _check_quota(self, repository: str, digest: str, size: int) -> None:
        limit = self._repository_quota
        if (
            limit
            and self.catalogue.blob(repository, digest) is None
            and self.catalogue.room(repository) + size > limit
        ):
            raise refusals.quota_exceeded(limit, f"the repository {repository}")
