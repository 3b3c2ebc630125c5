"""At a daemon's start: what was asked for, what is running, and what is left over are made to agree.

    rows ∧ running     adopted: descriptors, addresses and ports taken up again
    rows ∧ exited      the exit recorded, the restart policy asked
    rows ∧ nothing     it ended unseen (a reboot): recorded as 255 with that reason, the policy asked
    running ∧ no row   a create or a remove was cut short: ended and deleted
    files ∧ no row     deleted

Everything here may run again after a crash in the middle of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import time

from cove.engine.containers import restarts
from cove.engine.containers.launch import cgroup_of
from cove.engine.containers.lifecycle import Lifecycle
from cove.engine.containers.registry import Container, Registry
from cove.engine.containers.removal import Removal
from cove.engine.context import Context
from cove.engine.networks.attachments import Attachments
from cove.engine.networks.joining import Joining
from cove.engine.tasks import Tasks
from cove.errors import CoveError
from cove.runtime.messages import Exit, Status
from cove.runtime.newborn import Process

_log = logging.getLogger("cove.engine")
UNSEEN = 255
_REASON = "it ended while neither daemon nor supervisor was running, so nobody saw its exit code"


class Recovery:
    """Runs once before the first request, and in part after each death of a supervisor."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        attachments: Attachments,
        lifecycle: Lifecycle,
        joining: Joining,
        removal: Removal,
        tasks: Tasks,
    ) -> None:
        self._joining = joining
        self._context = context
        self._registry = registry
        self._attachments = attachments
        self._lifecycle = lifecycle
        self._removal = removal
        self._tasks = tasks

    async def run(self) -> None:
        """Bring everything up to date; a container that cannot be recovered stops nothing else."""
        damaged = self._registry.load()
        for identity in damaged:
            _log.error("the record of container %s cannot be read; it is left alone", identity)
        statuses = {status.id: status for status in await self._context.runtime.list()}
        running: list[Container] = []
        ended: list[tuple[Container, Exit]] = []
        idle: list[Container] = []
        for container in self._registry:
            status = statuses.pop(container.id, None)
            if status is not None and status.phase in ("running", "paused"):
                if await self._adopt(container, status):
                    running.append(container)
            elif container.facts.running:
                if status is None:  # a reboot; or its files were lost, and it may live unseen
                    await self._context.runtime.delete(container.id, cgroup=cgroup_of(container, self._context))
                ended.append((container, _exit_of(status)))
            else:
                if status is not None:
                    await self._context.runtime.delete(container.id)
                idle.append(container)
        with self._context.firewall.settle():
            self._attachments.restore(running, self._registry.set_aside)
        for container in running:
            await self._finish(container)
        for identity in statuses:
            if identity not in damaged:
                _log.info("deleting the leftovers of container %s", identity)
                await self._context.runtime.delete(identity)
        for container in running:
            for heard in self._lifecycle.on_start:
                heard(container)
        for container, exit_ in ended:
            await self._settle(container, exit_)
        await self._context.executors.disk(self._sweep, set(damaged))
        for container in idle:
            await self._resume(container)

    async def _adopt(self, container: Container, status: Status) -> bool:
        """Take up a container that runs."""
        try:
            pidfd, other = await self._context.runtime.stdio(container.id)
        except CoveError as error:
            _log.warning("container %s could not be adopted: %s", container.name, error.message)
            return False
        container.process = adopted(status, pidfd, other)
        phase = status.phase
        if phase == "paused" and container.facts.phase == "running":
            # Nobody asked for that: a daemon died while it copied something of a container that stood still for it.
            await self._context.runtime.freeze(container.id, False)
            phase = "running"
        changes: dict[str, object] = {"phase": phase, "pid": status.pid}
        if not container.facts.running:
            changes |= {"wanted": "running", "started_ns": int(status.started_at * 1e9) or time.time_ns()}
        self._registry.note(container, **changes)
        container.started.set()
        return True

    async def _finish(self, container: Container) -> None:
        try:
            await self._joining.finish(container)
        except CoveError as error:
            _log.warning("container %s did not leave a network wholly: %s", container.name, error.message)

    async def _settle(self, container: Container, exit_: Exit) -> None:
        try:
            async with container.lock:
                await self._lifecycle.settle(container, exit_)
                if container.record.host.auto_remove and container.facts.phase == "exited":
                    await self._removal.remove(container, volumes=True)
        except CoveError as error:
            _log.error("container %s: %s", container.name, error.message)

    async def _resume(self, container: Container) -> None:
        """What does not run and did not run: start it if its policy says so."""
        facts, policy = container.facts, container.record.host.restart_policy
        if container.record.host.auto_remove and facts.phase != "created":
            async with container.lock:
                await self._removal.remove(container, volumes=True)
            return
        if facts.phase == "restarting":
            self._registry.note(container, phase="exited")
            self._tasks.begin(self._start(container), f"restart {container.name}")
        elif restarts.after_reboot(policy, facts):
            self._tasks.begin(self._start(container), f"start {container.name}")

    async def _start(self, container: Container) -> None:
        await asyncio.sleep(0)
        await self._lifecycle.start(container.id)

    def _sweep(self, keep: set[str]) -> None:
        """Directories of containers that there are not."""
        for name in os.listdir(self._context.data.containers):
            if self._registry.get(name) is None and name not in keep:
                self._context.snapshots.remove(name)
                shutil.rmtree(self._context.data.container(name).root, ignore_errors=True)

    async def after_reconnect(self) -> None:
        """A new supervisor took over: learn what ended while there was none."""
        before = [(each, each.facts.started_ns) for each in self._registry if each.facts.running]
        statuses = {status.id: status for status in await self._context.runtime.list()}
        same = [each for each, start in before if each.facts.running and each.facts.started_ns == start]
        for container in same:
            status = statuses.get(container.id)
            if status is None:
                await self._context.runtime.delete(container.id, cgroup=cgroup_of(container, self._context))
            if status is None or status.phase == "exited":
                self._lifecycle.exited(container.id, _exit_of(status))


def _exit_of(status: Status | None) -> Exit:
    if status is not None and status.exit is not None:
        return status.exit
    return Exit(code=UNSEEN, at=time.time(), reason=_REASON)


def adopted(status: Status, pidfd: int, other: int | None) -> Process:
    """The Process of a container that an earlier daemon started: past its barrier, so its sync is closed."""
    sync = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sync.close()
    fds = (pidfd,) if other is None else (pidfd, other)
    return Process(status.pid, fds, sync, terminal=status.terminal)
