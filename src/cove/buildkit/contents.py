"""Caches in directories of a session's client, which serves each as a store of blobs.

    --cache-from type=local ─▶ Info, Read ─▶ an offer, whose layers are read when a step is taken
    --cache-to   type=local ─▶ Write, blob by blob ─▶ the client names the manifest in its index

`cove.engine.build.exchange.Directories` for builds of the door.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from cove.build import portable
from cove.buildkit.gifts import FindSession
from cove.buildkit.messages import content as wire
from cove.buildkit.sessions import Session
from cove.engine.bridging import blocking
from cove.engine.build.exchange import Offer
from cove.engine.context import Context
from cove.errors import InvalidArgument, NotFound, Unavailable, Unsupported
from cove.grpc.calls import Metadata
from cove.grpc.status import Code, RpcError
from cove.oci import image as oci
from cove.oci.image import Descriptor, Manifest
from cove.wire.builds import CachePlace

_CHUNK = 512 << 10


class SessionDirectories:
    """The directories of one build's client."""

    def __init__(self, context: Context, find: FindSession) -> None:
        self._context = context
        self._find = find

    async def _session(self) -> Session:
        session = await self._find()
        if session is None:
            raise InvalidArgument("the build has no session, whose directories a cache could lie in")
        return session

    # ── from ──────────────────────────────────────────────────────────────────────────────────────

    async def offer(self, place: CachePlace) -> Offer:
        """What the client has there. Raises NotFound or Unsupported."""
        session, store = await self._session(), self._context.store
        raw = await self._document(session, place, place.digest, await self._size(session, place))
        manifest = oci.decode_manifest(raw)
        listed = (manifest.config,) if isinstance(manifest, Manifest) else manifest.manifests
        if any(each.media_type == portable.FOREIGN for each in listed):
            raise Unsupported(portable.IS_FOREIGN)
        if not isinstance(manifest, Manifest) or manifest.artifact_type != portable.KIND:
            raise InvalidArgument("it is no cache of a build")
        config = await self._document(session, place, manifest.config.digest, manifest.config.size)
        loop = asyncio.get_running_loop()

        def fetch(blob: Descriptor) -> None:
            if not store.content.has(blob.digest):
                pieces = blocking(self._read(session, place, blob), loop)
                store.content.ingest(pieces, expected=blob.digest, size=blob.size)

        return portable.Offer(store, config, manifest, fetch)

    async def _size(self, session: Session, place: CachePlace) -> int:
        try:
            async with session.client.call(wire.INFO, _metadata(place)) as call:
                await call.send(wire.InfoRequest(digest=place.digest))
                await call.end()
                answer = await call.receive(wire.InfoResponse)
        except RpcError as error:
            raise NotFound(f"the client has no {place.digest} in {place.where}: {error.message}") from error
        return answer.info.size if answer is not None and answer.info is not None else 0

    async def _document(self, session: Session, place: CachePlace, digest: str, size: int) -> bytes:
        """A small blob, verified."""
        if size > portable.MAX_DOCUMENT:
            raise InvalidArgument(f"{digest} of the cache is longer than {portable.MAX_DOCUMENT} bytes")
        content = self._context.store.content
        blob = Descriptor(media_type="", digest=digest, size=size)
        pieces = blocking(self._read(session, place, blob), asyncio.get_running_loop())
        await self._context.executors.bulk(content.ingest, pieces, expected=digest, size=size)
        return await self._context.executors.disk(content.read, digest)

    async def _read(self, session: Session, place: CachePlace, blob: Descriptor) -> AsyncIterator[bytes]:
        try:
            async with session.client.call(wire.READ, _metadata(place)) as call:
                await call.send(wire.ReadRequest(digest=blob.digest))
                await call.end()
                while (message := await call.receive(wire.ReadResponse)) is not None:
                    yield message.data
        except RpcError as error:
            raise Unavailable(f"the client does not send {blob.digest} of its cache: {error.message}") from error

    # ── to ────────────────────────────────────────────────────────────────────────────────────────

    async def put(self, place: CachePlace, artifact: Descriptor, manifest: Manifest) -> None:
        """Send every blob that the client does not have."""
        session = await self._session()
        for blob in (*manifest.layers, manifest.config, artifact):
            try:
                await self._write(session, place, blob)
            except RpcError as error:
                if error.code != Code.ALREADY_EXISTS:
                    raise Unavailable(f"the client does not take {blob.digest}: {error.message}") from error

    async def _write(self, session: Session, place: CachePlace, blob: Descriptor) -> None:
        async with session.client.call(wire.WRITE, _metadata(place)) as call:

            async def write(request: wire.WriteRequest) -> None:
                await call.send(request)
                if await call.receive(wire.WriteResponse) is None:
                    raise RpcError(Code.UNAVAILABLE, "the client ended the call early")

            named = wire.WriteRequest(ref=blob.digest, total=blob.size, expected=blob.digest)
            await write(named)
            offset = 0
            async for piece in self._context.executors.stream(self._pieces(blob)):
                await write(wire.WriteRequest(action=wire.WRITE_DATA, offset=offset, data=piece))
                offset += len(piece)
            commit = wire.WriteRequest(action=wire.COMMIT, offset=offset, total=blob.size, expected=blob.digest)
            await write(commit)
            await call.end()

    def _pieces(self, blob: Descriptor) -> Iterator[bytes]:
        with self._context.store.content.open(blob.digest) as file:
            while data := file.read(_CHUNK):
                yield data


def _metadata(place: CachePlace) -> Metadata:
    return {wire.STORE: [f"local:{place.where}"]}
