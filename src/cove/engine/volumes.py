"""Volumes: what there is, who uses it, and the first fill from an image.

Owns the records; the data is the drivers'. A volume is used by every container that names it, running or
not, and cannot be removed until the last of them is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from cove import ids
from cove.engine.context import Context
from cove.engine.records import MountRecord, VolumeRecord
from cove.engine.registry import Container, Registry
from cove.errors import Conflict, NotFound
from cove.oci.spec import Mount
from cove.store.documents import Documents
from cove.volume.driver import Driver
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
        self._lock = asyncio.Lock()

    def load(self) -> None:
        """Read the records."""
        self._records = self._documents.load()

    def all(self) -> Sequence[VolumeRecord]:
        return list(self._records.values())

    async def list(self, *, filters: Filters = Filters()) -> wire.VolumeListResponse:  # noqa: B008 - frozen
        """Every volume that passes the filters."""
        found = [record for record in self._records.values() if self._wanted(record, filters)]
        return wire.VolumeListResponse(volumes=tuple(self._render(record) for record in found))

    async def inspect(self, name: str) -> wire.Volume:
        return self._render(self._find(name))

    async def create(self, body: wire.VolumeCreateRequest) -> wire.Volume:
        """Make a volume, or return the one that bears the name with this driver."""
        name = ids.check_name("volume", body.name) if body.name else ids.new_id()
        record = await self.ensure(
            name, body.driver or "local", options=body.driver_opts, labels=body.labels, anonymous=not body.name
        )
        return self._render(record)

    async def ensure(
        self,
        name: str,
        driver: str = "local",
        *,
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        anonymous: bool = False,
    ) -> VolumeRecord:
        """The volume of this name, made if it is not there; raises Conflict when it is of another driver."""
        async with self._lock:
            known = self._records.get(name)
            if known is not None:
                if known.driver != driver:
                    raise Conflict(f"volume {name} already exists with the driver {known.driver}, not {driver}")
                return known
            await self._context.executors.disk(self._driver(driver).create, name, options or {})
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
        async with self._lock:
            record = self._records.get(name)
            if record is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            users = self.users(name)
            if users:
                listed = ", ".join(user.id for user in users)
                raise Conflict(f"remove {name}: volume is in use - [{listed}]")
            await self._context.executors.disk(self._driver(record.driver).remove, name)
            self._documents.delete(name)
            del self._records[name]
        self._context.events.emit("volume", "destroy", name, {"driver": record.driver})

    def users(self, name: str) -> Sequence[Container]:
        """The containers that name a volume."""
        return [
            container
            for container in self._registry
            if any(mount.type == "volume" and mount.name == name for mount in container.record.mounts)
        ]

    def mount(self, asked: MountRecord) -> Mount:
        """The mount that shows a volume in a container."""
        record = self._find(asked.name)
        return self._driver(record.driver).mount(
            asked.name, asked.destination, record.options, subpath=asked.subpath, readonly=not asked.rw
        )

    def exists(self, name: str) -> bool:
        return name in self._records

    def source(self, name: str) -> str:
        """The directory that inspect calls Mountpoint."""
        record = self._find(name)
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
        async with self._lock:
            record = self._find(name)
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
        return self._driver(record.driver).empty(asked.name, asked.subpath)

    async def size(self, name: str) -> int:
        """Bytes on disk, measured now."""
        return await self._context.executors.disk(self._driver(self._find(name).driver).size, name)

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

    def _driver(self, name: str) -> Driver:
        driver = self._context.volume_drivers.get(name)
        if driver is None:
            raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" not found')
        return driver

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

    def _render(self, record: VolumeRecord) -> wire.Volume:
        return wire.Volume(
            created_at=stamp(record.created_ns),
            driver=record.driver,
            labels=record.labels or None,
            mountpoint=str(self._driver(record.driver).path(record.name)),
            name=record.name,
            options=record.options or None,
        )
