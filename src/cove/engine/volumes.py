"""Volumes: what there is, who uses it, and the first fill from an image.

Owns the records; the data is the drivers'. A volume is used by every container that names it, running or
not, and cannot be removed until the last of them is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import msgspec
from msgspec import UNSET

from cove import ids
from cove.engine.context import Context
from cove.engine.plugin_volumes import PluginVolumes
from cove.engine.records import MountRecord, VolumeRecord
from cove.engine.registry import Container, Registry
from cove.errors import Conflict, NotFound, Unavailable, Unsupported
from cove.kernel.mounts import subdirectory
from cove.oci.spec import Mount
from cove.store.documents import Documents
from cove.volume.driver import Driver
from cove.volume.plugin import Volume
from cove.wire import volumes as wire
from cove.wire.filters import Filters
from cove.wire.times import stamp


class VolumeService:
    """The use cases of volumes."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self._context = context
        self._registry = registry
        self._documents = Documents(context.database, "volumes", VolumeRecord, key="name")
        self._records: dict[str, VolumeRecord] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._plugins = PluginVolumes(context)

    def load(self) -> None:
        """Read the records."""
        self._records = self._documents.load()

    def all(self) -> Sequence[VolumeRecord]:
        return list(self._records.values())

    async def list(
        self,
        *,
        filters: Filters = Filters(),  # noqa: B008 - frozen
        size: bool = False,
    ) -> wire.VolumeListResponse:
        """Every volume that passes the filters; those of plugins too that were made elsewhere. `size` measures."""
        filters.flag("dangling")  # nonsense is refused even where there is nothing to list
        theirs, complaints = await self._plugins.all()
        seen = {(driver, each.name): (each, scope) for driver, (all_, scope) in theirs.items() for each in all_}
        known = {(record.driver, record.name): record for record in self._records.values()}
        known |= {key: VolumeRecord(name=key[1], driver=key[0], created_ns=0) for key in seen if key not in known}
        wanted = {key: record for key, record in known.items() if self._wanted(record, filters)}
        shown = [self._render(record, *seen.get(key, ())) for key, record in wanted.items()]
        if size:
            shown = [msgspec.structs.replace(each, usage_data=await self.usage(each.name)) for each in shown]
        return wire.VolumeListResponse(volumes=tuple(shown), warnings=complaints or None)

    async def usage(self, name: str) -> wire.VolumeUsage:
        """What a volume takes on disk, measured now (-1 when its plugin does not tell), and how many use it."""
        record = self._records.get(name)
        size = -1
        if record is not None and self._is_ours(record.driver):
            size = await self._context.executors.disk(self._driver(record.driver).size, name)
        return wire.VolumeUsage(size=size, ref_count=len(self.users(name)))

    async def inspect(self, name: str) -> wire.Volume:
        """One volume; of a plugin's, what that says now."""
        record = self._records.get(name)
        driver = record.driver if record is not None else await self._plugins.having(name)
        if record is None and not driver:
            raise NotFound(f"get {name}: no such volume")
        record = record or VolumeRecord(name=name, driver=driver, created_ns=0)
        if self._is_ours(driver):
            return self._render(record)
        return self._render(record, *await self._plugins.look(driver, name))

    async def create(self, body: wire.VolumeCreateRequest) -> wire.Volume:
        """Make a volume, or return the one that bears the name with this driver."""
        name = ids.check_name("volume", body.name) if body.name else ids.new_id()
        record = await self.ensure(
            name, body.driver, options=body.driver_opts, labels=body.labels, anonymous=not body.name
        )
        return await self.inspect(record.name)

    async def ensure(
        self,
        name: str,
        driver: str = "",
        *,
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        anonymous: bool = False,
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
            if self._is_ours(driver):
                await self._context.executors.disk(self._driver(driver).create, name, options or {})
            else:
                await self._plugins.create(driver, name, options or {})
            marks = {"com.docker.volume.anonymous": ""} if anonymous else {}
            record = VolumeRecord(
                name=name,
                driver=driver,
                created_ns=time.time_ns(),
                labels={**(labels or {}), **marks},
                options=options or {},
                anonymous=anonymous,
            )
            self._documents.put(name, record)
            self._records[name] = record
        self._context.events.emit("volume", "create", name, {"driver": driver})
        return record

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
            if self._is_ours(record.driver):
                await self._context.executors.disk(self._driver(record.driver).remove, name)
            else:
                await self._remove_theirs(record, force)
            self._documents.delete(name)
            self._records.pop(name, None)
        self._context.events.emit("volume", "destroy", name, {"driver": record.driver})

    @asynccontextmanager
    async def appearing(self, record: VolumeRecord) -> AsyncIterator[Mount]:
        """A new volume that bears its name when the block ends well, and is never there half: its mount at "/"."""
        async with self._lock(record.name):
            if record.name in self._records:
                raise Conflict(
                    f"a volume with the name {record.name} exists already; remove it or choose another name"
                )
            if not self._is_ours(record.driver):
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
                driver, disk = self._driver(record.driver), self._context.executors.disk
                hidden = driver.unfinished(ids.new_id())
                try:
                    await disk(driver.create, hidden, record.options)
                    yield driver.mount(hidden, "/", record.options)
                    await disk(driver.rename, hidden, record.name)
                except BaseException:
                    await disk(driver.remove, hidden)
                    raise
            self._documents.put(record.name, record)
            self._records[record.name] = record
        self._context.events.emit("volume", "create", record.name, {"driver": record.driver})

    def users(self, name: str) -> Sequence[Container]:
        """The containers that name a volume."""
        return [
            container
            for container in self._registry
            if any(mount.type == "volume" and mount.name == name for mount in container.record.mounts)
        ]

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

    def exists(self, name: str) -> bool:
        return name in self._records

    def source(self, name: str) -> str:
        """The directory that inspect calls Mountpoint."""
        record = self._find(name)
        if not self._is_ours(record.driver):
            return self._plugins.place(name)
        return str(self._driver(record.driver).path(name))

    def record(self, name: str) -> VolumeRecord:
        """What is known of a volume; NotFound when there is none."""
        return self._find(name)

    def note_filled(self, name: str) -> None:
        """An image's content was copied in."""
        record = msgspec.structs.replace(self._find(name), filled=True)
        self._documents.put(name, record)
        self._records[name] = record

    async def rename(self, name: str, to: str) -> None:
        """Another name for a volume that no container names; Conflict when one does, or the name is taken."""
        async with self._lock(name), self._lock(to):
            record = self._find(name)
            if not self._is_ours(record.driver):
                raise Unsupported(f"The volume {name} belongs to the plugin {record.driver}, which cannot rename it")
            if to in self._records:
                raise Conflict(f"a volume with the name {to} exists already; remove it or choose another name")
            users = self.users(name)
            if users:
                listed = ", ".join(user.name for user in users)
                raise Conflict(f"rename {name}: volume is in use by {listed}; remove these containers first")
            await self._context.executors.disk(self._driver(record.driver).rename, name, to)
            renamed = msgspec.structs.replace(record, name=to, anonymous=False)
            self._documents.put(to, renamed)
            self._documents.delete(name)
            del self._records[name]
            self._records[to] = renamed

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

    def unused(self, filters: Filters) -> Sequence[VolumeRecord]:
        """What a prune removes: anonymous ones, or with `all` any, that no container names."""
        everything = filters.flag("all") or False
        return [
            record
            for record in self._records.values()
            if (record.anonymous or everything)
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

    def _is_ours(self, driver: str) -> bool:
        return driver in self._context.volume_drivers

    def _driver(self, name: str) -> Driver:
        return self._context.volume_drivers[name]

    def _find(self, name: str) -> VolumeRecord:
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record

    def _wanted(self, record: VolumeRecord, filters: Filters) -> bool:
        dangling = filters.flag("dangling")
        names = filters.get("name")
        return (
            (dangling is None or dangling != bool(self.users(record.name)))
            and (not names or any(part in record.name for part in names))
            and filters.exact("driver", record.driver)
            and filters.labels(record.labels)
        )

    def _render(self, record: VolumeRecord, told: Volume | None = None, scope: str = "local") -> wire.Volume:
        """A volume as the API shows it; `told` by its plugin."""
        ours = self._is_ours(record.driver)
        place = str(self._driver(record.driver).path(record.name)) if ours else self._plugins.place(record.name)
        return wire.Volume(
            created_at=stamp(record.created_ns) if record.created_ns else told.created if told else "",
            driver=record.driver,
            labels=record.labels or None,
            mountpoint=told.mountpoint or place if told else place,
            name=record.name,
            options=record.options or None,
            scope=scope,
            status=dict(told.status) if told and told.status else UNSET,
        )
