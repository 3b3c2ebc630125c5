"""Volumes in use: the mounts that show them, and what must be ready before.

    hold(mounts, user) ─▶ mount(each) … ─▶ release(mounts, user)

Owns no state: the records are `cove.engine.volumes.service`'.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from cove import ids
from cove.engine.containers.records import MountRecord, VolumeRecord
from cove.engine.context import Context
from cove.engine.volumes.plugins import PluginVolumes
from cove.engine.volumes.records import VolumeRecords
from cove.kernel.mounts import subdirectory
from cove.oci.spec import Mount


class VolumeUse:
    """Part of `VolumeService`; `records` are its own."""

    def __init__(self, context: Context, plugins: PluginVolumes, records: VolumeRecords) -> None:
        self._context = context
        self._plugins = plugins
        self._records = records

    def mount(self, asked: MountRecord) -> Mount:
        """The mount that shows a volume in a container; one of a plugin's must be held (`held`)."""
        record = self._records.find(asked.name)
        driver = self._records.driver(record)
        if driver is None:
            part = (subdirectory(asked.subpath),) if asked.subpath else ()
            return self._plugins.mount(record, asked.destination, ("rw" if asked.rw else "ro", *part))
        return driver.mount(
            asked.name, asked.destination, record.options, subpath=asked.subpath, readonly=not asked.rw
        )

    async def hold(self, mounts: Iterable[MountRecord], user: str) -> None:
        """Before volumes are mounted for `user`: servers' names are looked up, plugins make theirs ready."""
        mounts = tuple(mounts)
        for name in {mount.name for mount in mounts if mount.type == "volume"}:
            record = self._records.get(name)
            driver = self._records.driver(record) if record is not None else None
            if record is not None and driver is not None and "o" in record.options:
                await self._context.executors.bulk(driver.prepare, record.options)
        if theirs := self._theirs(mounts):
            await self._plugins.hold(theirs, user)

    async def release(self, mounts: Iterable[MountRecord], user: str) -> None:
        """After `user` unmounted them."""
        if theirs := self._theirs(mounts):
            await self._plugins.release(theirs, user)

    def tell(self, mounts: Iterable[MountRecord], user: str, action: str) -> None:
        """An event of each volume that a container now has, or no longer has."""
        for mount in mounts:
            if mount.type != "volume":
                continue
            attributes = {"container": user, "driver": mount.driver}
            if action == "mount":
                way = "true" if mount.rw else "false"
                attributes |= {"destination": mount.destination, "propagation": "", "read/write": way}
            self._context.events.emit("volume", action, mount.name, attributes)

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
        found = [record for name in sorted(names) if (record := self._records.get(name)) is not None]
        return [record for record in found if self._records.driver(record) is None]

    def source(self, name: str) -> str:
        """The directory that inspect calls Mountpoint."""
        driver = self._records.driver(self._records.find(name))
        return str(driver.path(name)) if driver is not None else self._plugins.place(name)

    def wants_fill(self, asked: MountRecord) -> bool:
        """Whether an image's content belongs into a volume before its first use."""
        record = self._records.get(asked.name)
        if asked.type != "volume" or not asked.copy or record is None:
            return False
        if record.options.keys() == {"size"}:
            return not record.filled and not asked.subpath
        if record.options:
            return False
        driver = self._records.driver(record)
        return driver is None or driver.empty(asked.name, asked.subpath)  # a plugin's is seen once it is mounted

    def within_project(self, name: str) -> bool:
        """Whether a volume has its size by a quota of the file system that it lies on."""
        record = self._records.get(name)
        driver = self._records.driver(record) if record is not None else None
        if record is None or driver is None or "size" not in record.options:
            return False
        return driver.mount(name, "/", record.options).type == "bind"
