"""What takes room on disk: images, containers, volumes, the build cache; measured now, by kind.

Bytes are those of du(1). A layer that several things share is counted once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from msgspec import UNSET

from cove.build.cache import BuildCache
from cove.engine.build.leftovers import listed
from cove.engine.containers.registry import Registry
from cove.engine.containers.service import Containers
from cove.engine.context import Context
from cove.engine.images.service import ImageService
from cove.engine.volumes.service import VolumeService
from cove.errors import InvalidArgument
from cove.wire import system as wire
from cove.wire.volumes import Volume, VolumeUsage

KINDS = ("container", "image", "volume", "build-cache")
_BUSY = ("running", "paused", "restarting")


class DiskUsage:
    """The use case of GET /system/df."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        containers: Containers,
        images: ImageService,
        volumes: VolumeService,
        cache: BuildCache,
    ) -> None:
        self._context = context
        self._registry = registry
        self._containers = containers
        self._images = images
        self._volumes = volumes
        self._cache = cache

    async def measure(self, kinds: Collection[str] = (), *, items: bool = False) -> wire.DiskUsage:
        """Everything, or only some `kinds`; `items` lists the objects below their usage too. InvalidArgument."""
        for kind in kinds:
            if kind not in KINDS:
                raise InvalidArgument(f"unknown object type: {kind}; there are {', '.join(KINDS)}")
        kinds = kinds or KINDS
        found = wire.DiskUsage()
        if "image" in kinds or "build-cache" in kinds:
            found = await self._stored(found, kinds)
        if "container" in kinds:
            found = await self._written(found)
        if "volume" in kinds:
            found = await self._kept(found)
        return _listed(found) if items else found

    async def _stored(self, found: wire.DiskUsage, kinds: Collection[str]) -> wire.DiskUsage:
        records = self._cache.records()
        used = {identity for container in self._registry for identity in container.record.image_ids}
        measure = self._context.store.usage.measure
        store = await self._context.executors.bulk(measure, used, {record.chain for record in records})
        if "build-cache" in kinds:
            left = await self._context.executors.bulk(listed, self._context, records, store)
            steps = tuple(each.shown() for each in left)
            size = sum(step.size for step in steps)
            found = msgspec.structs.replace(
                found,
                build_cache=steps,
                build_cache_usage=_usage(steps, active=0, size=size, free=size),
            )
        if "image" not in kinds:
            return found
        images = tuple(
            msgspec.structs.replace(image, size=share.size, shared_size=share.shared)
            for image in await self._images.list(all=True, count=True)
            if (share := store.images.get(image.id))
        )
        active = sum(image.containers > 0 for image in images)
        return msgspec.structs.replace(
            found,
            layers_size=store.total,
            images=images,
            image_usage=_usage(images, active=active, size=store.total, free=store.reclaimable),
        )

    async def _written(self, found: wire.DiskUsage) -> wire.DiskUsage:
        containers = tuple(await self._containers.list(all=True, size=True))
        busy = [each for each in containers if each.state in _BUSY]
        size = sum(each.size_rw or 0 for each in containers)
        free = size - sum(each.size_rw or 0 for each in busy)
        usage = _usage(containers, active=len(busy), size=size, free=free)
        return msgspec.structs.replace(found, containers=containers, container_usage=usage)

    async def _kept(self, found: wire.DiskUsage) -> wire.DiskUsage:
        volumes: list[Volume] = []
        active = size = free = 0
        for shown in (await self._volumes.view.list(size=True)).volumes:
            told = shown.usage_data if isinstance(shown.usage_data, VolumeUsage) else VolumeUsage()
            room, users = told.size, told.ref_count
            volumes.append(shown)
            active += users > 0
            size += max(room, 0)
            free += 0 if users else max(room, 0)
        usage = _usage(volumes, active=active, size=size, free=free)
        return msgspec.structs.replace(found, volumes=tuple(volumes), volume_usage=usage)


def _usage(items: Sequence[object], *, active: int, size: int, free: int) -> wire.ObjectUsage:
    return wire.ObjectUsage(active_count=active, total_count=len(items), total_size=size, reclaimable=free)


def _listed(found: wire.DiskUsage) -> wire.DiskUsage:
    """The same with each kind's objects below its usage, where newer clients look for them."""
    changes: dict[str, object] = {}
    for one, many in (
        ("image", "images"), ("container", "containers"), ("volume", "volumes"), ("build_cache", "build_cache")
    ):  # fmt: skip
        usage = getattr(found, f"{one}_usage")
        if usage is not UNSET:
            changes[f"{one}_usage"] = msgspec.structs.replace(usage, items=getattr(found, many) or UNSET)
    return msgspec.structs.replace(found, **changes)
