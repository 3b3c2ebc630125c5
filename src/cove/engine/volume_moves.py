"""A volume's content on the move: out as an archive, in from one, and as another volume.

Containers that use the volume stand still meanwhile, so that what is copied is one moment of it. Owners, modes,
attributes and links stay as they are. The files are walked by confined workers, never here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from cove import ids
from cove.engine.bridging import blocking
from cove.engine.context import Context
from cove.engine.records import MountRecord, VolumeRecord
from cove.engine.volumes import VolumeService
from cove.errors import Conflict
from cove.image import archives
from cove.wire import volumes as wire

_SNAPSHOT_OF = "cove.snapshot.of"


class VolumeMoves:
    """The use cases; `VolumeService` keeps the records."""

    def __init__(self, context: Context, volumes: VolumeService) -> None:
        self._context = context
        self._volumes = volumes

    async def export(self, name: str) -> AsyncIterator[bytes]:
        """The content as a tar archive."""
        return self._still(self._volumes.record(name))

    async def import_(self, name: str, stream: AsyncIterator[bytes]) -> None:
        """Put an archive's content into a volume, which is made when it is not there."""
        record = await self._volumes.ensure(ids.check_name("volume", name))
        body = blocking(stream)
        async with self._ready(record), self._frozen(name):
            await self._context.executors.bulk(
                archives.write_archive, self._root(record, rw=True), "/", body, top=True
            )

    async def clone(self, name: str, to: str, *, labels: dict[str, str] | None = None) -> wire.Volume:
        """A second volume with the same content and options; Conflict when the name is taken."""
        source = self._volumes.record(name)
        if self._volumes.exists(ids.check_name("volume", to)):
            raise Conflict(f"a volume with the name {to} exists already; remove it or choose another name")
        made = await self._volumes.ensure(
            to, source.driver, options=dict(source.options), labels={**source.labels, **(labels or {})}
        )
        try:
            async with self._ready(source), self._ready(made), self._frozen(name):
                await self._context.executors.bulk(self._copy, source, made)
        except BaseException:
            await self._volumes.remove(to, force=True)
            raise
        return await self._volumes.inspect(to)

    async def snapshot(self, name: str, to: str = "") -> wire.Volume:
        """A clone that says of what and when; named NAME-YYYYMMDD-HHMMSS unless told otherwise."""
        chosen = to or f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        return await self.clone(name, chosen, labels={_SNAPSHOT_OF: name})

    async def rename(self, name: str, to: str) -> wire.Volume:
        """Another name for a volume that no container names."""
        await self._volumes.rename(name, ids.check_name("volume", to))
        return await self._volumes.inspect(to)

    def _copy(self, source: VolumeRecord, target: VolumeRecord) -> None:
        archives.write_archive(
            self._root(target, rw=True), "/", archives.read_archive(self._root(source), "/."), top=True
        )

    def _root(self, record: VolumeRecord, *, rw: bool = False) -> archives.FsRoot:
        shown = MountRecord(type="volume", destination="/", name=record.name, driver=record.driver, rw=rw)
        return archives.stopped((self._volumes.mount(shown),))

    def _ready(self, record: VolumeRecord) -> AbstractAsyncContextManager[None]:
        return self._volumes.held((MountRecord(type="volume", destination="/", name=record.name),))

    async def _still(self, record: VolumeRecord) -> AsyncIterator[bytes]:
        async with self._ready(record), self._frozen(record.name):
            async for piece in self._context.executors.stream(archives.export(self._root(record))):
                yield piece

    def _frozen(self, name: str) -> AsyncExitStack:
        """The volume's running containers stand still until its exit."""
        return _Frozen(self._context, self._volumes, name)


class _Frozen(AsyncExitStack):
    def __init__(self, context: Context, volumes: VolumeService, name: str) -> None:
        super().__init__()
        self._context = context
        self._consumers = [user for user in volumes.users(name) if user.facts.phase == "running"]

    async def __aenter__(self) -> _Frozen:
        runtime = self._context.runtime
        for container in self._consumers:
            await self.enter_async_context(container.lock)
            if container.facts.phase == "running":
                try:
                    await runtime.freeze(container.id, True)
                except Conflict:
                    continue  # it ended this very moment
                self.push_async_callback(runtime.freeze, container.id, False)
        return self
