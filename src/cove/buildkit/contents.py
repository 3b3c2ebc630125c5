"""Stores of blobs that a session's client serves: its directories.

    --cache-from type=local ─▶ Info, Read ─▶ an offer, whose layers are read when a step is taken
    --cache-to   type=local ─▶ Write, blob by blob ─▶ the client names the manifest in its index
    --output type=oci,tar=false ─▶ Write, blob by blob
    oci-layout:// as a context  ─▶ Info, Read

`SessionDirectories` is `cove.engine.build.exchange.Directories` for builds of the door.
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

EXPORT = "export"
"""The store that a result goes to as a directory."""

LAYOUT = "oci:"
"""The stores of layouts that are contexts, each with its name behind."""

_CACHE = "local:"
_CHUNK = 512 << 10


class ClientStore:
    """One of a client's stores, by the name that it gave it."""

    def __init__(self, context: Context, find: FindSession, name: str) -> None:
        self._context = context
        self._find = find
        self._name = name

    @property
    def _metadata(self) -> Metadata:
        return {wire.STORE: [self._name]}

    async def _session(self) -> Session:
        session = await self._find()
        if session is None:
            raise InvalidArgument("the build has no session, whose directories could be read or written")
        return session

    async def size(self, digest: str) -> int:
        """The length of a blob. Raises NotFound."""
        session = await self._session()
        try:
            async with session.client.call(wire.INFO, self._metadata) as call:
                await call.send(wire.InfoRequest(digest=digest))
                await call.end()
                answer = await call.receive(wire.InfoResponse)
        except RpcError as error:
            raise NotFound(f"the client has no {digest} in {self._name}: {error.message}") from error
        return answer.info.size if answer is not None and answer.info is not None else 0

    async def read(self, blob: Descriptor) -> AsyncIterator[bytes]:
        """A blob's bytes, not verified. Raises Unavailable."""
        session = await self._session()
        try:
            async with session.client.call(wire.READ, self._metadata) as call:
                await call.send(wire.ReadRequest(digest=blob.digest))
                await call.end()
                while (message := await call.receive(wire.ReadResponse)) is not None:
                    yield message.data
        except RpcError as error:
            raise Unavailable(f"the client does not send {blob.digest} of {self._name}: {error.message}") from error

    async def document(self, digest: str, size: int | None = None) -> bytes:
        """A small blob, verified and kept."""
        if size is None:
            size = await self.size(digest)
        if size > portable.MAX_DOCUMENT:
            raise InvalidArgument(f"{digest} of {self._name} is longer than {portable.MAX_DOCUMENT} bytes")
        content = self._context.store.content
        blob = Descriptor(media_type="", digest=digest, size=size)
        pieces = blocking(self.read(blob), asyncio.get_running_loop())
        await self._context.executors.bulk(content.ingest, pieces, expected=digest, size=size)
        return await self._context.executors.disk(content.read, digest)

    def fetch(self, blob: Descriptor, loop: asyncio.AbstractEventLoop) -> None:
        """Have a blob in the store here, verified. In a worker's thread."""
        content = self._context.store.content
        if not content.has(blob.digest):
            content.ingest(blocking(self.read(blob), loop), expected=blob.digest, size=blob.size)

    async def write(self, blob: Descriptor) -> None:
        """Send a blob that the client may have already. Raises Unavailable."""
        session = await self._session()
        try:
            await self._write(session, blob)
        except RpcError as error:
            if error.code != Code.ALREADY_EXISTS:
                raise Unavailable(f"the client does not take {blob.digest}: {error.message}") from error

    async def _write(self, session: Session, blob: Descriptor) -> None:
        async with session.client.call(wire.WRITE, self._metadata) as call:

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


class SessionDirectories:
    """The directories of one build's client that caches lie in."""

    def __init__(self, context: Context, find: FindSession) -> None:
        self._context = context
        self._find = find

    def _store(self, place: CachePlace) -> ClientStore:
        return ClientStore(self._context, self._find, f"{_CACHE}{place.where}")

    async def offer(self, place: CachePlace) -> Offer:
        """What the client has there. Raises NotFound or Unsupported."""
        store = self._store(place)
        manifest = oci.decode_manifest(await store.document(place.digest))
        listed = (manifest.config,) if isinstance(manifest, Manifest) else manifest.manifests
        if any(each.media_type == portable.FOREIGN for each in listed):
            raise Unsupported(portable.IS_FOREIGN)
        if not isinstance(manifest, Manifest) or manifest.artifact_type != portable.KIND:
            raise InvalidArgument("it is no cache of a build")
        config = await store.document(manifest.config.digest, manifest.config.size)
        loop = asyncio.get_running_loop()
        return portable.Offer(self._context.store, config, manifest, lambda blob: store.fetch(blob, loop))

    async def put(self, place: CachePlace, artifact: Descriptor, manifest: Manifest) -> None:
        """Send every blob that the client does not have."""
        store = self._store(place)
        for blob in (*manifest.layers, manifest.config, artifact):
            await store.write(blob)
