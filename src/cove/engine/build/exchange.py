"""Finished steps to and from elsewhere: registries, and what only a build's client has.

    --cache-from ─▶ an offer for each place; what cannot be had is told of, and no more
    --cache-to   ─▶ the artifact's documents in the store for the time of the sending ─▶ registry, or the client

What a build takes from elsewhere stays its own: its layers are kept like those of any step, but another build finds
them only if it names the same place.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from cove.build import portable
from cove.build.cache import BuildCache
from cove.build.graph import Vertex
from cove.engine.build.bases import Bases
from cove.engine.context import Context
from cove.errors import CoveError, InvalidArgument, Unsupported
from cove.image.distribution.artifacts import Remote
from cove.oci.image import Descriptor, Index, Manifest
from cove.oci.platform import Platform
from cove.oci.reference import Reference
from cove.wire.builds import CachePlace

Sink = Callable[[dict[str, Any]], None]
Gather = Callable[[bool], tuple[portable.Document, tuple[Descriptor, ...]]]


class Offer(Protocol):
    """Finished steps that somebody has."""

    def take(self, key: str) -> tuple[str, int] | None:
        """The chain id of a step's result, whose layers are here then, and when it was made. Blocks."""
        ...

    def moment(self, name: str) -> int | None:
        """When a configuration was first made."""
        ...


class Directories(Protocol):
    """A client's own directories with caches."""

    async def offer(self, place: CachePlace) -> Offer:
        """What lies there. Raises NotFound or InvalidArgument."""
        ...

    async def put(self, place: CachePlace, artifact: Descriptor, manifest: Manifest) -> None:
        """Send an artifact there, whose blobs are in the store meanwhile."""
        ...


class NoDirectories:
    """A client that has none to offer."""

    async def offer(self, place: CachePlace) -> Offer:
        raise Unsupported("a cache in a directory cannot be taken over this call; registry is possible")

    async def put(self, place: CachePlace, artifact: Descriptor, manifest: Manifest) -> None:
        raise Unsupported("a cache cannot be put into a directory over this call; registry and inline are possible")


class Exchange:
    """What one build takes from elsewhere, and gives."""

    def __init__(self, context: Context, cache: BuildCache, bases: Bases, directories: Directories) -> None:
        self._context = context
        self._cache = cache
        self._bases = bases
        self._directories = directories
        self._offers: list[tuple[CachePlace, Offer]] = []

    # ── from ──────────────────────────────────────────────────────────────────────────────────────

    async def open(self, places: Iterable[CachePlace], platforms: Sequence[Platform], sink: Sink) -> None:
        """Know what these places offer."""
        for place in places:
            try:
                if place.kind == "local":
                    self._offers.append((place, await self._directories.offer(place)))
                    continue
                for platform in platforms:
                    self._offers.append((place, await self._named(place.where, platform, sink)))
            except CoveError as error:
                sink({"status": f"the cache of {place.where} is not used: {error.message}"})

    @property
    def offers(self) -> bool:
        """Whether any place offers something."""
        return bool(self._offers)

    async def _named(self, name: str, platform: Platform, sink: Sink) -> Offer:
        """What a name offers: an image that is here or there, or an artifact at its registry."""
        store = self._context.store
        reference = Reference.parse(name)
        if not self._bases.any_here([name]):
            credentials = await self._bases.credentials(reference)

            def opened() -> Offer | None:
                return self._artifact(self._context.distribution.remote(reference, credentials), name)

            if (found := await self._context.executors.bulk(opened)) is not None:
                return found
        image = await self._bases.image(name, platform, sink)
        offer = await self._context.executors.bulk(portable.inline, store, image)
        if offer is None:
            raise InvalidArgument("the image tells of no steps; it was built without --cache-to type=inline")
        return offer

    def _artifact(self, remote: Remote, name: str) -> Offer | None:
        """None for an image."""
        document = remote.document
        listed = document.manifests if isinstance(document, Index) else (document.config,)
        if any(each.media_type == portable.FOREIGN for each in listed):
            raise Unsupported(portable.IS_FOREIGN)
        if not isinstance(document, Manifest) or not remote.is_artifact(portable.KIND):
            return None
        remote.fetch(document.config)
        raw = self._context.store.content.read(document.config.digest)
        return portable.Offer(self._context.store, raw, document, remote.fetch)

    async def take(self, key: str, vertex: Vertex) -> tuple[str, int] | None:
        """The result of a step, if any of the places has it."""
        for place, offer in self._offers:
            found = await self._context.executors.bulk(self._taken, offer, key)
            if found is not None:
                self._keep(place, key, vertex, *found)
                return found
        return None

    def moment(self, name: str) -> int | None:
        """When a configuration was first made, elsewhere."""
        return next((found for _, offer in self._offers if (found := offer.moment(name))), None)

    def _taken(self, offer: Offer, key: str) -> tuple[str, int] | None:
        try:
            return offer.take(key)
        except CoveError:
            return None  # its layers cannot be had: the step runs

    def _keep(self, place: CachePlace, key: str, vertex: Vertex, chain: str, made_ns: int) -> None:
        """The layers stay as those of any finished step, under a key that no step has."""
        layers = self._context.store.layers
        facts = layers.facts(chain)
        if facts is None:
            return
        name = hashlib.sha256(f"{place.kind} {place.where} {key}".encode()).hexdigest()
        if self._cache.get(name) is None:
            title = f"{vertex.title[:400]} (from {place.where})"
            self._cache.put(name, chain, parent=facts.parent, title=title, size=facts.size, now=time.time_ns())

    # ── to ────────────────────────────────────────────────────────────────────────────────────────

    async def give(self, places: Iterable[CachePlace], gather: Gather, sink: Sink) -> Descriptor | None:
        """Put what `gather` knows to these places; what was sent to the last one."""
        sent = None
        for place in places:
            if place.kind == "inline":
                continue
            try:
                async with self._packed(gather, place.everything) as (artifact, manifest):
                    await self._send(place, artifact, manifest, sink)
                    sent = artifact
            except CoveError as error:
                if not place.forgiving:
                    raise type(error)(f"cannot put the cache to {place.where}: {error.message}") from error
                sink({"status": f"the cache was not put to {place.where}: {error.message}"})
        return sent

    async def _send(self, place: CachePlace, artifact: Descriptor, manifest: Manifest, sink: Sink) -> None:
        if place.kind == "local":
            await self._directories.put(place, artifact, manifest)
            return
        reference = Reference.parse(place.where)
        credentials = await self._bases.credentials(reference)
        cancel = threading.Event()

        def push() -> None:
            self._context.distribution.push_artifact(
                reference, artifact, credentials=credentials, progress=sink, cancel=cancel
            )

        try:
            await self._context.executors.bulk(push)
        finally:
            cancel.set()

    @asynccontextmanager
    async def _packed(self, gather: Gather, everything: bool) -> AsyncIterator[tuple[Descriptor, Manifest]]:
        """The artifact, in the content store for the time of a `with`."""
        store = self._context.store
        with store.content.keeping() as kept:

            def work() -> tuple[Descriptor, Manifest]:
                document, layers = gather(everything)
                made, manifest = portable.packed(store, document, layers)
                kept.update((made.digest, manifest.config.digest, *(blob.digest for blob in layers)))
                return made, manifest

            yield await self._context.executors.bulk(work)
