"""A push: what a registry lacks of an image, then the manifest that names it.

for each blob, several at a time:  HEAD ─▶ there? done
                                   POST ?mount= ─▶ taken over from a neighbour repository? done
                                   PATCH … (on from where it broke off) ─▶ PUT ?digest=
last:                              PUT manifests/<tag>
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import RawIOBase
from typing import BinaryIO

from cove.errors import CoveError, Forbidden, Internal, NotFound, Unauthorized, Unavailable
from cove.image.distribution import transport as http
from cove.image.distribution.progress import Progress
from cove.image.distribution.registry import Repository, Upload
from cove.image.distribution.seams import Content, Images, StoredImage
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Manifest
from cove.oci.reference import Reference

_BLOCK = 1 << 18


class Push:
    """One push, from `run` to its end."""

    def __init__(
        self,
        repository: Repository,
        *,
        content: Content,
        images: Images,
        progress: Progress,
        parallel: int,
        attempts: int,
        pause: Callable[[int], None],
        cancel: threading.Event,
    ) -> None:
        self._repository = repository
        self._reference = repository.reference
        self._content = content
        self._images = images
        self._progress = progress
        self._parallel = parallel
        self._attempts = attempts
        self._pause = pause
        self._cancel = cancel

    def run(self) -> str:
        """Push what the reference names here; the digest of its manifest."""
        stored = self._find()
        raw = self._content.read(stored.manifest.digest)
        manifest = image.decode_manifest(raw)
        if not isinstance(manifest, Manifest):
            raise Internal(f"the image {self._reference.familiar} is stored as an index; pull it again")
        self._progress.say(f"The push refers to repository [{self._reference.name}]")
        try:
            self._repository.connect()
            self._send_blobs(manifest, self._neighbours(stored))
            self._repository.put_manifest(self._reference.tag, raw, image.media_type_of(manifest))
        except (Forbidden, Unauthorized) as error:
            raise Forbidden(
                f"push access denied to {self._reference.familiar_name}, repository does not exist or may require "
                f"authorization: {error.message}"
            ) from error
        digest, size = stored.manifest.digest, len(raw)
        self._progress.say(f"{self._reference.tag}: digest: {digest} size: {size}")
        self._progress.aux({"Tag": self._reference.tag, "Digest": digest, "Size": size})
        self._images.register(digest, [*self._kept_names(stored), self._reference.with_digest(digest).full])
        return digest

    def _find(self) -> StoredImage:
        try:
            return self._images.get(self._reference.familiar)
        except NotFound as error:
            raise NotFound(
                f"An image does not exist locally with the tag: {self._reference.familiar_name}"
            ) from error

    def _kept_names(self, stored: StoredImage) -> list[str]:
        """The name pushed, if the image still has it: registering must not take it away."""
        return [self._reference.full] if self._reference.familiar in stored.names else []

    def _neighbours(self, stored: StoredImage) -> tuple[str, ...]:
        """Other repositories of the same registry that should have the image's blobs."""
        found = (Reference.parse(name) for name in stored.repo_digests)
        return tuple(
            dict.fromkeys(
                other.path
                for other in found
                if other.domain == self._reference.domain and other.path != self._reference.path
            )
        )

    def _send_blobs(self, manifest: Manifest, neighbours: tuple[str, ...]) -> None:
        unique = {blob.digest: blob for blob in manifest.layers}
        for blob in unique.values():
            self._progress.layer(digests.short(blob.digest), "Preparing")
        for blob in list(unique.values())[self._parallel :]:
            self._progress.layer(digests.short(blob.digest), "Waiting")
        with ThreadPoolExecutor(self._parallel, "push") as pool:
            sending = [
                pool.submit(self._send, blob, digests.short(blob.digest), neighbours) for blob in unique.values()
            ]
            try:
                for future in sending:
                    future.result()
            except BaseException:
                self._cancel.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self._send(manifest.config, "", ())

    def _send(self, blob: Descriptor, label: str, neighbours: tuple[str, ...]) -> None:
        """One blob; a label makes it visible."""
        http.check(self._cancel)
        say: Callable[[str], None] = (lambda status: self._progress.layer(label, status)) if label else lambda _: None
        if self._repository.has_blob(blob.digest):
            say("Layer already exists")
            return
        for neighbour in neighbours:
            try:
                if self._repository.begin(blob.digest, mount_from=neighbour) is None:
                    say(f"Mounted from {neighbour}")
                    return
            except (Forbidden, Unauthorized, NotFound):
                continue  # may not read there: the blob is sent instead
        self._upload(blob, label)
        say("Pushed")

    def _upload(self, blob: Descriptor, label: str) -> None:
        """Send all bytes, on from where the registry has them after an interruption."""
        upload = self._repository.begin(blob.digest)
        assert upload is not None  # only a mount can be taken over
        done, failures = 0, 0
        with self._content.open(blob.digest) as file:
            while done < blob.size:
                file.seek(done)
                source = _Counted(file, self._report(blob, label), done, self._cancel)
                try:
                    upload = self._repository.append(upload, source, done, blob.size - done)
                    break
                except Unavailable as error:
                    http.check(self._cancel)
                    failures += 1
                    if failures >= self._attempts:
                        raise
                    self._pause(failures)
                    done = self._arrived(upload, error)
        self._repository.finish(upload, blob.digest)

    def _arrived(self, upload: Upload, error: CoveError) -> int:
        try:
            return self._repository.received(upload)
        except NotFound:
            raise error from None

    def _report(self, blob: Descriptor, label: str) -> Callable[[int], None]:
        throttle = self._progress.throttle()

        def report(done: int) -> None:
            if label and throttle():
                self._progress.count(label, "Pushing", done, blob.size)

        return report


class _Counted(RawIOBase):
    """A file being sent: tells how far it is, ends when cancelled."""

    def __init__(self, file: BinaryIO, report: Callable[[int], None], done: int, cancel: threading.Event) -> None:
        super().__init__()
        self._file = file
        self._report = report
        self._done = done
        self._cancel = cancel

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        http.check(self._cancel)
        data = self._file.read(_BLOCK)
        self._done += len(data)
        self._report(self._done)
        return data
