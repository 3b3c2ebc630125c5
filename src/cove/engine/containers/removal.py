"""The end of a container: everything it has goes, or nothing does.

    row deleted ──▶ directory renamed to tmp/ ──▶ answered ──▶ tmp/ emptied in the background, once those who
                                                               read its output have all of it

A crash after the first step leaves a directory without a row, which recovery removes; what lies in tmp/ is
emptied at every start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.telling import tell
from cove.engine.volumes.service import VolumeService
from cove.errors import CoveError, Internal, describe
from cove.wire.containers import WaitResponse

_log = logging.getLogger("cove.engine")


class Removal:
    """Removes a container that has no processes; the caller holds its lock."""

    def __init__(self, context: Context, registry: Registry, volumes: VolumeService) -> None:
        self._context = context
        self._registry = registry
        self._volumes = volumes
        self._sweeps: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self.moved: Callable[[str, Path], list[asyncio.Event]] = lambda _, __: []
        """Told where a log was moved to; gives events that are set when its readers have it."""

    async def remove(self, container: Container, *, volumes: bool) -> None:
        """Remove it, with its anonymous volumes if asked; raises Internal when the disk refuses."""
        container.removing = True
        container.summary = None
        try:
            doomed = await self._forget(container)
        except (OSError, Internal) as error:
            container.removing = False
            why = describe(error) if isinstance(error, OSError) else error.message
            raise Internal(f"The container {container.name} could not be removed: {why}") from error
        readers = self.moved(container.id, doomed / self._context.data.container(container.id).log.name)
        if container.record.host.storage_opt:
            self._context.projects.release(doomed / "upper")
        tell(self._context.events, container, "destroy")
        for future in container.gone + container.ended:
            if not future.done():
                future.set_result(WaitResponse(status_code=container.facts.exit_code))
        task = asyncio.get_running_loop().create_task(self._sweep(doomed, readers))
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)
        if volumes:
            await self._sweep_volumes(container)

    def _set_aside(self, identity: str) -> Path:
        doomed = self._context.data.tmp / f"removed-{identity}"
        with suppress(FileNotFoundError):
            os.rename(self._context.data.container(identity).root, doomed)
        return doomed

    async def _sweep_volumes(self, container: Container) -> None:
        for mount in container.record.mounts:
            if mount.anonymous and mount.type == "volume":
                with suppress(CoveError):
                    await self._volumes.remove(mount.name, force=True)

    async def _sweep(self, doomed: Path, readers: list[asyncio.Event]) -> None:
        if readers:
            read = asyncio.gather(*(each.wait() for each in readers))
            closing = asyncio.ensure_future(self._closing.wait())
            await asyncio.wait((read, closing), return_when=asyncio.FIRST_COMPLETED)
            for each in (read, closing):
                each.cancel()
        await self._context.executors.disk(shutil.rmtree, doomed, ignore_errors=True)

    async def _forget(self, container: Container) -> Path:
        """Its row goes, then its files; on a full disk the files first, as they give their room back."""
        try:
            self._registry.drop(container)
        except Internal:
            doomed = self._set_aside(container.id)
            await self._context.executors.disk(shutil.rmtree, doomed, ignore_errors=True)
            self._registry.drop(container)
            return doomed
        try:
            return self._set_aside(container.id)
        except OSError as error:
            _log.warning("the files of container %s are deleted where they are: %s", container.name, describe(error))
            return self._context.data.container(container.id).root

    async def close(self) -> None:
        """Let sweeps that have begun come to their end; slow readers are not waited for."""
        self._closing.set()
        await asyncio.gather(*self._sweeps, return_exceptions=True)
