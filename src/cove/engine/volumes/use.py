"""Volumes in use: the mounts that show them, and what must be ready before.

    hold(mounts, user) ─▶ mount(each) … ─▶ release(mounts, user)

Owns no state: the records are `cove.engine.volumes.service`'.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from cove import ids
from cove.engine.containers.records import MountRecord, VolumeRecord
from cove.engine.context import Context
from cove.engine.volumes.plugins import PluginVolumes
from cove.errors import NotFound
from cove.kernel.mounts import subdirectory
from cove.oci.spec import Mount
from cove.volume.driver import Driver


class VolumeUse:
    """Part of `VolumeService`; `records` are its own."""

    def __init__(self, context: Context, plugins: PluginVolumes, records: Mapping[str, VolumeRecord]) -> None:
        self._context = context
        self._plugins = plugins
        self._records = records

    def mount(self, asked: MountRecord) -> Mount:
        """The mount that shows a volume in a container; one of a plugin's must be held (`held`)."""
        record = self._find(asked.name)
        if not self._is_ours(record.driver):
            part = (subdirectory(asked.subpath),) if asked.subpath else ()
            return self._plugins.mount(record, asked.destination, ("rw" if asked.rw else "ro", *part))
        return self._driver(record.driver).mount(
            asked.name, asked.destination, record.options, subpath=asked.subpath, readonly=not asked.rw
        )

    async def hold(self, mounts: Iterable[MountRecord], user: str) -> None:
        """Before volumes are mounted for `user`: servers' names are looked up, plugins make theirs ready."""
        mounts = tuple(mounts)
        for name in {mount.name for mount in mounts if mount.type == "volume"}:
            record = self._records.get(name)
            if record is not None and "o" in record.options and self._is_ours(record.driver):
                await self._context.executors.bulk(self._driver(record.driver).prepare, record.options)
        if theirs := self._theirs(mounts):
            await self._plugins.hold(theirs, user)

    async def release(self, mounts: Iterable[MountRecord], user: str) -> None:
        """After `user` unmounted them."""
        if theirs := self._theirs(mounts):
            await self._plugins.release(theirs, user)

    @asynccontextmanager
    async def held(self, mounts: Iterable[MountRecord]) -> AsyncIterator[None]:
        """Within, volumes can be mounted by whoever is no container."""
        mounts, user = tuple(mounts), ids.new_id()
        await self.hold(mounts, user)
        try:
            yield
        finally:
            await self.release(mounts, user)

    def _theirs(self, mounts: Iterable[MountRecord]) -> Sequence[VolumeRecord]:
        """The volumes of plugins, each once."""
        names = {mount.name for mount in mounts if mount.type == "volume"}
        found = [self._records[name] for name in sorted(names) if name in self._records]
        return [record for record in found if not self._is_ours(record.driver)]

    def source(self, name: str) -> str:
        """The directory that inspect calls Mountpoint."""
        record = self._find(name)
        if not self._is_ours(record.driver):
            return self._plugins.place(name)
        return str(self._driver(record.driver).path(name))

    def wants_fill(self, asked: MountRecord) -> bool:
        """Whether an image's content belongs into a volume before its first use."""
        record = self._records.get(asked.name)
        if asked.type != "volume" or not asked.copy or record is None:
            return False
        if record.options.keys() == {"size"}:
            return not record.filled and not asked.subpath
        if record.options:
            return False
        if not self._is_ours(record.driver):
            return True  # seen once it is mounted
        return self._driver(record.driver).empty(asked.name, asked.subpath)

    def within_project(self, name: str) -> bool:
        """Whether a volume has its size by a quota of the file system that it lies on."""
        record = self._records.get(name)
        if record is None or "size" not in record.options or not self._is_ours(record.driver):
            return False
        return self._driver(record.driver).mount(name, "/", record.options).type == "bind"

    def _is_ours(self, driver: str) -> bool:
        return driver in self._context.volume_drivers

    def _driver(self, name: str) -> Driver:
        return self._context.volume_drivers[name]

    def _find(self, name: str) -> VolumeRecord:
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record
