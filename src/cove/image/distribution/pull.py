"""A pull: from a name at a registry to an image that is complete, verified, unpacked and only then named.

    resolve tag ─▶ manifest, or index ─▶ manifest for the platform
                    ─▶ configuration ─▶ diff ids, chain ids
    some threads:   layer ─▶ layer ─▶ …           streamed once through its digest into the content store
    some more:         └▶ unpack └▶ unpack …      each as soon as it is there, in whatever order
    last:           register(manifest, names)

A blob that another pull is fetching is waited for, not fetched twice. What a failed pull stored stays
unnamed: the next pull finds it, or pruning removes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from cove.errors import CoveError, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable, Unsupported
from cove.image.distribution import transport as http
from cove.image.distribution.progress import Progress
from cove.image.distribution.registry import Fetched, Repository
from cove.image.distribution.seams import Content, Images, StoredImage, Unpacker
from cove.image.stack import Step, steps
from cove.oci import image
from cove.oci.image import Descriptor, Index, Manifest
from cove.oci.platform import Platform, best, host_platform, preference
from cove.oci.reference import Reference

_MAX_NESTING = 3


class Flights:
    """Blobs on their way: who comes second waits for the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ending: dict[str, threading.Event] = {}

    @contextmanager
    def boarding(self, digest: str, cancel: threading.Event | None) -> Iterator[bool]:
        """Yields True to the one who must fetch `digest`; False after waiting for who did (or failed)."""
        with self._lock:
            ending = self._ending.get(digest)
            first = ending is None
            if ending is None:
                ending = self._ending[digest] = threading.Event()
        if not first:
            while not ending.wait(0.5):
                http.check(cancel)
            yield False
            return
        try:
            yield True
        finally:
            with self._lock:
                del self._ending[digest]
            ending.set()


class Pull:
    """One pull, from `run` to its end."""

    def __init__(
        self,
        repository: Repository,
        *,
        content: Content,
        images: Images,
        unpacker: Unpacker,
        flights: Flights,
        progress: Progress,
        parallel: int,
        cancel: threading.Event,
    ) -> None:
        self._repository = repository
        self._reference = repository.reference
        self._content = content
        self._images = images
        self._unpacker = unpacker
        self._flights = flights
        self._progress = progress
        self._parallel = parallel
        self._cancel = cancel
        self._failure: BaseException | None = None

    def run(self, platform: Platform | None) -> StoredImage:
        """Pull for `platform` (None: this host's)."""
        reference = self._reference
        which = reference.digest or reference.tag
        top = self._resolve(which)
        self._progress.say(f"Pulling from {reference.path}", which)
        chosen, manifest = self._choose(top, platform)
        config = self._config(manifest, platform)
        before = self._known(reference)
        layers = steps(manifest, config, reference.familiar)
        self._transfer(layers)
        self._content.ingest([chosen.raw], expected=chosen.digest, size=len(chosen.raw))
        http.check(self._cancel)
        stored = self._images.register(chosen.digest, self._names(top.digest))
        self._progress.say(f"Digest: {top.digest}")
        fresh = before is None or before != chosen.digest
        verdict = "Downloaded newer image for" if fresh else "Image is up to date for"
        self._progress.say(f"Status: {verdict} {reference.familiar}")
        return stored

    def _resolve(self, which: str) -> Fetched:
        """What the name stands for now; a refusal in the words that clients look for."""
        try:
            return self._repository.manifest(which)
        except (Forbidden, Unauthorized) as error:
            if isinstance(error, Unauthorized) and not self._repository.anonymous:
                raise  # the credentials themselves were refused, which says more
            raise NotFound(
                f"pull access denied for {self._reference.familiar_name}, repository does not exist or may require "
                f"'docker login': {error.message}"
            ) from error

    def _choose(self, top: Fetched, platform: Platform | None) -> tuple[Fetched, Manifest]:
        """The one manifest that runs on `platform`, through at most a few indexes."""
        fetched = top
        for _ in range(_MAX_NESTING):
            decoded = image.decode_manifest(fetched.raw, fetched.media_type)
            if isinstance(decoded, Manifest):
                return fetched, decoded
            entry = self._entry(decoded, platform)
            fetched = self._repository.manifest(entry.digest)
        raise InvalidArgument(f"the index of {self._reference.familiar} is nested too deeply; ask its publisher")

    def _entry(self, index: Index, platform: Platform | None) -> Descriptor:
        wanted = platform or host_platform()
        known = image.MANIFESTS | image.INDEXES
        # Attestations are listed for "unknown/unknown"; an entry without a platform is for any.
        offers = [(entry.platform or wanted, entry) for entry in index.manifests if entry.media_type in known]
        found = best(wanted, offers)
        if found is None:
            raise NotFound(
                f"no matching manifest for {wanted} in the manifest list entries of {self._reference.familiar}: "
                f"it offers {', '.join(sorted({str(offer) for offer, _ in offers})) or 'none'}"
            )
        return found

    def _config(self, manifest: Manifest, platform: Platform | None) -> image.ImageConfig:
        """The image's configuration, stored; refused if it is for another platform than asked."""
        blob = manifest.config
        if blob.media_type not in image.CONFIGS:
            raise Unsupported(
                f"{self._reference.familiar} is not a container image: its configuration is of type {blob.media_type}"
            )
        if blob.size > image.MAX_CONFIG:
            raise InvalidArgument(f"the configuration of {self._reference.familiar} is too big: {blob.size} bytes")
        self._fetch(blob, label="")
        config = image.decode_config(self._content.read(blob.digest))
        if platform is not None and preference(platform, config.platform) is None:
            raise NotFound(
                f"image with reference {self._reference.familiar} was found but does not match the specified "
                f"platform: wanted {platform}, actual: {config.platform}"
            )
        return config

    def _transfer(self, layers: tuple[Step, ...]) -> None:
        """Fetch and unpack in parallel; the first failure stops all."""
        with (
            ThreadPoolExecutor(self._parallel, "pull") as downloads,
            ThreadPoolExecutor(max(2, os.cpu_count() or 1), "unpack") as unpacking,
        ):
            try:
                arrivals = [(layer, self._depart(layer, downloads)) for layer in layers]
                ready = [unpacking.submit(self._settle, layer, arrival) for layer, arrival in arrivals if arrival]
                for future in ready:
                    future.result()
            except BaseException as error:
                self._cancel.set()
                downloads.shutdown(wait=True, cancel_futures=True)
                unpacking.shutdown(wait=True, cancel_futures=True)
                raise self._failure or error from None

    def _depart(self, layer: Step, pool: ThreadPoolExecutor) -> Future[None] | None:
        """Begin a layer's download; None when nothing is left to do for it."""
        if self._content.has(layer.blob.digest) and self._unpacker.is_unpacked(layer.chain_id):
            self._progress.say("Already exists", layer.label)
            return None
        self._progress.layer(layer.label, "Pulling fs layer")
        return pool.submit(self._arrive, layer)

    def _arrive(self, layer: Step) -> None:
        with self._failing():
            self._fetch(layer.blob, layer.label)

    def _settle(self, layer: Step, arrival: Future[None]) -> None:
        """Unpack a layer once it has arrived."""
        arrival.result()
        with self._failing():
            self._unpack(layer)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """The first failure in any thread ends the others, and is the one that is told."""
        try:
            yield
        except BaseException as error:
            if not self._cancel.is_set():
                self._failure = error
                self._cancel.set()
            raise

    def _fetch(self, blob: Descriptor, label: str) -> None:
        """Have the blob in the store, by our own download or another's."""
        while not self._content.has(blob.digest):
            http.check(self._cancel)
            with self._flights.boarding(blob.digest, self._cancel) as first:
                if first and not self._content.has(blob.digest):
                    self._download(blob, label)
        if label:
            self._progress.layer(label, "Download complete")

    def _download(self, blob: Descriptor, label: str) -> None:
        chunks = self._repository.blob(blob)
        if label:
            chunks = self._verifying(self._progress.counted(chunks, label, "Downloading", blob.size), label)
        try:
            self._content.ingest(chunks, expected=blob.digest, size=blob.size)
        except InvalidArgument as error:
            raise Unavailable(
                f"the registry {self._reference.domain} sent something else than {blob.digest}; it was not kept"
            ) from error

    def _verifying(self, chunks: Iterator[bytes], label: str) -> Iterator[bytes]:
        yield from chunks
        self._progress.layer(label, "Verifying Checksum")

    def _unpack(self, layer: Step) -> None:
        http.check(self._cancel)
        self._progress.count(layer.label, "Extracting", layer.blob.size, layer.blob.size)
        if not self._unpacker.is_unpacked(layer.chain_id):
            self._unpacker.unpack(layer.blob, layer.diff_id, layer.chain_id, layer.parent)
        self._progress.layer(layer.label, "Pull complete")

    def _known(self, reference: Reference) -> str | None:
        """The manifest that the name stands for here before the pull."""
        try:
            return self._images.get(reference.familiar).manifest.digest
        except CoveError:
            return None

    def _names(self, top: str) -> list[str]:
        """The tag that was asked for (a digest overrules one), and the repository at what the registry gave."""
        reference = self._reference
        tagged = [] if reference.digest else [reference.full]
        return [*tagged, reference.with_digest(top).full]
