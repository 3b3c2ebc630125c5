"""The engine about itself: version, info, disk usage, log-in."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from cove import __version__
from cove.build.cache import BuildCache, Record
from cove.engine.containers import Containers
from cove.engine.context import Context
from cove.engine.images import ImageService
from cove.engine.registry import Registry
from cove.engine.userns import Users
from cove.engine.volumes import VolumeService
from cove.image.distribution import Credentials
from cove.image.usage import StoreUsage
from cove.oci.platform import host_platform
from cove.wire import system as wire
from cove.wire.images import RegistryAuth
from cove.wire.times import stamp
from cove.wire.volumes import VolumeUsage

API_VERSION = "1.51"
MINIMUM_API_VERSION = "1.24"


class System:
    """The use cases about the engine as a whole."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        containers: Containers,
        images: ImageService,
        volumes: VolumeService,
        users: Users,
        cache: BuildCache,
    ) -> None:
        self._context = context
        self._registry = registry
        self._containers = containers
        self._images = images
        self._volumes = volumes
        self._users = users
        self._cache = cache

    async def version(self) -> wire.Version:
        """Who answers."""
        host = self._context.host
        architecture = host_platform().architecture
        return wire.Version(
            platform=wire.VersionPlatform(name="Cove"),
            components=(
                wire.Component(
                    name="Engine",
                    version=__version__,
                    details={
                        "ApiVersion": API_VERSION,
                        "MinAPIVersion": MINIMUM_API_VERSION,
                        "Arch": architecture,
                        "Os": "linux",
                        "KernelVersion": host.kernel,
                        "Experimental": "false",
                    },
                ),
            ),
            version=__version__,
            api_version=API_VERSION,
            min_api_version=MINIMUM_API_VERSION,
            arch=architecture,
            kernel_version=host.kernel,
        )

    async def info(self) -> wire.Info:
        """What `docker info` prints."""
        context, host = self._context, self._context.host
        phases = [container.facts.phase for container in self._registry]
        running, paused = phases.count("running") + phases.count("restarting"), phases.count("paused")
        images = await context.executors.disk(context.images.list)
        return wire.Info(
            id=context.instance.id or "default",
            containers=len(phases),
            containers_running=running,
            containers_paused=paused,
            containers_stopped=len(phases) - running - paused,
            images=len(images),
            driver_status=(("Backing Filesystem", "overlayfs"), ("Supports d_type", "true")),
            docker_root_dir=str(context.data.root),
            swap_limit=host.swap_limit,
            oom_kill_disable=host.cgroup_version == 1,
            ipv4_forwarding=_flag("/proc/sys/net/ipv4/ip_forward"),
            debug=logging.getLogger("cove").isEnabledFor(logging.DEBUG),
            n_fd=len(os.listdir("/proc/self/fd")),
            n_goroutines=len(asyncio.all_tasks()),
            system_time=stamp(time.time_ns()),
            logging_driver="json-file",
            cgroup_driver=host.cgroup_driver,
            cgroup_version=str(host.cgroup_version),
            n_events_listener=context.events.listeners,
            kernel_version=host.kernel,
            operating_system=_os_release("PRETTY_NAME", "Linux"),
            os_version=_os_release("VERSION_ID", ""),
            architecture=host.architecture,
            ncpu=host.cpus,
            mem_total=host.memory,
            name=context.settings.hostname or socket.gethostname(),
            labels=context.settings.labels,
            cdi_spec_dirs=context.settings.cdi_directories,
            security_options=self._security(),
            server_version=__version__,
            runtimes={"cove": wire.Runtime(path="cove")},
            plugins=wire.Plugins(volume=("local", *context.volume_plugins.names())),
            warnings=tuple(context.firewall.warnings()) or None,
        )

    def _security(self) -> tuple[str, ...]:
        """What protects containers unless they say otherwise."""
        host = self._context.host
        return (
            *(["name=apparmor"] if host.apparmor else []),
            "name=seccomp,profile=builtin",
            *(["name=selinux"] if host.selinux else []),
            *(["name=userns"] if self._users.remapped else []),
            "name=cgroupns",
        )

    async def df(self) -> wire.DiskUsage:
        """Everything that takes room, measured now."""
        containers = await self._containers.list(all=True, size=True)
        records = self._cache.records()
        used = {identity for container in self._registry for identity in container.record.image_ids}
        store = await self._context.executors.bulk(
            self._context.store.usage.measure, used, {record.chain for record in records}
        )
        images = [
            msgspec.structs.replace(image, size=share.size, shared_size=share.shared)
            for image in await self._images.list(all=True, count=True)
            if (share := store.images.get(image.id))
        ]
        volumes = []
        for record in self._volumes.all():
            shown = await self._volumes.inspect(record.name)
            usage = VolumeUsage(
                size=await self._volumes.size(record.name), ref_count=len(self._volumes.users(record.name))
            )
            volumes.append(msgspec.structs.replace(shown, usage_data=usage))
        return wire.DiskUsage(
            layers_size=store.total,
            image_usage=wire.ImageUsage(
                active_count=sum(image.containers > 0 for image in images),
                total_count=len(images),
                total_size=store.total,
                reclaimable=store.reclaimable,
            ),
            images=tuple(images),
            containers=tuple(containers),
            volumes=tuple(volumes),
            build_cache=_cached(records, store),
        )

    async def auth(self, body: RegistryAuth) -> wire.AuthResponse:
        """Try credentials at their registry."""
        credentials = Credentials(username=body.username, password=body.password, server_address=body.serveraddress)
        status = await self._context.executors.bulk(self._context.distribution.login, credentials)
        return wire.AuthResponse(status=status)


def _cached(records: Sequence[Record], store: StoreUsage) -> tuple[wire.BuildCacheItem, ...]:
    """The steps of the build cache; a layer that an image or another step has too is counted there."""
    rooms = dict(store.cached)
    return tuple(
        wire.BuildCacheItem(
            id=record.key,
            description=record.title,
            shared=record.chain not in rooms,
            size=rooms.pop(record.chain, 0),
            created_at=stamp(record.created_ns),
            last_used_at=stamp(record.used_ns),
            usage_count=record.uses,
        )
        for record in records
    )


def _flag(path: str) -> bool:
    with suppress(OSError):
        return Path(path).read_text().strip() == "1"
    return False


def _os_release(key: str, default: str) -> str:
    """A value of os-release(5)."""
    with suppress(OSError):
        for line in Path("/etc/os-release").read_text().splitlines():
            name, _, value = line.partition("=")
            if name == key:
                return value.strip('"')
    return default
