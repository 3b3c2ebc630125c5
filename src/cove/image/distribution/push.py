"""A push: what a registry lacks of an image, then the manifest or index that names it.

for each blob, several at a time:  HEAD ─▶ there? done
                                   POST ?mount= ─▶ taken over from a neighbour repository? done
                                   PATCH … (on from where it broke off) ─▶ PUT ?digest=
for each manifest of an index:     PUT manifests/<digest>
last:                              PUT manifests/<tag>

An index is pushed whole: variants that are not here must be at the registry already. If they are not, the
variant that is here goes alone, and people are told so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from io import RawIOBase
from typing import BinaryIO

from cove.errors import CoveError, Forbidden, NotFound, Unauthorized, Unavailable
from cove.image.distribution import attached
from cove.image.distribution import transport as http
from cove.image.distribution.progress import Progress
from cove.image.distribution.registry import Repository, Upload
from cove.image.distribution.seams import Attachments, Content, Images, StoredImage
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Manifest
from cove.oci.platform import Platform
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
        attachments: Attachments,
        progress: Progress,
        parallel: int,
        attempts: int,
        pause: Callable[[int], None],
        cancel: threading.Event,
        by_digest: str = "",
    ) -> None:
        """`by_digest`: the image of this digest, which gets no tag there."""
        self._repository = repository
        self._by_digest = by_digest
        self._reference = repository.reference
        self._content = content
        self._images = images
        self._attachments = attachments
        self._progress = progress
        self._parallel = parallel
        self._attempts = attempts
        self._pause = pause
        self._cancel = cancel

    def run(self, platform: Platform | None = None) -> str:
        """Push what the reference names here, or one variant of it; the digest that the tag stands for then."""
        stored = self._find(platform)
        self._progress.say(f"The push refers to repository [{self._reference.name}]")
        try:
            self._repository.connect()
            pushed = self._send_all(stored, platform)
            self._send_attachments(pushed.digest, stored.manifest.digest)
        except (Forbidden, Unauthorized) as error:
            raise Forbidden(
                f"push access denied to {self._reference.familiar_name}, repository does not exist or may require "
                f"authorization: {error.message}"
            ) from error
        digest, size = pushed.digest, pushed.size
        told = self._reference.tag or self._reference.familiar_name
        self._progress.say(f"{told}: digest: {digest} size: {size}")
        self._progress.aux({"Tag": self._reference.tag, "Digest": digest, "Size": size})
        if digest == stored.target.digest:
            self._images.register(digest, [*self._kept_names(stored), self._reference.with_digest(digest).full])
        return digest

    def artifact(self, descriptor: Descriptor) -> str:
        """Push a stored manifest that is no image's, with its blobs; its digest, which the tag stands for then."""
        self._repository.connect()
        self._send_blobs(self._manifest(descriptor), ())
        self._put(descriptor, self._reference.tag)
        self._progress.say(f"{self._reference.tag}: digest: {descriptor.digest} size: {descriptor.size}")
        return descriptor.digest

    def _send_all(self, stored: StoredImage, platform: Platform | None) -> Descriptor:
        """The index with all its manifests, or one manifest; what the tag was given."""
        neighbours = self._neighbours(stored)
        if stored.target == stored.manifest or platform is not None or not self._whole(stored):
            self._send_blobs(self._manifest(stored.manifest), neighbours)
            self._put(stored.manifest, self._reference.tag or stored.manifest.digest)
            return stored.manifest
        here = [offer for offer in stored.offers if offer.blobs]
        blobs = [blob for offer in here if offer.kind != "index" for blob in offer.blobs[1:]]
        self._send_unique(blobs, neighbours)
        for offer in sorted(here, key=lambda offer: offer.kind == "index"):
            self._put(offer.descriptor, offer.descriptor.digest)
        self._put(stored.target, self._reference.tag or stored.target.digest)
        return stored.target

    def _send_attachments(self, *subjects: str) -> None:
        """What is attached to the image here goes along."""
        for subject in dict.fromkeys(subjects):
            for each in self._attachments.of(subject):
                for blob in self._attachments.parts(each.digest):
                    self._send(blob, "", ())
                attached.name(self._repository, self._content, subject, each)
                self._progress.say(f"Attached {each.artifact_type}")

    def _whole(self, stored: StoredImage) -> bool:
        """Whether the registry will have every manifest of the index."""
        for offer in stored.offers:
            if not offer.blobs and not self._repository.has_manifest(offer.descriptor.digest):
                self._progress.say(
                    f"Not all variants of {self._reference.familiar} are here or at the registry: only "
                    f"{stored.config.platform} is pushed (pull with --all-platforms first to push all)"
                )
                return False
        return True

    def _manifest(self, descriptor: Descriptor) -> Manifest:
        decoded = image.decode_manifest(self._content.read(descriptor.digest))
        assert isinstance(decoded, Manifest)  # variants have been read before
        return decoded

    def _put(self, descriptor: Descriptor, name: str) -> None:
        raw = self._content.read(descriptor.digest)
        kind = image.media_type_of(image.decode_manifest(raw))
        self._repository.put_manifest(name, raw, kind)

    def _find(self, platform: Platform | None) -> StoredImage:
        try:
            stored = self._images.get(self._by_digest or self._reference.familiar)
        except NotFound as error:
            raise NotFound(
                f"An image does not exist locally with the tag: {self._reference.familiar_name}"
            ) from error
        return self._images.get(self._reference.familiar, platform) if platform else stored

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
        self._send_unique(manifest.layers, neighbours)
        self._send(manifest.config, "", ())

    def _send_unique(self, blobs: Iterable[Descriptor], neighbours: tuple[str, ...]) -> None:
        """Each blob once, several at a time."""
        unique = {blob.digest: blob for blob in blobs}
        for blob in unique.values():
            self._progress.layer(digests.short(blob.digest), "Preparing")
        for blob in list(unique.values())[self._parallel :]:
            self._progress.layer(digests.short(blob.digest), "Waiting")
        with ThreadPoolExecutor(self._parallel, "push") as pool:
            sending = [
                pool.submit(self._send, blob, digests.short(blob.digest), neighbours) for blob in unique.values()
            ]
            try:
                done, _ = wait(
                    sending, return_when=FIRST_EXCEPTION
                )  # not in their order: an earlier one may be stuck
                for future in done:
                    future.result()
            except BaseException:
                self._cancel.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

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
