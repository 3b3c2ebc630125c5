"""A pull: from a name at a registry to an image that is complete, verified, unpacked and only then named.

    resolve tag ─▶ manifest, or index ─▶ manifest for the platform, or all of them
                    ─▶ configuration ─▶ diff ids, chain ids
    some threads:   layer, layer, …      each piece, once it comes, goes into the digest, the store, and through
                                         a confined worker (decompression, diff id, files), in one stream
    last:           register(manifest, names)

A layer's directory gets its name when both digests were right. A blob that another pull is fetching is
waited for, not fetched twice; one that broke off is gone on with. What a failed pull stored stays unnamed:
the next pull finds it, or pruning removes it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import msgspec

from cove.errors import CoveError, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable, Unsupported
from cove.image.distribution import attached
from cove.image.distribution import transport as http
from cove.image.distribution.progress import Progress
from cove.image.distribution.registry import Fetched
from cove.image.distribution.seams import (
    Admission,
    Arrival,
    Arriving,
    Attachments,
    Content,
    Images,
    StoredImage,
    Unpacker,
)
from cove.image.distribution.sources import Sources
from cove.image.stack import Step, steps, unpackable
from cove.image.trust.attachments import COSIGN_TAGS
from cove.image.variants import attested, kind_of
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Index, Manifest
from cove.oci.platform import Platform, best, host_platform, preference
from cove.oci.reference import Reference

_ATTEMPTS = 5
_MAX_NESTING = 3
_MAX_WRONG = 8


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


class _Chosen(msgspec.Struct):
    """What a pull will fetch."""

    indexes: list[Fetched] = msgspec.field(default_factory=list)
    images: list[tuple[Fetched, Manifest]] = msgspec.field(default_factory=list)
    attachments: list[Descriptor] = msgspec.field(default_factory=list)


class _Wrong(Exception):
    """What came is not what its digest says."""


class Pull:
    """One pull, from `run` to its end."""

    def __init__(
        self,
        sources: Sources,
        *,
        content: Content,
        images: Images,
        unpacker: Unpacker,
        attachments: Attachments,
        admission: Admission | None,
        flights: Flights,
        progress: Progress,
        parallel: int,
        cancel: threading.Event,
    ) -> None:
        self._sources = sources
        self._reference = sources.reference
        self._content = content
        self._images = images
        self._unpacker = unpacker
        self._attachments = attachments
        self._admission = admission
        self._flights = flights
        self._progress = progress
        self._parallel = parallel
        self._cancel = cancel
        self._failure: BaseException | None = None
        self._distrusted = 0

    def run(self, platform: Platform | None, *, every: bool = False) -> StoredImage:
        """Pull for `platform` (None: this host's), or `every` variant that there is."""
        reference = self._reference
        which = reference.digest or reference.tag
        needed = self._admission is not None and self._admission.wants_signature(reference)
        top = self._resolve(which)
        self._progress.say(f"Pulling from {reference.path}", which)
        self._admit(top.digest, needed)
        before = self._known(reference)
        chosen = self._choose(top, platform, every)
        stored = self._bring(top, chosen, platform, every)
        self._progress.say(f"Digest: {top.digest}")
        pulled = {fetched.digest for fetched, _ in chosen.images}
        fresh = before is None or before[0] != top.digest or not pulled <= before[1]
        verdict = "Downloaded newer image for" if fresh else "Image is up to date for"
        self._progress.say(f"Status: {verdict} {reference.familiar}")
        return stored if platform is None else self._images.get(self._names(top.digest)[0], platform)

    def _bring(self, top: Fetched, chosen: _Chosen, platform: Platform | None, every: bool) -> StoredImage:
        """Everything into the store, then the names; once more if a shared part was removed meanwhile."""
        whole = {fetched.digest for fetched, _ in chosen.images}
        for attempt in range(_ATTEMPTS):
            works = [self._prepare(fetched, manifest, platform, every) for fetched, manifest in chosen.images]
            self._transfer([layer for work in works for layer in work], top.digest)
            for entry in chosen.attachments:
                self._attachment(entry)
            for fetched in (*chosen.indexes, *(fetched for fetched, _ in chosen.images)):
                self._content.ingest([fetched.raw], expected=fetched.digest, size=len(fetched.raw))
            http.check(self._cancel)
            try:
                return self._images.register(top.digest, self._names(top.digest), whole=whole)
            except (Unavailable, NotFound):
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _admit(self, digest: str, needed: bool) -> None:
        """Fetch what is attached, and let the policy decide, before anything of the image is fetched."""
        try:
            self._attachments.add(digest, attached.fetch(self._sources, self._content, digest, signatures=needed))
        except CoveError as error:
            http.check(self._cancel)
            if not needed:
                self._progress.say(f"What is attached to the image could not be fetched: {error.message}")
        if self._admission is not None:
            self._admission.admit(self._reference, digest)

    def _resolve(self, which: str) -> Fetched:
        """What the name stands for now; a refusal in the words that clients look for."""
        try:
            return self._sources.manifest(which)
        except (Forbidden, Unauthorized) as error:
            if isinstance(error, Unauthorized) and not self._sources.anonymous:
                raise  # the credentials themselves were refused, which says more
            raise NotFound(
                f"pull access denied for {self._reference.familiar_name}, repository does not exist or may require "
                f"'docker login': {error.message}"
            ) from error

    def _choose(self, top: Fetched, platform: Platform | None, every: bool) -> _Chosen:
        """The manifests wanted, through at most a few indexes, and what is attached to them."""
        chosen = _Chosen()
        waiting = [(top, 0)]
        while waiting:
            fetched, depth = waiting.pop(0)
            decoded = image.decode_manifest(fetched.raw, fetched.media_type)
            if isinstance(decoded, Manifest):
                chosen.images.append((fetched, decoded))
                continue
            if depth >= _MAX_NESTING:
                raise InvalidArgument(
                    f"the index of {self._reference.familiar} is nested too deeply; ask its publisher"
                )
            chosen.indexes.append(fetched)
            entries = self._entries(decoded, platform, every)
            waiting += [(self._sources.manifest(entry.digest), depth + 1) for entry in entries]
            wanted = {entry.digest for entry in entries}
            chosen.attachments += [e for e in decoded.manifests if kind_of(e) != "image" and attested(e) in wanted]
        return chosen

    def _entries(self, index: Index, platform: Platform | None, every: bool) -> list[Descriptor]:
        wanted = platform or host_platform()
        # Attestations are listed for "unknown/unknown"; an entry without a platform is for any.
        known = [e for e in index.manifests if e.media_type in image.INDEXES or kind_of(e) == "image"]
        offers = [(entry.platform or wanted, entry) for entry in known]
        if every and known:
            return known
        found = best(wanted, offers)
        if found is None:
            raise NotFound(
                f"no matching manifest for {wanted} in the manifest list entries of {self._reference.familiar}: "
                f"it offers {', '.join(sorted({str(offer) for offer, _ in offers})) or 'none'}"
            )
        return [found]

    def _prepare(
        self, fetched: Fetched, manifest: Manifest, platform: Platform | None, every: bool
    ) -> list[tuple[Descriptor, Step | None]]:
        """An image's configuration, stored, and its layers, each with the step of unpacking it if it shall be.

        Of every variant, only this host's own is unpacked at once; another one when it is first run.
        """
        config = self._config(manifest, platform)
        layers = steps(manifest, config, self._reference.familiar) if unpackable(config) else ()
        if not layers or (every and preference(host_platform(), config.platform) is None):
            return [(blob, None) for blob in manifest.layers]
        return [(step.blob, step) for step in layers]

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
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise InvalidArgument(
                f"the image {self._reference.familiar} is damaged: it has {len(manifest.layers)} layers, but "
                f"{len(config.rootfs.diff_ids)} in its configuration"
            )
        if platform is not None and preference(platform, config.platform) is None:
            raise NotFound(
                f"image with reference {self._reference.familiar} was found but does not match the specified "
                f"platform: wanted {platform}, actual: {config.platform}"
            )
        return config

    def _attachment(self, entry: Descriptor) -> None:
        """A statement about an image (its contents, how it was made), kept with it and never acted on."""
        fetched = self._sources.manifest(entry.digest)
        manifest = image.decode_manifest(fetched.raw, fetched.media_type)
        if isinstance(manifest, Index):
            return
        for blob in (manifest.config, *manifest.layers):
            self._fetch(blob, label="")
        self._content.ingest([fetched.raw], expected=fetched.digest, size=len(fetched.raw))

    def _transfer(self, layers: list[tuple[Descriptor, Step | None]], subject: str) -> None:
        """Fetch and unpack in parallel, and meanwhile what tags tie to `subject`; the first failure stops all."""
        with ThreadPoolExecutor(self._parallel, "pull") as pool:
            try:
                wanted = [(blob, step) for blob, step in layers if self._wanted(blob, step)]
                tagged = [pool.submit(self._tagged, subject, kind) for kind in COSIGN_TAGS]
                for future in [pool.submit(self._layer, blob, step) for blob, step in wanted]:
                    future.result()
                for future in tagged:
                    future.result()
            except BaseException as error:
                self._cancel.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise self._failure or error from None

    def _tagged(self, subject: str, kind: str) -> None:
        """Keep what cosign's tag of this kind ties to the image, which comes without it if that fails."""
        try:
            self._attachments.add(subject, attached.tagged(self._sources, self._content, subject, kind))
        except CoveError as error:
            if not self._cancel.is_set():
                self._progress.say(f"What is attached to the image could not be fetched: {error.message}")

    def _wanted(self, blob: Descriptor, step: Step | None) -> bool:
        """Whether something is left to do for a layer; people are told."""
        label = digests.short(blob.digest)
        if self._content.has(blob.digest) and (step is None or self._unpacker.is_unpacked(step.chain_id)):
            self._progress.say("Already exists", label)
            return False
        self._progress.layer(label, "Pulling fs layer")
        return True

    def _layer(self, blob: Descriptor, step: Step | None) -> None:
        """A layer, from nothing to its directory."""
        try:
            self._fetch(blob, digests.short(blob.digest), step)
            if step is not None and not self._unpacker.is_unpacked(step.chain_id):
                self._extracting(step)
                self._unpacker.unpack(step.blob, step.diff_id, step.chain_id, step.parent)
            self._progress.layer(digests.short(blob.digest), "Pull complete")
        except BaseException as error:
            if not self._cancel.is_set():
                self._failure = error
                self._cancel.set()
            raise

    def _fetch(self, blob: Descriptor, label: str, layer: Step | None = None) -> None:
        """Have the blob in the store, by our own download or another's; ours unpacks `layer` as it comes."""
        while not self._content.has(blob.digest):
            http.check(self._cancel)
            with self._flights.boarding(blob.digest, self._cancel) as first:
                if first and not self._content.has(blob.digest):
                    self._download(blob, label, layer)
        if label:
            self._progress.layer(label, "Download complete")

    def _download(self, blob: Descriptor, label: str, layer: Step | None) -> None:
        """From the first place that sends what the digest says; a wrong half that was kept is not its fault."""
        while True:
            kept = False
            try:
                with ExitStack() as stack:
                    arrival = stack.enter_context(self._content.arrival(blob.digest, blob.size))
                    kept = arrival.begun
                    arriving = None
                    if layer is not None and not self._unpacker.is_unpacked(layer.chain_id):
                        arriving = stack.enter_context(
                            self._unpacker.arriving(layer.diff_id, layer.chain_id, layer.parent)
                        )
                    self._receive(blob, label, arrival, arriving, layer)
                return
            except _Wrong as error:
                if kept:
                    continue
                self._distrusted += 1
                if not self._sources.distrust() or self._distrusted > _MAX_WRONG:
                    raise Unavailable(
                        f"the registry {self._reference.domain} sent something else than {blob.digest}; "
                        f"it was not kept"
                    ) from error

    def _receive(
        self, blob: Descriptor, label: str, arrival: Arrival, arriving: Arriving | None, layer: Step | None
    ) -> None:
        due = self._progress.throttle()
        for piece in self._pieces(blob, arrival):
            if arriving is not None:
                arriving.feed(piece)
            if label and due():
                self._progress.count(label, "Downloading", arrival.offset, blob.size)
        if label:
            self._progress.layer(label, "Verifying Checksum")
        try:
            arrival.commit()
        except InvalidArgument as error:
            raise _Wrong from error
        if arriving is not None and layer is not None:
            self._extracting(layer)
            arriving.finish()

    def _pieces(self, blob: Descriptor, arrival: Arrival) -> Iterator[bytes]:
        """The blob from its first byte, each piece already on its way into the store."""
        yield from arrival.kept()
        if arrival.offset == blob.size:
            return
        for piece in self._sources.blob(blob, arrival.offset):
            arrival.write(piece)
            yield piece

    def _extracting(self, layer: Step) -> None:
        self._progress.count(layer.label, "Extracting", layer.blob.size, layer.blob.size)

    def _known(self, reference: Reference) -> tuple[str, set[str]] | None:
        """What the name stands for here before the pull, and which of its manifests are here."""
        try:
            found = self._images.get(reference.familiar)
        except CoveError:
            return None
        return found.target.digest, {offer.descriptor.digest for offer in found.offers if offer.variant}

    def _names(self, top: str) -> list[str]:
        """The tag that was asked for (a digest overrules one), and the repository at what the registry gave."""
        reference = self._reference
        tagged = [] if reference.digest else [reference.full]
        return [*tagged, reference.with_digest(top).full]
