"""Caches in directories of a client that only asks: sent before the build that uses them, fetched after it.

POST /cove/build/caches ─▶ a parcel, kept under an id for some minutes ─▶ offered to the build that names it
a build's own steps     ─▶ a parcel, whose id the client hears         ─▶ GET /cove/build/caches/ID
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import msgspec

from cove import ids
from cove.build import portable
from cove.engine.bridging import blocking
from cove.engine.build.exchange import Offer
from cove.engine.context import Context
from cove.errors import NotFound, Unsupported
from cove.image.travel import artifacts
from cove.oci.image import Descriptor, Manifest
from cove.wire.builds import CachePlace

SENT = "sent:"
"""How a parcel is named as a place: with its id behind."""
_PATIENCE = 600.0


class _Parcel(msgspec.Struct, frozen=True):
    """An artifact, whose blobs stay as long as `undo` is open."""

    artifact: Descriptor | None
    manifest: Manifest
    undo: ExitStack


class Parcels:
    """Those that wait in one daemon."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: dict[str, _Parcel] = {}

    async def receive(self, body: AsyncIterator[bytes]) -> str:
        """Take a layout with a cache; the id that it is called by."""
        context, pieces = self._context, blocking(body)

        def work() -> Manifest:
            return artifacts.load(context.store.content, portable.KIND, pieces, context.data.tmp, "cache of a build")

        return self._keep(None, await context.executors.bulk(work))

    def keep(self, artifact: Descriptor, manifest: Manifest) -> str:
        """Keep what a client is to fetch; the id that it asks for."""
        return self._keep(artifact, manifest)

    def _keep(self, artifact: Descriptor | None, manifest: Manifest) -> str:
        identity, undo = ids.new_id(), ExitStack()
        kept = undo.enter_context(self._context.store.content.keeping())
        kept.update((manifest.config.digest, *(blob.digest for blob in manifest.layers)))
        if artifact is not None:
            kept.add(artifact.digest)
        self._waiting[identity] = _Parcel(artifact, manifest, undo)
        asyncio.get_running_loop().call_later(_PATIENCE, self._forget, identity)
        return identity

    def offer(self, identity: str) -> Offer:
        """What was sent under that id, for one build. Raises NotFound."""
        parcel = self._taken(identity)
        parcel.undo.close()  # the blobs stay for an hour, as all that was stored lately
        content = self._context.store.content
        raw = content.read(parcel.manifest.config.digest)
        return portable.Offer(self._context.store, raw, parcel.manifest, lambda _: None)

    async def fetch(self, identity: str) -> AsyncIterator[bytes]:
        """The layout that a client was told of. Raises NotFound."""
        return self._fetched(self._taken(identity))

    async def _fetched(self, parcel: _Parcel) -> AsyncIterator[bytes]:
        with parcel.undo:
            assert parcel.artifact is not None
            pieces = artifacts.save(self._context.store.content, parcel.artifact, parcel.manifest)
            async for piece in self._context.executors.stream(pieces):
                yield piece

    def _taken(self, identity: str) -> _Parcel:
        parcel = self._waiting.pop(identity, None)
        if parcel is None:
            raise NotFound("the build's cache was not sent, or is used up already")
        return parcel

    def _forget(self, identity: str) -> None:
        if parcel := self._waiting.pop(identity, None):
            parcel.undo.close()


class ParcelDirectories:
    """The directories of a build's client (`cove.engine.build.exchange.Directories`)."""

    def __init__(self, parcels: Parcels, sink: Callable[[dict[str, Any]], None]) -> None:
        self._parcels = parcels
        self._sink = sink

    async def offer(self, place: CachePlace) -> Offer:
        """What the client sent before."""
        if not place.where.startswith(SENT):
            raise Unsupported("a directory is the client's: send it first, and name it by the id of what was sent")
        return self._parcels.offer(place.where.removeprefix(SENT))

    async def put(self, place: CachePlace, artifact: Descriptor, manifest: Manifest) -> None:
        """Tell the client what it may fetch."""
        identity = self._parcels.keep(artifact, manifest)
        self._sink({"aux": {"Cache": {"Place": place.where, "Id": identity}}})
