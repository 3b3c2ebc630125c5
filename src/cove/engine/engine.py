"""The engine: the use cases joined, and the order in which they begin and end.

    Engine(context) ──▶ start: recover, then listen to the supervisor ──▶ … ──▶ close: containers run on

Each attribute is one noun's use cases; routes call them and nothing else.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cove.build.cache import BuildCache
from cove.engine import memory
from cove.engine.backup.backups import Backups
from cove.engine.backup.restores import Restores
from cove.engine.containers.execs import Execs
from cove.engine.containers.files import Files
from cove.engine.containers.health import HealthChecks
from cove.engine.containers.launch import Launcher
from cove.engine.containers.lifecycle import Lifecycle
from cove.engine.containers.registry import Container, Registry
from cove.engine.containers.removal import Removal
from cove.engine.containers.service import Containers
from cove.engine.containers.stats import Stats
from cove.engine.containers.streams import Streams
from cove.engine.context import Context, Settings
from cove.engine.disk_usage import DiskUsage
from cove.engine.images.attestations import Attestations
from cove.engine.images.making import ImageMaking
from cove.engine.images.manifests import ManifestService
from cove.engine.images.service import ImageService
from cove.engine.images.trust import TrustService
from cove.engine.isolation.userns import Users
from cove.engine.logs.forwarding import Forwarding
from cove.engine.networks.attachments import Attachments
from cove.engine.networks.joining import Joining
from cove.engine.networks.service import NetworkService, NetworkStore
from cove.engine.networks.tracing import Tracing
from cove.engine.prune import Prune
from cove.engine.recovery import Recovery
from cove.engine.system import System
from cove.engine.tasks import Tasks
from cove.engine.volumes.mounts import Mounts
from cove.engine.volumes.moves import VolumeMoves
from cove.engine.volumes.service import VolumeService
from cove.runtime.messages import Exited, OutOfMemory, Report

if TYPE_CHECKING:
    from cove.engine.build.service import BuildService
    from cove.engine.explain.service import Explanations

_CHECKPOINT_PERIOD = 60.0


class Engine:
    """Everything the API can ask for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tasks = Tasks()
        registry = self._registry = Registry(context.database)
        self._network_store = NetworkStore(context)
        attachments = Attachments(context, self._network_store, registry)
        self.events = context.events
        self.volumes = VolumeService(context, registry)
        self.volume_moves = VolumeMoves(context, self.volumes)
        mounts = Mounts(context, registry, self.volumes)
        launcher = Launcher(context, registry, self._network_store, mounts)
        self._removal = Removal(context, registry, self.volumes)
        self.lifecycle = Lifecycle(context, registry, launcher, attachments, self._removal, self.volumes, self._tasks)
        self._launcher, self._attachments = launcher, attachments
        self._build_cache = BuildCache(context.database)
        self._builds: BuildService | None = None
        self.execs = Execs(context, registry, self._tasks)
        joining = Joining(context, self._network_store, registry, attachments, launcher)
        self.networks = NetworkService(context, self._network_store, registry, joining)
        users = Users(registry, context.settings.userns_remap)
        self.containers = Containers(
            context, registry, self._network_store, mounts, self.lifecycle, self._removal, users, attachments
        )
        self.backups = Backups(context, registry, self.volumes)
        self.restores = Restores(context, registry, self._network_store, self.containers, mounts, self.volumes, users)
        self.streams = Streams(context, registry, self.lifecycle)
        self._forwarding = Forwarding(context, self._tasks)
        self._removal.moved = self._log_moved
        self.files = Files(context, registry, mounts, self.volumes)
        self.containers.fill_volumes = self.files.fill_volumes
        self.containers.renamed = joining.renamed
        context.ports.called = self._called
        self.tracing = Tracing(context, registry, self._network_store)
        self.stats = Stats(context, registry)
        self._mounts, self._users = mounts, users
        self._explanations: Explanations | None = None
        self.images = ImageService(context, registry)
        self.image_making = ImageMaking(context, registry)
        self.manifests = ManifestService(context)
        self.trust = TrustService(context)
        self.attestations = Attestations(context)
        self.prune = Prune(context, registry, self.containers, self.images, self.networks, self.volumes)
        self.system = System(context, registry, users)
        self.disk_usage = DiskUsage(context, registry, self.containers, self.images, self.volumes, self._build_cache)
        self._health = HealthChecks(context, self.execs, self._tasks)
        self.lifecycle.prepare = self._forwarding.prepare
        self.lifecycle.on_start.extend((self._health.begin, launcher.relink, self._forwarding.begin))
        self.lifecycle.on_end.extend((self._health.end, self._end_execs, self._forwarding.end))
        self._recovery = Recovery(context, registry, attachments, self.lifecycle, joining, self._removal, self._tasks)

    @property
    def builds(self) -> BuildService:
        """Builds. What they need is loaded with the first one: a quarter of all that a daemon would load."""
        if self._builds is None:
            from cove.engine.build.service import BuildService

            self._builds = BuildService(self._context, self._launcher, self._attachments, self._build_cache)
        return self._builds

    @property
    def explanations(self) -> Explanations:
        """Explanations, loaded with the first question."""
        if self._explanations is None:
            from cove.engine.explain.service import Explanations

            self._explanations = Explanations(
                self._context, self._registry, self._network_store, self.containers, self._mounts, self._users
            )
        return self._explanations

    def _called(self, identity: str) -> str:
        """How a complaint calls a container."""
        container = self._registry.get(identity)
        return f"the container {container.name}" if container is not None else f"the container {identity[:12]}"

    def _log_moved(self, identity: str, log: Path) -> list[asyncio.Event]:
        return self.streams.moved(identity, log) + self._forwarding.moved(identity, log)

    def _end_execs(self, container: Container) -> None:
        self.execs.container_ended(container)

    async def start(self) -> None:
        """Recover, then follow what the supervisor reports."""
        self._network_store.load()
        self.volumes.load()
        memory.sweep(self._context)
        await self._recovery.run()
        for container in self._registry:
            self._forwarding.resume(container)
        await self.volumes.collect()
        self._context.reports.listen(self._report, self._reconnected)
        self._tasks.begin(self._checkpoints(), "checkpoint of the database")

    async def close(self) -> None:
        """Let go; containers run on."""
        if self._builds is not None:
            await self._builds.close()
        await self._tasks.close()
        await self._removal.close()
        self.streams.close()
        self._forwarding.close()

    def reconfigure(self, settings: Settings) -> None:
        """Other choices of the administrator's, for whatever begins from now on."""
        self._context.choice.settings = settings
        self.events.emit(
            "daemon",
            "reload",
            self._context.instance.id or "default",
            {"name": settings.hostname or socket.gethostname()},
        )

    def _report(self, report: Report) -> None:
        if isinstance(report, OutOfMemory):
            self.lifecycle.out_of_memory(report.id)
        elif isinstance(report, Exited) and report.exec_id:
            self.execs.exited(report.exec_id, report.exit)
        elif self._builds is None or not self._builds.exited(report.id, report.exit):
            self.lifecycle.exited(report.id, report.exit)

    def _reconnected(self) -> None:
        if self._builds is not None:
            self._tasks.begin(self._builds.lost(), "builds after the supervisor's death")
        self._tasks.begin(self._recovery.after_reconnect(), "taking stock after the supervisor's death")

    async def _checkpoints(self) -> None:
        """Now and then, and after much, bring the database's log home, off the loop: it waits for the disk."""
        loop, due = asyncio.get_running_loop(), asyncio.Event()
        self._context.database.grown = lambda: loop.call_soon_threadsafe(due.set)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(due.wait(), _CHECKPOINT_PERIOD)
            due.clear()
            with suppress(sqlite3.Error, OSError):
                await self._context.executors.disk(self._context.database.checkpoint)
