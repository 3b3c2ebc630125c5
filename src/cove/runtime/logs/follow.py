"""Following logs in the daemon: one inotify instance tells every follower when its log has grown.

    LogWatcher (one a daemon) ── inotify on each log directory ──▶ LogFollower ── reads on ──▶ async for chunk

A follower ends when it has been told that the container has exited (`finish`) and everything is read. The
supervisor has no part in it. A slow second look every second covers what a watch may miss.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from cove.kernel import inotify
from cove.runtime.logs.reader import BOTH, Chunk, LogReader
from cove.runtime.logs.writer import segments

_LOOK_AGAIN = 1.0
_MASK = inotify.MODIFY | inotify.CREATE


class LogWatcher:
    """Wakes followers; belongs to the event loop it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = inotify.open_instance()
        self._wakes: dict[int, set[asyncio.Event]] = {}
        self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Followers that are left look once a second from now on."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._wakes.clear()
        self._fd = -1

    def add(self, directory: Path, wake: asyncio.Event) -> int:
        """Set `wake` whenever something in `directory` is written or made; -1 when it cannot be watched."""
        if self._fd < 0:
            return -1
        try:
            watch = inotify.add_watch(self._fd, str(directory), _MASK)
        except OSError:
            return -1  # not there yet, or too many watches on this host: it is looked at every second
        self._wakes.setdefault(watch, set()).add(wake)
        return watch

    def remove(self, watch: int, wake: asyncio.Event) -> None:
        """The counterpart of `add`."""
        wakes = self._wakes.get(watch)
        if wakes is None:
            return
        wakes.discard(wake)
        if not wakes:
            del self._wakes[watch]
            inotify.remove_watch(self._fd, watch)

    def _readable(self) -> None:
        touched = set(inotify.events(self._fd))
        lost = -1 in touched
        for watch, wakes in self._wakes.items():
            if lost or watch in touched:
                for wake in wakes:
                    wake.set()


class LogFollower:
    """What a log holds from the reader's cursor on, and then whatever comes."""

    def __init__(self, reader: LogReader, watcher: LogWatcher) -> None:
        self._reader = reader
        self._watcher = watcher
        self._wake = asyncio.Event()
        self._finished = False

    def finish(self) -> None:
        """The container has exited and its log is complete: end when all of it is read."""
        self._finished = True
        self._wake.set()

    async def chunks(
        self,
        *,
        streams: frozenset[int] = BOTH,
        since_ns: int = 0,
        until_ns: int = 0,
        tail: int | None = None,
        merge: bool = True,
    ) -> AsyncGenerator[Chunk, None]:
        """As `LogReader.read`, without an end until `finish` (or until a record is later than `until_ns`)."""
        watch = self._watcher.add(self._reader.directory, self._wake)
        try:
            while True:
                self._wake.clear()
                last = self._finished
                for chunk in self._reader.read(
                    streams=streams, since_ns=since_ns, until_ns=until_ns, tail=tail, merge=merge
                ):
                    yield chunk
                    await asyncio.sleep(0)  # a flood leaves the loop to others
                tail = None if segments(self._reader.directory) else tail
                if last:
                    return
                if watch < 0:
                    watch = self._watcher.add(self._reader.directory, self._wake)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_AGAIN)
        finally:
            self._watcher.remove(watch, self._wake)
            self._reader.close()
