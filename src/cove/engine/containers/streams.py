"""A container's input and output for clients: attach, logs, terminal size.

Output comes from the log files, followed as they grow; the supervisor takes no part in it, so a slow client
holds up nobody. Input goes to the FIFO or the terminal whose end the daemon holds.

    attach ──▶ follower at the log's end ──▶ frames … ──▶ the container ended and its log is read to the end
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

from cove.engine.containers.framing import Detached, DetachKeys, frame, parse_keys
from cove.engine.containers.lifecycle import Lifecycle
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.descriptors import write_all
from cove.engine.logs.entries import attributes
from cove.engine.logs.options import readable
from cove.engine.telling import tell
from cove.errors import Conflict, Unsupported
from cove.runtime.logs.follow import LogFollower, LogWatcher
from cove.runtime.logs.reader import Chunk, LogReader, lines
from cove.wire.containers import WaitResponse
from cove.wire.times import moment, stamp

__all__ = ["Attachment", "Detached", "LogStream", "Streams"]

_BATCH = 64
_FEW = 32 << 10
_FIRST_WORDS = 0.1
"""Seconds after its start in which a container that has said nothing yet is given the time to."""
_SLOW_CLIENT = 1.0
"""Seconds that somebody who waits for a container's end is kept from it by a client that does not read its output."""


class Attachment:
    """One client of a container; `output`, `write` and `close_stdin` go on side by side."""

    def __init__(
        self,
        streams: Streams,
        container: Container,
        reader: LogReader | None,
        wanted: frozenset[int],
        *,
        stdin: bool,
        keys: bytes,
        framed: bool,
    ) -> None:
        self.tty = container.record.config.tty
        self.reader = reader
        self._framed = framed and not self.tty
        self._streams = streams
        self._container = container
        self._follower = streams.follow(reader) if reader is not None else None
        self._wanted = wanted
        self._stdin = stdin
        self._keys = DetachKeys(keys) if self.tty else None
        self._closed = asyncio.Event()
        self.done = asyncio.Event()
        """Set once the client has all of it, or is gone."""

    async def output(self) -> AsyncIterator[bytes]:
        """What it writes; with no output wanted, it ends when the container does."""
        if self._follower is None:
            await self._closed.wait()
            return
        async with aclosing(self._follower.chunks(streams=self._wanted)) as chunks:
            async for chunk in chunks:
                yield frame(chunk.stream, chunk.data) if self._framed else chunk.data

    async def write(self, data: bytes) -> None:
        """What the client typed, once the container runs; raises Detached on the detach keys."""
        if not self._stdin:
            return
        detached = False
        if self._keys is not None:
            data, detached = self._keys.feed(data)
        if data:
            await self._streams.feed(self._container, data)
        if detached:
            tell(self._streams.context.events, self._container, "detach")
            raise Detached

    async def close_stdin(self) -> None:
        """The client sends no more; a container that wants only one client's input reads end of file."""
        if self._stdin:
            self._stdin = False
            await self._streams.end_input(self._container)

    async def close(self) -> None:
        """The client is gone."""
        self.finish()
        self.done.set()
        self._streams.forget(self._container, self)
        if self._stdin and not self.tty:
            self._stdin = False
            if self._container.started.is_set():
                await self._streams.end_input(self._container)

    def finish(self) -> None:
        """The container ended."""
        self._closed.set()
        if self._follower is not None:
            self._follower.finish()


class LogStream:
    """What a container wrote, and with `follower` what it goes on to write. `until` ends it in any case."""

    def __init__(
        self,
        streams: Streams,
        container: Container,
        reader: LogReader,
        *,
        follow: bool,
        wanted: frozenset[int],
        since: int,
        until: int,
        tail: int | None,
        timestamps: bool,
        details: str,
        by_line: bool,
    ) -> None:
        self.tty = container.record.config.tty
        self.reader = reader
        self.done = asyncio.Event()
        self._streams = streams
        self._container = container
        self._follower = streams.follow(reader) if follow else None
        self._wanted = wanted
        self._since = since
        self._until = until
        self._tail = tail
        self._stamps = timestamps
        self._details = details.encode()
        self._by_line = by_line
        self._midline: set[int] = set()

    async def output(self) -> AsyncIterator[bytes]:
        """Reading is done in steps, between which others have their turn."""
        marked = self._stamps or bool(self._details)
        if self._follower is None:
            read = self.reader.read(
                streams=self._wanted,
                since_ns=self._since,
                until_ns=self._until,
                tail=self._tail,
                merge=not marked,
            )
            for number, chunk in enumerate(lines(read) if marked else read):
                yield self._render(chunk)
                if number % _BATCH == _BATCH - 1:
                    await asyncio.sleep(0)
            return
        if self._until:
            left = max(0.0, (self._until - time.time_ns()) / 1e9)
            asyncio.get_running_loop().call_later(left, self._follower.finish)
        following = self._follower.chunks(
            streams=self._wanted, since_ns=self._since, until_ns=self._until, tail=self._tail, merge=not marked
        )
        async with aclosing(following) as chunks:
            async for chunk in chunks:
                yield self._render(chunk)

    def _render(self, chunk: Chunk) -> bytes:
        data = self._marked(chunk) if self._stamps or self._details else chunk.data
        if self.tty:
            return data
        if self._by_line or len(data) <= _FEW:  # some clients take a frame for a line; a large log is read faster
            return b"".join(frame(chunk.stream, line) for line in data.splitlines(keepends=True))
        return frame(chunk.stream, data)

    def _marked(self, chunk: Chunk) -> bytes:
        """Each line with its time before it; a line that comes in pieces has the time of its first one."""
        mark = (f"{stamp(chunk.time_ns)} ".encode() if self._stamps else b"") + self._details
        out = bytearray()
        for line in chunk.data.splitlines(keepends=True):
            if chunk.stream not in self._midline:
                out += mark
            out += line
            if line.endswith(b"\n"):
                self._midline.discard(chunk.stream)
            else:
                self._midline.add(chunk.stream)
        return bytes(out)

    def finish(self) -> None:
        """The container ended."""
        if self._follower is not None:
            self._follower.finish()

    async def close(self) -> None:
        """To be called in any case."""
        self.finish()
        self.done.set()
        self._streams.forget(self._container, self)
        if self._follower is None:
            self.reader.close()


class Streams:
    """The use cases of streams."""

    def __init__(self, context: Context, registry: Registry, lifecycle: Lifecycle) -> None:
        self.context = context
        self._registry = registry
        self._lifecycle = lifecycle
        self._watch: LogWatcher | None = None
        self._live: dict[str, set[Attachment | LogStream]] = {}
        self._ends: dict[Attachment | LogStream, asyncio.Future[WaitResponse]] = {}

    def forget(self, container: Container, stream: Attachment | LogStream) -> None:
        """A stream was closed; nothing of it waits for the container's end."""
        if (end := self._ends.pop(stream, None)) is not None:
            end.cancel()
        live = self._live.get(container.id, set())
        live.discard(stream)
        if not live:
            self._live.pop(container.id, None)

    async def delivered(self, container_id: str) -> None:
        """Wait until those who are attached to a container that ended have its output; not for long.

        Clients take the answer to a wait for the sign that they have read everything.
        """
        live = [each.done.wait() for each in self._live.get(container_id, ()) if isinstance(each, Attachment)]
        if live:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SLOW_CLIENT):
                    await asyncio.gather(*live)

    def moved(self, container_id: str, log: Path) -> list[asyncio.Event]:
        """Its log lies elsewhere now: let those who read it go on there. The events say when each has all of it."""
        live = self._live.get(container_id, ())
        for each in live:
            if each.reader is not None:
                each.reader.directory = log
        return [each.done for each in live]

    def follow(self, reader: LogReader) -> LogFollower:
        """A follower from the reader's cursor on; a container that never ran gets its empty log now."""
        if self._watch is None:
            self._watch = LogWatcher()
        reader.directory.mkdir(mode=0o700, exist_ok=True)
        return LogFollower(reader, self._watch)

    def close(self) -> None:
        """Stop watching logs."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def attach(
        self,
        ref: str,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        stream: bool = True,
        logs: bool = False,
        detach_keys: str = "",
        framed: bool = True,
    ) -> Attachment:
        """Join a client to a container, which may not have started yet. Nothing written from now on is missed.

        `framed`: tell its streams apart, unless it has a terminal.
        """
        container = self._registry.find(ref)
        if container.facts.phase == "paused":
            raise Conflict(f"Container {ref} is paused, unpause the container before attach")
        if container.facts.phase == "restarting":
            raise Conflict(f"Container {ref} is restarting, wait until the container is running")
        keys = parse_keys(detach_keys)
        wanted = frozenset(number for number, want in ((1, stdout), (2, stderr)) if want)
        if container.record.config.tty:  # a terminal has one output
            wanted = frozenset({1, 2} if stdout else ())
        reader = self._reader(container, hold=True) if wanted else None
        if reader is not None and not logs:
            reader.seek_end()
        attachment = Attachment(
            self,
            container,
            reader,
            wanted,
            stdin=stdin and stream and container.record.config.open_stdin,
            keys=keys,
            framed=framed,
        )
        self._live.setdefault(container.id, set()).add(attachment)
        if stream:
            self._at_end(container, attachment)
        else:
            attachment.finish()
        tell(self.context.events, container, "attach")
        return attachment

    def _reader(self, container: Container, *, hold: bool = False) -> LogReader:
        return LogReader(self.context.data.container(container.id).log, hold=hold)

    def _at_end(self, container: Container, stream: Attachment | LogStream) -> None:
        """Let a stream finish when the container has ended for good."""
        end = asyncio.ensure_future(self._lifecycle.wait(container.id, condition="next-exit"))
        end.add_done_callback(lambda _: stream.finish())
        self._ends[stream] = end

    async def logs(
        self,
        ref: str,
        *,
        stdout: bool,
        stderr: bool,
        follow: bool = False,
        since: str = "",
        until: str = "",
        timestamps: bool = False,
        tail: str = "all",
        details: bool = False,
    ) -> LogStream:
        """What a container wrote; Unsupported when its log driver keeps nothing to read."""
        container = self._registry.find(ref)
        if not readable(container.record.host.log_config):
            raise Unsupported("configured logging driver does not support reading")
        if not follow:
            await self._first_words(container)
        count = int(tail) if tail.isdecimal() else None
        now = time.time_ns()
        alive = container.facts.running or container.facts.phase == "restarting"
        wanted = frozenset(number for number, want in ((1, stdout), (2, stderr)) if want)
        stream = LogStream(
            self,
            container,
            self._reader(container),
            follow=follow and alive,
            wanted=wanted,
            since=moment(since, now_ns=now) if since not in ("", "0") else 0,
            until=moment(until, now_ns=now) if until not in ("", "0") else 0,
            tail=count,
            timestamps=timestamps,
            details=_details(container) if details else "",
            by_line=follow,
        )
        self._live.setdefault(container.id, set()).add(stream)
        if follow and alive:
            self._at_end(container, stream)
        return stream

    async def _first_words(self, container: Container) -> None:
        """Scripts read the logs right after a start, which answers before the program has come to its first line."""
        if container.began is None or not container.facts.running or self._reader(container).has_any():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(container.began + _FIRST_WORDS - time.monotonic()):
                await self._lifecycle.wait(container.id, condition="next-exit")

    async def resize(self, ref: str, *, height: int, width: int) -> None:
        """New size of a terminal."""
        container = self._registry.find(ref)
        if not container.facts.running:
            raise Conflict(f"Container {container.id} is not running")
        await self.context.runtime.resize(container.id, height=height, width=width)
        tell(self.context.events, container, "resize", height=str(height), width=str(width))

    # ── input ─────────────────────────────────────────────────────────────────────────────────────

    async def feed(self, container: Container, data: bytes) -> None:
        """Write to a container's stdin, waiting for its start if need be."""
        descriptor = await self._input(container)
        if descriptor is not None:
            try:
                await write_all(descriptor, data)
            finally:
                os.close(descriptor)

    async def _input(self, container: Container) -> int | None:
        """A duplicate of the end to write to, so that the container's end closes nothing under a writer."""
        await container.started.wait()
        process = container.process
        if process is None:
            return None
        held = process.pty_fd if container.record.config.tty else process.stdin_fd
        if held is None:
            return None
        own = os.dup(held)
        os.set_blocking(own, False)
        return own

    async def end_input(self, container: Container) -> None:
        """End of file on stdin, for a container that was made for one client (StdinOnce)."""
        if not container.record.config.stdin_once or container.record.config.tty:
            return
        await container.started.wait()
        process = container.process
        if process is not None and process.stdin_fd is not None:
            os.close(process.stdin_fd)
            process.stdin_fd = None
            await self.context.runtime.close_stdin(container.id)


def _details(container: Container) -> str:
    """The attributes that the user chose for the log lines, "key=value,…", and a space."""
    return ",".join(f"{key}={value}" for key, value in sorted(attributes(container.record).items())) + " "
