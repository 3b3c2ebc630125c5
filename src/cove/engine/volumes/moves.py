"""A volume's content on the move: out as an archive, in from one, and as another volume.

Containers that use the volume stand still meanwhile, so that what is copied is one moment of it. Owners, modes,
attributes and links stay as they are. The files are walked by confined workers, never here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import msgspec

from cove import ids
from cove.engine.bridging import blocking
from cove.engine.containers.freezing import standing_still
from cove.engine.containers.records import MountRecord, VolumeRecord
from cove.engine.context import Context
from cove.engine.volumes.service import VolumeService
from cove.errors import Conflict, Unsupported
from cove.image.travel import archives
from cove.image.worker.members import Limits
from cove.oci.spec import Mount
from cove.wire import volumes as wire

WHOLE = Limits(size=1 << 50, entries=1 << 40)
"""A volume may be as large as a disk: what bounds it is that."""
_SNAPSHOT_OF = "cove.snapshot.of"


class VolumeMoves:
    """The use cases; `VolumeService` keeps the records."""

    def __init__(self, context: Context, volumes: VolumeService) -> None:
        self._context = context
        self._volumes = volumes

    async def export(self, name: str) -> AsyncIterator[bytes]:
        """The content as a tar archive."""
        record = await self._volumes.adopt(name)
        self._check_movable(record)
        return self._still(record)

    async def import_(self, name: str, stream: AsyncIterator[bytes]) -> None:
        """Put an archive's content into a volume, which is made when it is not there."""
        body = blocking(stream)
        bulk = self._context.executors.bulk
        if not await self._volumes.taken(ids.check_name("volume", name)):
            new = VolumeRecord(name=name, created_ns=time.time_ns())
            async with self._volumes.appearing(new) as made:
                await bulk(archives.write_archive, archives.stopped((made,)), "/", body, top=True, limits=WHOLE)
            return
        record = await self._volumes.adopt(name)
        self._check_movable(record)
        async with self._ready(record), self._frozen(name):
            root = self._root(record, rw=True)
            await bulk(archives.write_archive, root, "/", body, top=True, limits=WHOLE)

    async def clone(self, name: str, to: str, *, labels: dict[str, str] | None = None) -> wire.Volume:
        """A second volume with the same content and options; Conflict when the name is taken."""
        source = await self._volumes.adopt(name)
        if source.options.get("device"):
            raise Unsupported(f"The volume {name} is a device, and so would the new one be; make a volume and copy")
        if await self._volumes.taken(ids.check_name("volume", to)):
            raise Conflict(f"a volume with the name {to} exists already; remove it or choose another name")
        labels = {**source.labels, **(labels or {})}
        wanted = msgspec.structs.replace(source, name=to, labels=labels, anonymous=False, awaits="")
        async with self._ready(source), self._volumes.appearing(wanted) as made, self._frozen(name):
            await self._context.executors.bulk(self._copy, source, made)
        return await self._volumes.view.inspect(to)

    async def snapshot(self, name: str, to: str = "") -> wire.Volume:
        """A clone that says of what and when; named NAME-YYYYMMDD-HHMMSS unless told otherwise."""
        chosen = to or f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        return await self.clone(name, chosen, labels={_SNAPSHOT_OF: name})

    async def rename(self, name: str, to: str) -> wire.Volume:
        """Another name for a volume that no container names."""
        await self._volumes.rename(name, ids.check_name("volume", to))
        return await self._volumes.view.inspect(to)

    def _copy(self, source: VolumeRecord, target: Mount) -> None:
        archives.transfer(self._root(source), archives.stopped((target,)), limits=WHOLE)

    def _check_movable(self, record: VolumeRecord) -> None:
        """Refuse a volume that is no directory or file of this host's."""
        kind = record.options.get("type", "")
        if record.driver == "local" and record.options.get("device") and "bind" not in record.options.get("o", ""):
            what = f"a device of the type {kind}" if kind else "a device"
            raise Unsupported(
                f"The volume {record.name} is {what}, which only containers mount; copy its content from one"
            )

    def _root(self, record: VolumeRecord, *, rw: bool = False) -> archives.FsRoot:
        shown = MountRecord(type="volume", destination="/", name=record.name, driver=record.driver, rw=rw)
        return archives.stopped((self._volumes.use.mount(shown),))

    def _ready(self, record: VolumeRecord) -> AbstractAsyncContextManager[None]:
        return self._volumes.use.held((MountRecord(type="volume", destination="/", name=record.name),))

    async def _still(self, record: VolumeRecord) -> AsyncIterator[bytes]:
        async with self._ready(record), self._frozen(record.name):
            async for piece in self._context.executors.stream(archives.content(self._root(record))):
                yield piece

    def _frozen(self, name: str) -> AbstractAsyncContextManager[None]:
        """The volume's running containers stand still until its exit."""
        running = [user for user in self._volumes.users(name) if user.facts.phase == "running"]
        return standing_still(self._context.runtime, running)
