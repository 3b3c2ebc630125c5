"""Artifacts: manifests that are no image's, as archives. Their blobs lie in the content store while they travel.

    oci-layout  index.json  blobs/sha256/…        OCI image layout with one manifest

Owns neither what the blobs mean nor how long they stay.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import zstandard

from cove.errors import Internal, InvalidArgument, describe
from cove.image.distribution.seams import Content
from cove.image.travel.loading import Contents
from cove.image.travel.saving import LAYOUT, blob_member, blob_path, directory_member, file_member
from cove.image.worker.tarstream import Entry, entries
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Index, Manifest

_LEVEL = 2
"""Level 3 packs some 5 % smaller in twice the time, in which containers stand still."""
_THREADS = 4
_CHUNK = 1 << 20


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A stream as one zstd frame, in bounded memory."""
    threads = min(_THREADS, len(os.sched_getaffinity(0)))
    packer = zstandard.ZstdCompressor(level=_LEVEL, threads=threads).compressobj()
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def store(content: Content, manifest: Manifest) -> Descriptor:
    """Store a manifest made here; what to call it by."""
    raw = image.encode(manifest)
    return Descriptor(
        media_type=image.media_type_of(manifest),
        digest=content.put(raw),
        size=len(raw),
        artifact_type=manifest.artifact_type,
    )


def save(content: Content, artifact: Descriptor, manifest: Manifest) -> Iterator[bytes]:
    """The artifact as an archive, piece by piece."""
    sizes = {artifact.digest: artifact.size} | {
        blob.digest: blob.size for blob in (manifest.config, *manifest.layers)
    }
    yield from file_member("oci-layout", LAYOUT)
    yield from file_member("index.json", image.encode(Index(media_type=image.OCI_INDEX, manifests=(artifact,))))
    yield from directory_member("blobs/")
    for algorithm in sorted({digests.parse(digest)[0] for digest in sizes}):
        yield from directory_member(f"blobs/{algorithm}/")
    for digest, size in sizes.items():
        yield from blob_member(content, digest, size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def load(content: Content, kind: str, stream: Iterable[bytes], spool: Path, what: str) -> Manifest:
    """Store the blobs of an archive; its one artifact of the type `kind`, which people call `what`.

    InvalidArgument for any other archive.
    """
    with Incoming(content, kind, stream, spool, what) as archive:
        archive.store((archive.manifest.config, *archive.manifest.layers))
        return archive.manifest


class Incoming:
    """An artifact's archive while it comes in: what is asked for next passes through, what comes before is stored.

    As a context manager it takes the archive up to the manifest, and leaves nothing but stored blobs; left by an
    exception, not even those. Its methods block and raise InvalidArgument for an archive that is none, damaged or cut
    off.
    """

    manifest: Manifest

    def __init__(self, content: Content, kind: str, stream: Iterable[bytes], spool: Path, what: str) -> None:
        self._content = content
        self._kind = kind
        self._what = what
        self._spool = spool
        self._entries = entries(stream)
        self._around = ExitStack()

    def __enter__(self) -> Incoming:
        with self._around:
            directory = tempfile.TemporaryDirectory(prefix="load-", dir=self._spool)
            contents = Contents(self._content, Path(self._around.enter_context(directory)))
            self._contents = self._around.enter_context(contents)
            with _reading():
                self.manifest = self._found()
            self._around = self._around.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:  # its manifest was read, and is needed no more
            self._contents.keep_only({self.manifest.config.digest, *(blob.digest for blob in self.manifest.layers)})
        self._around.__exit__(kind, error, trace)

    def _found(self) -> Manifest:
        manifest = None
        while manifest is None and (entry := next(self._entries, None)) is not None:
            self._contents.take(entry)
            manifest = self._look()
        if manifest is not None:
            return manifest
        why = "no manifest in it is one's" if self._contents.has("index.json") else "it has no index.json"
        raise InvalidArgument(f"the archive is no {self._what}: {why}")

    def _look(self) -> Manifest | None:
        """The manifest, if it came already."""
        if not self._contents.has("index.json"):
            return None
        for entry in image.decode_index(self._contents.read("index.json", image.MAX_MANIFEST)).manifests:
            path = blob_path(entry.digest)
            if self._contents.has(path):
                document = image.decode_manifest(self._contents.read(path, image.MAX_MANIFEST), entry.media_type)
                if isinstance(document, Manifest) and document.artifact_type == self._kind:
                    return document
        return None

    def store(self, blobs: Iterable[Descriptor]) -> None:
        """Have blobs of the artifact in the content store."""
        with _reading():
            for blob in blobs:
                while not self._content.exists(blob.digest):
                    self._contents.take(self._next(blob))
                _check_size(self._content, blob)

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        """A blob's bytes, verified at their end; they are not stored if nothing else asks for them."""
        if sum(blob.digest == each.digest for each in self.manifest.layers) > 1:
            self.store((blob,))
        with _reading():
            while not self._content.exists(blob.digest):
                entry = self._next(blob)
                if entry.name.removeprefix("./") == blob_path(blob.digest):
                    yield from verified(entry.content, blob)
                    return
                self._contents.take(entry)
            yield from stored(self._content, blob)

    def finish(self) -> None:
        """Nothing more of it is needed: the rest is read, so that one which was cut off is told."""
        with _reading():
            for _ in self._entries:
                pass

    def _next(self, wanted: Descriptor) -> Entry:
        entry = next(self._entries, None)
        if entry is None:
            raise InvalidArgument(f"the archive is incomplete: {blob_path(wanted.digest)} is missing")
        return entry


def stored(content: Content, blob: Descriptor) -> Iterator[bytes]:
    """The bytes of a blob in the content store."""
    _check_size(content, blob)
    with content.open(blob.digest) as file:
        while piece := file.read(_CHUNK):
            yield piece


def verified(pieces: Iterable[bytes], blob: Descriptor) -> Iterator[bytes]:
    """A blob's bytes as they come; InvalidArgument at their end when they are not what its digest says."""
    seen = digests.Verifier(blob.digest)
    for piece in pieces:
        seen.update(piece)
        yield piece
    if seen.actual != blob.digest or seen.length != blob.size:
        raise InvalidArgument(f"the archive is damaged: {blob.digest} is something else, or cut off")


@contextmanager
def _reading() -> Iterator[None]:
    """The host's refusals are its own."""
    try:
        yield
    except OSError as error:
        raise Internal(f"the archive could not be read: {describe(error)}") from error


def _check_size(content: Content, blob: Descriptor) -> None:
    if content.size(blob.digest) != blob.size:
        raise InvalidArgument(f"the archive is damaged: {blob.digest} has another length than it says")
