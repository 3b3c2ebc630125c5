"""A RUN's program in a container: with the bridge's network, default capabilities and system call filter.

    record (never in the registry) ─▶ address ─▶ Launch + the step's mounts ─▶ supervisor ─▶ output followed ─▶ exit

The container is forgotten when its program ends, whatever the end; a daemon that dies in the middle finds it at
its next start as one without a record, and ends it. Secrets lie on a tmpfs of the host until the step ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import msgspec

from cove.build import ops
from cove.build.layers import Source
from cove.build.solver import Log
from cove.engine.build.mounts import BuildMounts, Prepared
from cove.engine.containers import spec
from cove.engine.containers.launch import Launcher
from cove.engine.containers.records import DEFAULT, Record
from cove.engine.context import Context
from cove.engine.isolation import userns
from cove.engine.networks.attachments import Attachments
from cove.errors import CoveError, Internal
from cove.oci.spec import Mount
from cove.runtime.logs.follow import LogFollower, LogWatcher
from cove.runtime.logs.reader import LogReader
from cove.runtime.messages import Exit, Launch
from cove.runtime.newborn import once_more
from cove.wire.builds import BuildOptions
from cove.wire.containers import ContainerConfig, DeviceRequest, HostConfig
from cove.wire.networks import EndpointSettings

_log = logging.getLogger(__name__)


class StepContainers:
    """What all builds' containers share: who waits for the end of which, one watch over their logs, their removal."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[Exit]] = {}
        self._watcher: LogWatcher | None = None
        self._going: set[asyncio.Task[None]] = set()

    def exited(self, identity: str, exit_: Exit) -> bool:
        """Hear of an end; whether it was a build's."""
        future = self.waiting.get(identity)
        if future is not None and not future.done():
            future.set_result(exit_)
        return future is not None

    @property
    def watcher(self) -> LogWatcher:
        """The one for all logs: the kernel takes ten milliseconds and more to close one."""
        if self._watcher is None:
            self._watcher = LogWatcher()
        return self._watcher

    def remove(self, removal: Coroutine[None, None, None]) -> None:
        """Remove what is left of one that has ended, while its step goes on."""
        task = asyncio.ensure_future(removal)
        self._going.add(task)
        task.add_done_callback(self._removed)

    def _removed(self, task: asyncio.Task[None]) -> None:
        self._going.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("what is left of a build step's container goes at the next start: %s", error)

    async def close(self) -> None:
        """Finish removals, and watch no longer."""
        await asyncio.gather(*self._going, return_exceptions=True)
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None


class ContainerRunner:
    """The Runner of one build (`cove.build.steps.Runner`)."""

    def __init__(
        self,
        context: Context,
        launcher: Launcher,
        attachments: Attachments,
        containers: StepContainers,
        options: BuildOptions,
        mounts: BuildMounts,
        proxies: dict[str, str],
    ) -> None:
        self._context = context
        self._launcher = launcher
        self._attachments = attachments
        self._containers = containers
        self._options = options
        self._mounts = mounts
        self._proxies = proxies

    async def run(
        self, key: str, step: ops.Run, sources: tuple[Source, ...], log: Log
    ) -> tuple[int, tuple[str, ...]]:
        """Run the program on the prepared upper directory `key`."""
        async with AsyncExitStack() as stack:
            prepared = await stack.enter_async_context(self._mounts.prepared(step, sources))
            record = self._record(key, step, prepared.env)
            exit_ = await once_more(lambda: self._life(record, prepared, log))
        if exit_.reason:
            raise Internal(f"the end of a build step was not seen: {exit_.reason}")
        return exit_.code, prepared.stubs

    def _record(self, key: str, step: ops.Run, secrets: dict[str, str]) -> Record:
        asked = self._options
        network = step.network or (DEFAULT if self._context.settings.default_network.there else "none")
        insecure = step.security == "insecure"
        maps = userns.NONE if insecure else userns.of_the_daemon(self._context.settings.userns_remap)
        given = dict(self._proxies)
        given |= dict(entry.partition("=")[::2] for entry in step.env) | secrets
        return Record(
            id=key,
            name=f"build-{key[:12]}",
            created_ns=time.time_ns(),
            image_id="",
            image="",
            config=ContainerConfig(
                cmd=step.args,
                env=tuple(f"{name}={value}" for name, value in given.items()),
                user=step.user,
                working_dir=step.cwd,
                hostname=step.hostname or "build",
            ),
            host=HostConfig(
                network_mode=network,
                privileged=insecure,
                device_requests=(DeviceRequest(driver="cdi", device_ids=step.devices),) if step.devices else (),
                extra_hosts=step.extra_hosts,
                shm_size=step.shm_size,
                memory=asked.memory,
                memory_swap=asked.memory_swap,
                cpu_shares=asked.cpu_shares,
                cpu_period=asked.cpu_period,
                cpu_quota=asked.cpu_quota,
                cpuset_cpus=asked.cpuset_cpus,
                cpuset_mems=asked.cpuset_mems,
                cgroup_parent=asked.cgroup_parent,
                ulimits=asked.ulimits,
            ),
            path=step.args[0],
            args=step.args[1:],
            endpoints={} if spec.lender(network) else {network: EndpointSettings()},
            uid_map=maps.uids,
            gid_map=maps.gids,
        )

    async def _life(self, record: Record, prepared: Prepared, log: Log) -> Exit:
        async with AsyncExitStack() as stack:
            return await self._whole_life(record, prepared, log, stack)

    async def _whole_life(self, record: Record, prepared: Prepared, log: Log, stack: AsyncExitStack) -> Exit:
        context, identity = self._context, record.id
        ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._containers.waiting[identity] = ended
        stack.callback(self._containers.waiting.pop, identity, None)
        attached = self._attachments.plan(record)
        stack.callback(self._attachments.release, identity, attached)
        launch = _with_mounts(self._launcher.launch(record, attached), prepared)
        process = await context.runtime.create(launch)
        stack.push_async_callback(self._remove, identity, ended)
        stack.callback(process.close)
        async with self._output(identity, log):
            named = self._attachments.naming.begin(record, attached, process.pidfd)
            try:
                interfaces = self._attachments.attach(record, attached, process.pid)
                if named is not None:
                    await named
            except CoveError:
                process.check()  # of two reasons, the one that came first: a process that ended has no namespace
                raise
            await process.go(interfaces)
            return await ended  # as the supervisor reports it, with the output complete

    async def _remove(self, identity: str, ended: asyncio.Future[Exit]) -> None:
        """Nothing of it writes any more when this returns; once it has ended, what is left of it may go later."""
        removal = self._context.runtime.delete(identity)
        if ended.done():
            self._containers.remove(removal)
        else:
            await removal

    @asynccontextmanager
    async def _output(self, identity: str, log: Log) -> AsyncIterator[None]:
        """Within, what the program writes goes to `log`; at the end, all of it has."""
        directory = self._context.data.container(identity).log
        follower = LogFollower(LogReader(directory, hold=True), self._containers.watcher)

        async def pass_on() -> None:
            async with aclosing(follower.chunks()) as chunks:
                async for chunk in chunks:
                    log(chunk.stream, bytes(chunk.data))

        task = asyncio.ensure_future(pass_on())
        try:
            yield
        finally:
            follower.finish()
            await asyncio.gather(task, return_exceptions=True)


def _with_mounts(launch: Launch, prepared: Prepared) -> Launch:
    """The launch with the step's own mounts, on a root that need not survive a power failure."""
    assert launch.rootfs is not None
    mounts = prepared.mounts
    if launch.spec.linux is not None and launch.spec.linux.uid_mappings:
        mounts = tuple(_mapped(mount) for mount in mounts)
    whole = msgspec.structs.replace(launch.spec, mounts=(*launch.spec.mounts, *mounts))
    rootfs = msgspec.structs.replace(launch.rootfs, options=(*launch.rootfs.options, "volatile"))
    return msgspec.structs.replace(launch, spec=whole, rootfs=rootfs)


def _mapped(mount: Mount) -> Mount:
    """With its owners as on disk, for a container with ids of its own."""
    if mount.type != "bind":
        return mount
    return msgspec.structs.replace(mount, options=(*mount.options, "idmap"))


def proxies(arguments: dict[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """The proxy variables of a build's programs: its arguments', else the daemon's own environment."""
    given = {name.lower(): value for name, value in arguments.items() if value}
    return {name: value for name in names if (value := given.get(name.lower()) or os.environ.get(name, ""))}
