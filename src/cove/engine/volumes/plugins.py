"""Volumes that plugins keep: asked in threads, mounted by their plugin for as long as somebody uses them.

    hold(volumes, user) ─▶ place(name) … ─▶ release(volumes, user)

Owns where a plugin has mounted what. The records are `cove.engine.volumes.service`'; who uses a volume is told by the
text `user`, which is the same at both ends, so that a new daemon can release what an old one held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from cove.engine.containers.records import VolumeRecord
from cove.engine.context import Context
from cove.errors import CoveError, Internal, NotFound, Unavailable
from cove.oci.spec import Mount
from cove.volume.plugin import QUICK, PluginDriver, Volume

T = TypeVar("T")
_START = 16.0
"""Seconds that a plugin has for its own start."""
_log = logging.getLogger("cove.engine")


class PluginVolumes:
    """The use cases of volume plugins."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._places: dict[str, str] = {}

    async def driver(self, name: str) -> PluginDriver:
        """The plugin, NotFound without one."""
        return await self._context.executors.bulk(self._context.volume_plugins.driver, name)

    async def create(self, driver: str, name: str, options: dict[str, str]) -> None:
        """Have a volume made, or find that it is there."""
        await self._context.executors.bulk((await self.driver(driver)).create, name, options)

    async def remove(self, record: VolumeRecord) -> None:
        """Have a volume deleted."""
        await self._context.executors.bulk((await self.driver(record.driver)).remove, record.name)
        self._places.pop(record.name, None)

    async def look(self, driver: str, name: str) -> tuple[Volume, str]:
        """What a plugin knows of a volume, and its scope."""
        plugin = await self.driver(driver)
        found = await self._context.executors.bulk(plugin.get, name)
        return found, await self._context.executors.bulk(plugin.scope)

    async def having(self, name: str) -> str:
        """The plugin that has a volume of this name, "" when none has, or none that answers says so."""
        names = self._context.volume_plugins.names()
        answers = await asyncio.gather(*(self.has(each, name) for each in names))
        return next((each for each, has in zip(names, answers, strict=True) if has), "")

    async def has(self, driver: str, name: str) -> bool:
        """Whether a plugin has a volume of this name, as far as it answers."""
        with suppress(CoveError):
            await self._asked(driver, lambda plugin: plugin.get(name))
            return True
        return False

    async def _asked(self, driver: str, question: Callable[[PluginDriver], T]) -> T:
        """What a plugin answers within seconds; Unavailable when it does not."""

        def ask() -> T:
            return question(self._context.volume_plugins.driver(driver, QUICK))

        try:
            async with asyncio.timeout(QUICK):
                return await self._context.executors.bulk(ask)
        except TimeoutError:
            raise Unavailable(
                f"The volume plugin {driver} does not answer within {QUICK:.0f} s; its volumes are left out"
            ) from None

    async def all(self) -> tuple[dict[str, tuple[Sequence[Volume], str]], tuple[str, ...]]:
        """Every plugin's volumes and its scope; and why some could not be asked."""
        names = self._context.volume_plugins.names()
        asked = (self._asked(name, lambda plugin: (plugin.list(), plugin.scope())) for name in names)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found: dict[str, tuple[Sequence[Volume], str]] = {}
        complaints = []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, CoveError):
                complaints.append(answer.message)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[name] = answer
        return found, tuple(complaints)

    async def hold(self, volumes: Iterable[VolumeRecord], user: str) -> None:
        """Have volumes mounted for `user`; all of them or none."""
        held: list[VolumeRecord] = []
        try:
            for record in volumes:
                self._places[record.name] = await self._mounted(record, user)
                held.append(record)
        except BaseException:
            await self.release(held, user)
            raise

    async def _mounted(self, record: VolumeRecord, user: str) -> str:
        """Where a plugin has mounted a volume; one that is being started itself, as at boot, is waited for."""
        patience = asyncio.get_running_loop().time() + _START
        pause = 1.0
        while True:
            try:
                plugin = await self.driver(record.driver)
                return await self._context.executors.bulk(plugin.mount, record.name, user)
            except (NotFound, Unavailable) as error:
                if isinstance(error, NotFound) and record.driver in self._context.volume_plugins.names():
                    raise
                if asyncio.get_running_loop().time() + pause > patience:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    async def release(self, volumes: Iterable[VolumeRecord], user: str) -> None:
        """`user` needs them no more. What the plugin says to that changes nothing for the container that ended."""
        for record in volumes:
            try:
                plugin = await self.driver(record.driver)
                await self._context.executors.bulk(plugin.unmount, record.name, user)
            except CoveError as error:
                _log.warning("the volume %s is not released: %s", record.name, error.message)

    def place(self, name: str) -> str:
        """The directory that a plugin last had a volume in, "" for none."""
        return self._places.get(name, "")

    def mount(self, record: VolumeRecord, destination: str, options: tuple[str, ...]) -> Mount:
        """The bind of a volume that is held."""
        place = self.place(record.name)
        if not place:
            raise Internal(f"The volume {record.name} is not mounted by its plugin {record.driver}; start it again")
        return Mount(destination=destination, source=place, type="bind", options=("rbind", *options))
