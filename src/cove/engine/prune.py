"""Remove what nobody uses: containers that do not run, networks and volumes without users, dangling images."""

from __future__ import annotations

import time
from contextlib import suppress

from cove.engine.containers.registry import Registry
from cove.engine.containers.service import Containers
from cove.engine.context import Context
from cove.engine.images.service import ImageService
from cove.engine.networks.service import NetworkService
from cove.engine.volumes.service import VolumeService
from cove.errors import Conflict, Forbidden, InvalidArgument, NotFound
from cove.wire.containers import PruneResponse
from cove.wire.filters import Filters
from cove.wire.images import ImagePruneResponse
from cove.wire.networks import NetworkPruneResponse
from cove.wire.times import moment
from cove.wire.volumes import VolumePruneResponse


class Prune:
    """One method for each noun; an object that is taken into use meanwhile is left alone."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        containers: Containers,
        images: ImageService,
        networks: NetworkService,
        volumes: VolumeService,
    ) -> None:
        self._context = context
        self._registry = registry
        self._containers = containers
        self._images = images
        self._networks = networks
        self._volumes = volumes

    async def containers(self, filters: Filters) -> PruneResponse:
        """Every container that does not run."""
        limit = older_than(filters)
        removed, room = [], 0
        for container in self._registry:
            record, phase = container.record, container.facts.phase
            labels = record.config.labels
            if phase not in ("created", "exited", "dead") or record.created_ns > limit:
                continue
            if not filters.labels(labels) or ("label!" in filters and filters.labels(labels, "label!")):
                continue
            size = await self._context.executors.disk(self._context.snapshots.usage, record.id)
            with suppress(Conflict, NotFound):
                await self._containers.remove(record.id)
                removed.append(record.id)
                room += size
        self._context.events.emit("container", "prune", "", {"reclaimed": str(room)})
        return PruneResponse(containers_deleted=tuple(removed) or None, space_reclaimed=room)

    async def images(self, filters: Filters) -> ImagePruneResponse:
        """Images without a name, or with dangling=false every one that no container uses."""
        return await self._images.prune(filters, older_than(filters))

    async def networks(self, filters: Filters) -> NetworkPruneResponse:
        """The user's networks without users."""
        removed = []
        for network in self._networks.unused(filters, older_than(filters)):
            with suppress(Conflict, Forbidden, NotFound):
                await self._networks.remove(network.id)
                removed.append(network.name)
        self._context.events.emit("network", "prune", "", {"reclaimed": "0"})
        return NetworkPruneResponse(networks_deleted=tuple(removed) or None)

    async def volumes(self, filters: Filters) -> VolumePruneResponse:
        """Anonymous volumes without users, or with all=true named ones too."""
        if "until" in filters:
            raise InvalidArgument('The "until" filter is not supported for volumes')
        removed, room = [], 0
        for record in self._volumes.unused(filters):
            size = max(0, (await self._volumes.view.usage(record.name)).size)
            with suppress(Conflict, NotFound):
                await self._volumes.remove(record.name)
                removed.append(record.name)
                room += size
        self._context.events.emit("volume", "prune", "", {"reclaimed": str(room)})
        return VolumePruneResponse(volumes_deleted=tuple(removed), space_reclaimed=room)


def older_than(filters: Filters) -> int:
    """The moment before which objects were made that are meant: `until`, or now."""
    terms = filters.get("until")
    now = time.time_ns()
    if len(terms) > 1:
        raise InvalidArgument("more than one until filter specified")
    return moment(terms[0], now_ns=now) if terms else now
