"""Sends the output of containers to the log servers they name.

    container ──▶ its log on this host ──▶ Forwarder (one a container) ──▶ Sink
                                           └─ containers/<id>/forwarded: what the server has

The log is what waits: while a server is away nothing is lost that the log still holds, and a new daemon goes on where
the last one stopped (what was sent in the last second may come twice). A server that is slow slows the container
down, unless `mode=non-blocking`; one that is away does not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec

from cove.engine.containers.records import Record
from cove.engine.containers.registry import Container
from cove.engine.context import Context
from cove.engine.logs import options
from cove.engine.logs.entries import Entry, Sink
from cove.engine.tasks import Tasks
from cove.errors import Unavailable
from cove.runtime.logs.follow import LogFollower, LogWatcher
from cove.runtime.logs.reader import BEGINNING, Chunk, Cursor, LineJoiner, LogReader
from cove.runtime.logs.writer import segments
from cove.store.files import write_atomic

_log = logging.getLogger("cove.engine")
_LONGEST = 16 << 10
_SAVED_EVERY = 1.0
_LAST_WORDS = 5.0
"""Seconds that a removed container's output may take to be sent."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class Forwarder:
    """One container's output on its way, through all its lives."""

    def __init__(self, record: Record, name: str, reader: LogReader, place: Path) -> None:
        self.sink: Sink = options.sink(record)
        self.reader = reader
        self.done = asyncio.Event()
        """Set while there is nothing left to send, and nothing to come."""
        self.ready = False
        """Whether the sink is open."""
        self.task: asyncio.Task[None] | None = None
        self._record = record
        self._name = name
        self._place: Path | None = place
        self._joiner = LineJoiner()
        self._waiting: list[Entry] = []
        self._follower: LogFollower | None = None
        self._sent = reader.cursor
        self._saved = reader.cursor
        self._saved_at = 0.0

    async def run(self, watcher: LogWatcher, before: asyncio.Task[None] | None, *, ended: bool) -> None:
        """Send what one life of the container writes; `before` sends that of the life before it."""
        self.done.clear()
        try:
            if before is not None:
                await asyncio.wait((before,))
            await self._follow(watcher, ended=ended)
        except asyncio.CancelledError:
            if before is not None:
                before.cancel()
            raise
        finally:
            self.save()
            self.done.set()

    async def _follow(self, watcher: LogWatcher, *, ended: bool) -> None:
        hold = self._record.host.log_config.config.get("mode") != "non-blocking"
        self.reader = LogReader(self.reader.directory, self.reader.cursor, hold=hold)
        self._follower = LogFollower(self.reader, watcher)
        if ended:
            self._follower.finish()
        async with aclosing(self._follower.chunks(merge=False)) as chunks:
            async for chunk in chunks:
                await self._send(self._joiner.feed(chunk))
        await self._send(list(self._joiner.flush()))

    def finish(self) -> None:
        """The container has ended, and its log is complete."""
        if self._follower is not None:
            self._follower.finish()

    def moved(self, log: Path) -> asyncio.Event:
        """The container was removed: its log lies there for now. The event says when it is sent, or given up."""
        self.reader.directory, self._place = log, None
        self.finish()
        if self.task is None or self.task.done():
            self.done.set()
        else:
            asyncio.get_running_loop().call_later(_LAST_WORDS, self.task.cancel)
        return self.done

    async def _send(self, lines: list[Chunk]) -> None:
        """All of them, however long it takes."""
        self._waiting = [entry for line in lines for entry in _entries(line)]
        pause, told = _FIRST_PAUSE, False
        while self._waiting:
            try:
                if not self.ready:
                    await self.sink.open()
                    self.ready = True
                await self.sink.send(self._waiting)
                self._waiting = []
                break
            except OSError as error:
                self.ready = False
                self.sink.close()
                self.reader.close()  # the container goes on, at the cost of its oldest output
                if not told:
                    _log.warning("the output of %s is not sent for now: %s", self._name, reason(error))
                told = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        if told:
            self._tell_of_loss()
        self._progress()

    def _tell_of_loss(self) -> None:
        there = segments(self.reader.directory)
        if there and there[0] > max(self.reader.cursor.segment, 1):
            _log.warning("output of %s was overwritten before its log server came back", self._name)

    def _progress(self) -> None:
        if self._joiner.empty:
            self._sent = self.reader.cursor
        now = asyncio.get_running_loop().time()
        if now - self._saved_at > _SAVED_EVERY:
            self._saved_at = now
            self.save()

    def save(self) -> None:
        """Write down what need not be sent again."""
        if self._joiner.empty and not self._waiting:
            self._sent = self.reader.cursor
        if self._place is not None and self._sent != self._saved:
            with suppress(OSError):
                write_atomic(self._place, msgspec.json.encode(self._sent), durable=False)
                self._saved = self._sent

    def close(self) -> None:
        """Let go of the server."""
        self.ready = False
        self.sink.close()
        self.reader.close()


class Forwarding:
    """The forwarders of all containers that want one."""

    def __init__(self, context: Context, tasks: Tasks) -> None:
        self._context = context
        self._tasks = tasks
        self._forwarders: dict[str, Forwarder] = {}
        self._watcher: LogWatcher | None = None

    async def prepare(self, container: Container) -> None:
        """Before the first start: reach the server. Later ones do without it. Raises Unavailable."""
        config = container.record.host.log_config
        if config.type not in options.SENT:
            return
        known = container.id in self._forwarders or self._context.data.container(container.id).forwarded.exists()
        forwarder = self._forwarder(container)
        if forwarder.ready or known or options.patient(config):
            return
        try:
            await forwarder.sink.open()
        except OSError as error:
            del self._forwarders[container.id]
            raise Unavailable(
                f"failed to create task for container: failed to initialize logging driver: {config.type}: "
                f"{reason(error)}"
            ) from None
        forwarder.ready = True

    def begin(self, container: Container) -> None:
        """A container has started, or runs when the daemon starts."""
        if container.record.host.log_config.type in options.SENT:
            self._run(container, ended=False)

    def end(self, container: Container) -> None:
        """A container has ended."""
        forwarder = self._forwarders.get(container.id)
        if forwarder is not None:
            forwarder.finish()

    def resume(self, container: Container) -> None:
        """At the daemon's start, a container that does not run: what the last daemon did not send of it."""
        if container.record.host.log_config.type in options.SENT and container.id not in self._forwarders:
            log = self._context.data.container(container.id).log
            there = segments(log)
            cursor = _remembered(self._context.data.container(container.id).forwarded)
            if there and _end(log, there[-1]) > cursor:
                self._run(container, ended=True)

    def moved(self, container_id: str, log: Path) -> list[asyncio.Event]:
        """A container was removed; see `Removal.moved`."""
        forwarder = self._forwarders.pop(container_id, None)
        if forwarder is None:
            return []
        done = forwarder.moved(log)
        self._tasks.begin(_close(forwarder, done), "closing a log server's connection")
        return [done]

    def close(self) -> None:
        """The daemon ends: what is not sent yet waits for the next one."""
        for forwarder in self._forwarders.values():
            forwarder.save()
            forwarder.close()
        if self._watcher is not None:
            self._watcher.close()

    def _run(self, container: Container, *, ended: bool) -> None:
        if self._watcher is None:
            self._watcher = LogWatcher()
        forwarder = self._forwarder(container)
        forwarder.reader.directory.mkdir(mode=0o700, exist_ok=True)
        work = forwarder.run(self._watcher, forwarder.task, ended=ended)
        forwarder.task = self._tasks.begin(work, f"sending the output of {container.name}")

    def _forwarder(self, container: Container) -> Forwarder:
        known = self._forwarders.get(container.id)
        if known is None:
            files = self._context.data.container(container.id)
            reader = LogReader(files.log, _remembered(files.forwarded))
            name = f"the container {container.name}"
            known = self._forwarders[container.id] = Forwarder(container.record, name, reader, files.forwarded)
        return known


def reason(error: OSError) -> str:
    """Why a server cannot be reached, in a few words."""
    words = error.strerror or str(error) or "it does not answer"
    return f"{error.filename}: {words}" if error.filename else words


def _entries(line: Chunk) -> Iterator[Entry]:
    """A line as entries of 16 KiB at most; an empty one is none, as with other engines."""
    data = line.data.removesuffix(b"\n")
    for start in range(0, len(data), _LONGEST):
        part = data[start : start + _LONGEST]
        yield Entry(line.stream, line.time_ns, part, partial=start + _LONGEST < len(data))


def _remembered(place: Path) -> Cursor:
    try:
        return msgspec.json.decode(place.read_bytes(), type=Cursor)
    except (OSError, msgspec.DecodeError):
        return BEGINNING


def _end(log: Path, number: int) -> Cursor:
    reader = LogReader(log)
    reader.seek_end()
    return max(reader.cursor, Cursor(number))


async def _close(forwarder: Forwarder, done: asyncio.Event) -> None:
    await done.wait()
    forwarder.close()
