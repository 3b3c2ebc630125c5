"""The transitions of a container, each in one function, one at a time by the container's lock.

    created ──start──▶ running ⇄ paused
       ▲                  │ exit: `_settle`
       │                  ▼
     (failed start)    exited ──start──▶ running      restarting = exited, and a timer will start it

`start` is one straight line; whatever fails undoes what was done. `_settle` is the only one who says that
a container ended, and it hears that from the supervisor alone. A stop says what it wants, sends a signal and
waits for `_settle`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TypeVar

from cove.engine.containers import restarts, signals
from cove.engine.containers.launch import Launcher, new_cgroup
from cove.engine.containers.records import Attached
from cove.engine.containers.registry import Container, Registry
from cove.engine.containers.removal import Removal
from cove.engine.context import Context
from cove.engine.networks.attachments import Attachments
from cove.engine.tasks import Tasks
from cove.engine.telling import tell
from cove.engine.volumes.service import VolumeService
from cove.errors import Conflict, CoveError, InvalidArgument, NotModified, StartFailed
from cove.runtime.messages import Exit
from cove.runtime.newborn import Process, once_more
from cove.wire.containers import WaitResponse

_SIGKILL, _SIGTERM = 9, 15
_KILL_PATIENCE = 10.0
_T = TypeVar("_T")


class Lifecycle:
    """Start, stop and all between. `watchers` hear of each start and each end (health checks do)."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        launcher: Launcher,
        attachments: Attachments,
        removal: Removal,
        volumes: VolumeService,
        tasks: Tasks,
    ) -> None:
        self._context = context
        self._registry = registry
        self._launcher = launcher
        self._attachments = attachments
        self._removal = removal
        self._volumes = volumes
        self._tasks = tasks
        self.prepare: Callable[[Container], Awaitable[None]] | None = None
        """Asked before each start; what it raises is why there is none."""
        self.on_start: list[Callable[[Container], None]] = []
        self.on_end: list[Callable[[Container], None]] = []

    # ── start ─────────────────────────────────────────────────────────────────────────────────────

    async def start(self, ref: str) -> None:
        """Start a container; NotModified when it runs, Conflict in another state, StartFailed otherwise."""
        container = self._registry.find(ref)
        async with container.lock:
            self._check_startable(container)
            try:
                await self._start(container, restarts=0)
            except CoveError:
                if container.record.host.auto_remove:
                    await self._removal.remove(container, volumes=True)
                raise

    def _check_startable(self, container: Container) -> None:
        if container.removing or self._registry.get(container.id) is None:
            raise Conflict("container is marked for removal and cannot be started")
        if container.facts.phase == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        if container.facts.phase == "running":
            raise NotModified(f"Container {container.name} is already running")

    async def _start(self, container: Container, *, restarts: int) -> None:
        """The straight line; the caller holds the lock."""
        try:
            if self.prepare is not None:
                await self.prepare(container)
            attached, process = await self._unless_removed(container, once_more(lambda: self._bring_up(container)))
        except StartFailed as error:
            message = f"failed to create task for container: {error.message}: unknown"
            await self._not_started(container, message, error.exit_code)
            raise StartFailed(message, stage=error.stage, errno=error.errno, exit_code=error.exit_code) from error
        except CoveError as error:
            await self._not_started(container, error.message, 128)
            raise
        except Exception as error:  # a mistake of ours: whoever waits for the end of a --rm would wait for ever
            await self._not_started(container, f"{type(error).__name__}: {error}", 128)
            raise
        container.process = process
        container.began = time.monotonic()
        container.stopping = False
        self._registry.note(
            container,
            phase="running",
            wanted="running",
            pid=process.pid,
            cgroup=new_cgroup(container.record, self._context),
            started_ns=time.time_ns(),
            exit_code=0,
            error="",
            oom_killed=False,
            memory_peak=0,
            restarts=restarts,
            attached=attached,
        )
        container.started.set()
        self._volumes.use.tell(container.record.mounts, container.id, "mount")
        self._attachments.tell(container.id, attached, "connect")
        tell(self._context.events, container, "start")
        for heard in self.on_start:
            heard(container)

    async def _not_started(self, container: Container, message: str, code: int) -> None:
        """Keep the reason; a container that was to go with its end goes now, and whoever waits for that is told."""
        self._registry.note(container, error=message, exit_code=code, wanted="stopped")
        if container.record.host.auto_remove:
            await self._removal.remove(container, volumes=True)

    async def _unless_removed(self, container: Container, start: Awaitable[_T]) -> _T:
        """What `start` brings; Conflict when somebody ends it meanwhile, as only a removal by force does."""
        container.starting = task = asyncio.current_task()
        try:
            return await start
        except asyncio.CancelledError:
            if task is None or container.starting is not None:
                raise
            task.uncancel()
            raise Conflict(f"the container {container.name} is removed while it starts") from None
        finally:
            container.starting = None

    async def _bring_up(self, container: Container) -> tuple[Attached, Process]:
        """Everything that a run has; all of it or nothing."""
        container.attempts += 1
        async with AsyncExitStack() as undo:
            brought = await self._brought_up(container, undo)
            undo.pop_all()
        return brought

    async def _brought_up(self, container: Container, undo: AsyncExitStack) -> tuple[Attached, Process]:
        record = container.record
        attached = self._attachments.plan(record)
        undo.callback(self._attachments.release, record.id, attached)
        await self._volumes.use.hold(record.mounts, record.id)
        undo.push_async_callback(self._volumes.use.release, record.mounts, record.id)
        launch = self._launcher.launch(record, attached)
        undo.push_async_callback(self._context.runtime.delete, record.id)
        process = await self._context.runtime.create(launch)
        undo.push_async_callback(process.abort)
        named = self._attachments.naming.begin(record, attached, process.pidfd)
        try:
            interfaces = self._attachments.attach(record, attached, process.pid)
            if named is not None:
                await named
        except CoveError:
            process.check()  # of two reasons, the one that came first: a process that ended has no namespace
            raise
        await process.go(interfaces)
        return attached, process

    # ── end ───────────────────────────────────────────────────────────────────────────────────────

    def exited(self, identity: str, exit_: Exit) -> None:
        """The supervisor's word that a first process ended and that its log is complete."""
        container = self._registry.get(identity)
        if container is not None:
            self._tasks.begin(self._settle(container, exit_, container.attempts), f"settle {container.name}")

    def out_of_memory(self, identity: str) -> None:
        """The kernel killed something in a container for its memory limit."""
        container = self._registry.get(identity)
        if container is not None and container.facts.running:
            self._registry.note(container, oom_killed=True)
            tell(self._context.events, container, "oom")

    async def _settle(self, container: Container, exit_: Exit, attempt: int) -> None:
        async with container.lock:
            if not container.facts.running or attempt != container.attempts:
                return
            await self.settle(container, exit_)
        if container.record.host.auto_remove and container.facts.phase == "exited" and not container.restarting:
            await self._remove_automatically(container)

    async def settle(self, container: Container, exit_: Exit) -> None:
        """Record an end and give back what the run held; the caller holds the lock."""
        facts, record = container.facts, container.record
        container.started.clear()
        for heard in self.on_end:
            heard(container)
        self._attachments.release(record.id, facts.attached)
        finished = int(exit_.at * 1e9) or time.time_ns()
        began, container.began = container.began, None
        # The clock on the wall may be set while a container runs, which shall not look like a long run or none.
        ran = time.monotonic() - began if began is not None else max(0.0, (finished - facts.started_ns) / 1e9)
        pause = None
        if not container.stopping:
            pause = restarts.pause(record.host.restart_policy, facts, exit_code=exit_.code, ran=ran)
        self._registry.note(
            container,
            phase="exited" if pause is None else "restarting",
            pid=0,
            exit_code=exit_.code,
            memory_peak=exit_.memory_peak,
            error=exit_.reason,
            finished_ns=finished,
            oom_killed=facts.oom_killed or exit_.oom,
            restarts=facts.restarts if pause is None else facts.restarts + 1,
            attached=Attached(),
        )
        tell(
            self._context.events,
            container,
            "die",
            exitCode=str(exit_.code),
            execDuration=str(int(ran)),
        )
        self._volumes.use.tell(record.mounts, record.id, "unmount")
        self._attachments.tell(container.id, facts.attached, "disconnect")
        resolve(container.ended, WaitResponse(status_code=exit_.code))
        process, container.process = container.process, None
        if process is not None:
            process.close()
        await self._context.runtime.delete(record.id)
        await self._volumes.use.release(record.mounts, record.id)
        if pause is not None:
            self._tasks.begin(self._restart_after(container, pause), f"restart {container.name}")

    async def _restart_after(self, container: Container, pause: float) -> None:
        await asyncio.sleep(pause)
        async with container.lock:
            if container.facts.phase != "restarting" or container.removing:
                return
            try:
                await self._start(container, restarts=container.facts.restarts)
            except CoveError:
                code = container.facts.exit_code
                self._registry.note(container, phase="exited", finished_ns=time.time_ns())
                resolve(container.ended, WaitResponse(status_code=code))

    async def _remove_automatically(self, container: Container) -> None:
        async with container.lock:
            if container.facts.phase == "exited" and self._registry.get(container.id) is container:
                await self._removal.remove(container, volumes=True)

    # ── stop ──────────────────────────────────────────────────────────────────────────────────────

    async def stop(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:
        """Ask the first process to end, insist after `timeout` seconds (-1: never); NotModified if it is not on."""
        container = self._registry.find(ref)
        if not container.facts.running and container.facts.phase != "restarting":
            raise NotModified(f"Container {container.name} is already stopped")
        number = signals.parse(signal or container.record.config.stop_signal or "SIGTERM")
        if await self._stop(container, number, timeout):
            tell(self._context.events, container, "stop")
        else:
            raise NotModified(f"Container {container.name} is already stopped")

    async def _stop(self, container: Container, number: int, timeout: int | None) -> bool:
        """Whether there was something to stop; returns when it has ended."""
        async with container.lock:
            if container.facts.phase == "restarting":
                self._registry.note(container, phase="exited", wanted="stopped")
                resolve(container.ended, WaitResponse(status_code=container.facts.exit_code))
                return True
            if not container.facts.running:
                return False
            container.stopping = True
            self._registry.note(container, wanted="stopped")
            ended = self._watch(container.ended)
            with suppress(Conflict):  # it has ended by itself; `settle` is about to say so
                await self._signal(container, number)
        patience = self._patience(container, timeout)
        if not await _within(ended, patience):
            await self._kill(container)
            if not await _within(ended, _KILL_PATIENCE):
                raise Conflict(
                    f"The container {container.name} did not end within {_KILL_PATIENCE:.0f} seconds of SIGKILL; "
                    "a process in it waits for a device or a network file system"
                )
        async with container.lock:  # until `settle` has given everything back
            return True

    def _patience(self, container: Container, timeout: int | None) -> float | None:
        seconds = timeout if timeout is not None else container.record.config.stop_timeout
        if seconds is None:
            seconds = self._context.settings.stop_timeout
        return None if seconds < 0 else float(seconds)

    async def _signal(self, container: Container, number: int) -> None:
        """To the first process; a paused container is resumed so that it can hear it."""
        runtime = self._context.runtime
        tell(self._context.events, container, "kill", signal=str(number))
        await runtime.signal(container.id, number)
        if container.facts.phase == "paused":
            await runtime.freeze(container.id, False)
            self._registry.note(container, phase="running")
            tell(self._context.events, container, "unpause")

    async def _kill(self, container: Container) -> None:
        async with container.lock:
            if container.facts.running:
                with suppress(Conflict):  # it ended meanwhile
                    await self._signal(container, _SIGKILL)

    async def halt(self, container: Container) -> None:
        """Kill it and wait until it has ended, end its start if that is under way; for removal by force."""
        task, container.starting = container.starting, None
        if task is not None:
            task.cancel()
        elif container.facts.running or container.facts.phase == "restarting":
            await self._stop(container, _SIGKILL, int(_KILL_PATIENCE))

    async def restart(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:
        """Stop if it runs, then start."""
        container = self._registry.find(ref)
        number = signals.parse(signal or container.record.config.stop_signal or "SIGTERM")
        container.restarting = True
        try:
            if await self._stop(container, number, timeout):
                tell(self._context.events, container, "stop")
        finally:
            container.restarting = False
        async with container.lock:
            self._check_startable(container)
            await self._start(container, restarts=0)
        tell(self._context.events, container, "restart")

    async def kill(self, ref: str, *, signal: str = "") -> None:
        """Send a signal; one that means to end it also forgets the restart policy. SIGKILL waits for the end."""
        container = self._registry.find(ref)
        number = signals.parse(signal or "SIGKILL")
        async with container.lock:
            if not container.facts.running:
                raise Conflict(f"cannot kill container: {ref}: container {container.id} is not running")
            own = signals.parse(container.record.config.stop_signal or "SIGTERM")
            if number in (_SIGKILL, own):
                container.stopping = True
                self._registry.note(container, wanted="stopped")
            ended = self._watch(container.ended)
            await self._signal(container, number)
        if number == _SIGKILL and await _within(ended, _KILL_PATIENCE):
            async with container.lock:  # until `settle` has given everything back
                return

    async def pause(self, ref: str) -> None:
        """Freeze all its processes."""
        container = self._registry.find(ref)
        async with container.lock:
            self._require_running(container)
            if container.facts.phase == "paused":
                raise Conflict(f"Container {container.id} is already paused")
            await self._context.runtime.freeze(container.id, True)
            self._registry.note(container, phase="paused")
        tell(self._context.events, container, "pause")

    async def unpause(self, ref: str) -> None:
        """Resume its processes."""
        container = self._registry.find(ref)
        async with container.lock:
            self._require_running(container)
            if container.facts.phase != "paused":
                raise Conflict(f"Container {container.id} is not paused")
            await self._context.runtime.freeze(container.id, False)
            self._registry.note(container, phase="running")
        tell(self._context.events, container, "unpause")

    def _require_running(self, container: Container) -> None:
        if not container.facts.running:
            raise Conflict(f"Container {container.id} is not running")

    # ── wait ──────────────────────────────────────────────────────────────────────────────────────

    def wait(self, ref: str, *, condition: str = "") -> Awaitable[WaitResponse]:
        """Registered at once: an end after this returns is seen. Conditions as in the API."""
        container = self._registry.find(ref)
        if condition in ("", "not-running"):
            if not container.facts.running and container.facts.phase != "restarting":
                done: asyncio.Future[WaitResponse] = asyncio.get_running_loop().create_future()
                done.set_result(WaitResponse(status_code=container.facts.exit_code))
                return done
            return self._watch(container.ended)
        if condition == "next-exit":
            return self._watch(container.ended)
        if condition == "removed":
            return self._watch(container.gone)
        raise InvalidArgument(f'invalid condition: "{condition}"')

    def _watch(self, list_: list[asyncio.Future[WaitResponse]]) -> asyncio.Future[WaitResponse]:
        future: asyncio.Future[WaitResponse] = asyncio.get_running_loop().create_future()
        list_.append(future)
        future.add_done_callback(lambda done: list_.remove(done) if done in list_ else None)
        return future


def resolve(waiting: list[asyncio.Future[WaitResponse]], response: WaitResponse) -> None:
    """Tell everyone who waits."""
    for future in tuple(waiting):
        if not future.done():
            future.set_result(response)
    waiting.clear()


async def _within(future: asyncio.Future[WaitResponse], seconds: float | None) -> bool:
    """Whether it came in time; it is not given up when it did not."""
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)
