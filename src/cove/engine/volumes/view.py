"""Volumes as the API shows them, those too that plugins have and nobody here has named yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET

from cove.engine.containers.records import VolumeRecord
from cove.engine.containers.registry import Container
from cove.engine.context import Context
from cove.engine.volumes.plugins import PluginVolumes
from cove.engine.volumes.records import VolumeRecords
from cove.errors import NotFound
from cove.volume.plugin import Volume
from cove.wire import volumes as wire
from cove.wire.filters import Filters
from cove.wire.times import stamp


class VolumeView:
    """Part of `VolumeService`; `records` are its own, `users` are the containers that name a volume."""

    def __init__(
        self,
        context: Context,
        plugins: PluginVolumes,
        records: VolumeRecords,
        users: Callable[[str], Sequence[Container]],
    ) -> None:
        self._context = context
        self._plugins = plugins
        self._records = records
        self._users = users

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
        known = {(record.driver, record.name): record for record in self._records}
        known |= {key: VolumeRecord(name=key[1], driver=key[0], created_ns=0) for key in seen if key not in known}
        wanted = {key: record for key, record in known.items() if self._wanted(record, filters)}
        shown = [self._render(record, *seen.get(key, ())) for key, record in wanted.items()]
        if size:
            shown = [msgspec.structs.replace(each, usage_data=await self.usage(each.name)) for each in shown]
        return wire.VolumeListResponse(volumes=tuple(shown), warnings=complaints or None)

    async def usage(self, name: str) -> wire.VolumeUsage:
        """What a volume takes on disk, measured now (-1 when its plugin does not tell), and how many use it."""
        record = self._records.get(name)
        driver = self._records.driver(record) if record is not None else None
        size = await self._context.executors.disk(driver.size, name) if driver is not None else -1
        return wire.VolumeUsage(size=size, ref_count=len(self._users(name)))

    async def inspect(self, name: str) -> wire.Volume:
        """One volume; of a plugin's, what that says now."""
        record = self._records.get(name)
        driver = record.driver if record is not None else await self._plugins.having(name)
        if record is None and not driver:
            raise NotFound(f"get {name}: no such volume")
        record = record or VolumeRecord(name=name, driver=driver, created_ns=0)
        if self._records.driver(record) is not None:
            return self._render(record)
        return self._render(record, *await self._plugins.look(driver, name))

    async def scope(self, record: VolumeRecord) -> str:
        """Whether a volume is this host's ("local"), or a plugin has it everywhere ("global")."""
        if self._records.driver(record) is not None:
            return "local"
        return (await self._plugins.look(record.driver, record.name))[1]

    def _wanted(self, record: VolumeRecord, filters: Filters) -> bool:
        dangling = filters.flag("dangling")
        names = filters.get("name")
        return (
            (dangling is None or dangling != bool(self._users(record.name)))
            and (not names or any(part in record.name for part in names))
            and filters.exact("driver", record.driver)
            and filters.labels(record.labels)
        )

    def _render(self, record: VolumeRecord, told: Volume | None = None, scope: str = "local") -> wire.Volume:
        """A volume as the API shows it; `told` by its plugin."""
        ours = self._records.driver(record)
        place = str(ours.path(record.name)) if ours is not None else self._plugins.place(record.name)
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
