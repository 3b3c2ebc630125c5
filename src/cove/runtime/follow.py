"""Following a log as it grows, in the daemon: attach and `logs -f` are readers of files like any other.

    LogWatch (one inotify descriptor for all)  ──▶ wakes each Follower of a directory that changed
    Follower: read what is there ─▶ wait ─▶ read on … until `finish()` was called and nothing is left

The supervisor takes no part in it, so that neither its death nor a slow client ever holds up a container.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from cove.kernel import inotify
from cove.runtime.logs import Chunk, LogReader

_MOMENT = 0.5


class LogWatch:
    """Tells followers that their log's directory changed. One for each event loop."""

    def __init__(self) -> None:
        self._fd = inotify.init()
        self._followers: dict[int, set[Follower]] = {}
        asyncio.get_running_loop().add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        for watch in inotify.read_watches(self._fd):
            for follower in self._followers.get(watch, ()):
                follower.wake()

    def follow(self, directory: Path, reader: LogReader) -> Follower:
        """Follow from the reader's cursor on. The directory is made if the container never ran."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        watch = inotify.add_watch(self._fd, str(directory), inotify.IN_MODIFY | inotify.IN_CREATE)
        follower = Follower(self, watch, reader)
        self._followers.setdefault(watch, set()).add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Called by Follower.close."""
        followers = self._followers.get(follower.watch, set())
        followers.discard(follower)
        if not followers and self._followers.pop(follower.watch, None) is not None:
            inotify.remove_watch(self._fd, follower.watch)

    def close(self) -> None:
        """Stop; followers see nothing new any more."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)


class Follower:
    """One reader of a growing log. `finish` says that no more will be written; then `chunks` ends."""

    def __init__(self, owner: LogWatch, watch: int, reader: LogReader) -> None:
        self.watch = watch
        self._owner = owner
        self._reader = reader
        self._event = asyncio.Event()
        self._finished = False

    def wake(self) -> None:
        """Something happened in the directory."""
        self._event.set()

    def finish(self) -> None:
        """The container has exited and its log is complete."""
        self._finished = True
        self._event.set()

    async def chunks(
        self, *, streams: frozenset[int] = frozenset({1, 2}), until_ns: int = 0, merge: bool = True
    ) -> AsyncIterator[Chunk]:
        """What is written from the reader's cursor on, until `finish`."""
        while True:
            last = self._finished
            self._event.clear()
            for chunk in self._reader.read(streams=streams, until_ns=until_ns, merge=merge):
                yield chunk
            if last:
                return
            if not self._event.is_set():
                await self._sleep()

    async def _sleep(self) -> None:
        """Until something happens, or a moment has passed: before kernel 6.5, splice(2) into a file is no event."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), _MOMENT)

    def close(self) -> None:
        """Stop following; to be called in any case."""
        self._owner.leave(self)
