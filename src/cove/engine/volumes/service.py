"""Volumes: made, removed, renamed; who uses them.

Owns the records; the data is the drivers'. A volume is used by every container that names it, running or
not, and cannot be removed until the last of them is gone. How it is mounted is `cove.engine.volumes.use`'s, how
it is shown `cove.engine.volumes.view`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

import msgspec

from cove import ids
from cove.engine.containers.records import VolumeRecord
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.volumes.plugins import PluginVolumes
from cove.engine.volumes.records import VolumeRecords
from cove.engine.volumes.use import VolumeUse
from cove.engine.volumes.view import VolumeView
from cove.errors import Conflict, CoveError, NotFound, Unavailable, Unsupported
from cove.oci.spec import Mount
from cove.wire import volumes as wire
from cove.wire.filters import Filters


class VolumeService:
    """The use cases of volumes."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self._context = context
        self._registry = registry
        self._records = VolumeRecords(context)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._plugins = PluginVolumes(context)
        self.use = VolumeUse(context, self._plugins, self._records)
        self.view = VolumeView(context, self._plugins, self._records, self.users)

    def load(self) -> None:
        """Read the records, and finish what a crash cut short: what is written down is made, or wholly removed."""
        self._records.load()
        for name, driver in self._context.volume_drivers.items():
            ours = {each.name: each.options for each in self._records if each.driver == name}
            for gone in driver.recover(ours):
                self._records.delete(gone)

    async def collect(self) -> None:
        """Remove the volumes of work that a crash cut short."""
        for record in [each for each in self._records if each.awaits]:
            if self._registry.get(record.awaits) is None:
                with suppress(CoveError):
                    await self.remove(record.name, force=True)
            else:
                self.settle(record.name)

    def settle(self, name: str) -> None:
        """What a volume was made for is there."""
        record = self._records.find(name)
        if record.awaits:
            self._records.put(msgspec.structs.replace(record, awaits=""))

    def all(self) -> Sequence[VolumeRecord]:
        return list(self._records)

    async def create(self, body: wire.VolumeCreateRequest) -> wire.Volume:
        """Make a volume, or return the one that bears the name with this driver."""
        name = ids.check_name("volume", body.name) if body.name else ids.new_id()
        record = await self.ensure(
            name, body.driver, options=body.driver_opts, labels=body.labels, anonymous=not body.name
        )
        return await self.view.inspect(record.name)

    async def ensure(
        self,
        name: str,
        driver: str = "",
        *,
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        anonymous: bool = False,
        awaits: str = "",
    ) -> VolumeRecord:
        """The volume of this name, made if it is not there; raises Conflict when it is of another driver.

        Without a driver it is what is there, in a plugin perhaps; a new one is local.
        """
        async with self._lock(name):
            known = self._records.get(name)
            if known is not None:
                if driver and known.driver != driver:
                    raise Conflict(
                        f"A volume named {name} already exists with the {known.driver} driver. Choose a different "
                        "volume name"
                    )
                return known
            if not driver:
                driver = ("" if anonymous else await self._plugins.having(name)) or "local"
            marks = {"com.docker.volume.anonymous": ""} if anonymous else {}
            record = VolumeRecord(
                name=name,
                driver=driver,
                created_ns=time.time_ns(),
                labels={**(labels or {}), **marks},
                options=options or {},
                anonymous=anonymous,
                awaits=awaits,
            )
            await self._make(record)
        self._context.events.emit("volume", "create", name, {"driver": driver})
        return record

    async def _make(self, record: VolumeRecord) -> None:
        """Written down first: a crash in the middle leaves what `load` completes."""
        self._records.intend(record)
        driver = self._records.driver(record)
        try:
            if driver is not None:
                await self._context.executors.disk(driver.create, record.name, record.options)
            else:
                await self._plugins.create(record.driver, record.name, record.options)
        except BaseException:
            self._records.delete(record.name)
            raise
        self._records.appear(record)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Delete a volume that no container names."""
        async with self._lock(name):
            record = self._records.get(name)
            if record is None:
                driver = await self._plugins.having(name)
                if not driver:
                    if force:
                        return
                    raise NotFound(f"get {name}: no such volume")
                record = VolumeRecord(name=name, driver=driver, created_ns=0)
            users = self.users(name)
            if users:
                listed = ", ".join(user.id for user in users)
                raise Conflict(f"remove {name}: volume is in use - [{listed}]")
            keeper = self._records.driver(record)
            if keeper is not None:
                await self._context.executors.disk(keeper.remove, name)
            else:
                await self._remove_theirs(record, force)
            self._records.delete(name)
        self._context.events.emit("volume", "destroy", name, {"driver": record.driver})

    @asynccontextmanager
    async def appearing(self, record: VolumeRecord) -> AsyncIterator[Mount]:
        """A new volume that bears its name when the block ends well, and is never there half: its mount at "/"."""
        async with self._lock(record.name):
            if record.name in self._records:
                raise Conflict(
                    f"a volume with the name {record.name} exists already; remove it or choose another name"
                )
            driver = self._records.driver(record)
            if driver is None:
                if await self._plugins.has(record.driver, record.name):
                    raise Conflict(
                        f"the plugin {record.driver} has a volume {record.name} already; remove it or choose another "
                        "name"
                    )
                await self._plugins.create(record.driver, record.name, record.options)
                await self._plugins.hold((record,), record.name)
                try:
                    yield self._plugins.mount(record, "/", ("rw",))
                except BaseException:
                    await self._plugins.remove(record)
                    raise
                finally:
                    await self._plugins.release((record,), record.name)
            else:
                disk = self._context.executors.disk
                hidden = driver.unfinished(ids.new_id())
                try:
                    await disk(driver.create, hidden, record.options)
                    yield driver.mount(hidden, "/", record.options)
                    # Never data without a row, nor a row that stays without data: a crash in between leaves neither.
                    self._records.intend(msgspec.structs.replace(record, awaits=record.awaits or hidden))
                    await disk(driver.rename, hidden, record.name)
                except BaseException:
                    self._records.delete(record.name)
                    await disk(driver.remove, hidden)
                    raise
            self._records.put(record)
        self._context.events.emit("volume", "create", record.name, {"driver": record.driver})

    def users(self, name: str) -> Sequence[Container]:
        """The containers that name a volume."""
        return [
            container
            for container in self._registry
            if any(mount.type == "volume" and mount.name == name for mount in container.record.mounts)
        ]

    def exists(self, name: str) -> bool:
        return name in self._records

    async def taken(self, name: str) -> bool:
        """Whether there is a volume of this name, in a plugin perhaps that nobody here asked for it."""
        return name in self._records or bool(await self._plugins.having(name))

    async def adopt(self, name: str) -> VolumeRecord:
        """What is known of a volume, one of a plugin's too that nobody here has named yet; NotFound without one."""
        if name not in self._records and (driver := await self._plugins.having(name)):
            return await self.ensure(name, driver)
        return self._records.find(name)

    def record(self, name: str) -> VolumeRecord:
        """What is known of a volume; NotFound when there is none."""
        return self._records.find(name)

    def note_filled(self, name: str) -> None:
        """An image's content was copied in."""
        self._records.put(msgspec.structs.replace(self._records.find(name), filled=True))

    async def rename(self, name: str, to: str) -> None:
        """Another name for a volume that no container names; Conflict when one does, or the name is taken."""
        async with self._lock(name), self._lock(to):
            record = self._records.find(name)
            driver = self._records.driver(record)
            if driver is None:
                raise Unsupported(f"The volume {name} belongs to the plugin {record.driver}, which cannot rename it")
            if to in self._records:
                raise Conflict(f"a volume with the name {to} exists already; remove it or choose another name")
            users = self.users(name)
            if users:
                listed = ", ".join(user.name for user in users)
                raise Conflict(f"rename {name}: volume is in use by {listed}; remove these containers first")
            renamed = msgspec.structs.replace(record, name=to, anonymous=False)
            self._records.intend(msgspec.structs.replace(renamed, was=name))
            try:
                await self._context.executors.disk(driver.rename, name, to)
            except CoveError:
                self._records.delete(to)
                raise
            self._records.put(renamed)
            self._records.delete(name)

    def unused(self, filters: Filters) -> Sequence[VolumeRecord]:
        """What a prune removes: anonymous ones, or with `all` any, that no container names.

        A plugin's and those whose data is elsewhere stay: to forget them frees nothing here.
        """
        everything = filters.flag("all") or False
        return [
            record
            for record in self._records
            if (record.anonymous or everything)
            and self._records.driver(record) is not None
            and record.options.keys() <= {"size"}
            and not self.users(record.name)
            and filters.labels(record.labels)
            and not ("label!" in filters and filters.labels(record.labels, "label!"))
        ]

    async def _remove_theirs(self, record: VolumeRecord, force: bool) -> None:
        """By force, a volume is forgotten whose plugin is gone."""
        try:
            await self._plugins.remove(record)
        except (NotFound, Unavailable):
            if not force:
                raise

    def _lock(self, name: str) -> asyncio.Lock:
        """Of one volume: a plugin that does not answer holds up nobody else."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock
