"""One exec and its client's end: the process's output as a stream, what the client types, the reason of a failure.

    StartingAttachment ── output first asked for ──▶ ExecAttachment | FailedAttachment

Which execs there are, and who starts them, is `execs`'.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from cove.engine.containers.framing import STDERR, Detached, DetachKeys, frame
from cove.engine.containers.registry import Container
from cove.engine.descriptors import read_some, write_all
from cove.runtime.newborn import Process as Running
from cove.wire import execs as wire


class Exec(msgspec.Struct):
    """One exec: asked for, then running, then ended. `ended` carries its exit code."""

    id: str
    container: Container
    asked: wire.ExecCreateRequest
    running: bool = False
    exit_code: int | None = None
    pid: int = 0
    process: Running | None = None
    ended: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    stirred: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class ExecAttachment:
    """The client's end of an exec. `streams` are read ends by stream number; a terminal's is its pty.

    `tty`: whether the client, when it started it, said that it wants a terminal's bare bytes; else its output
    comes in frames, even a terminal's.
    """

    def __init__(
        self, exec_: Exec, streams: dict[int, int], stdin: int | None, keys: DetachKeys | None, *, tty: bool
    ) -> None:
        self.tty = tty
        self._exec = exec_
        self._streams = streams
        self._stdin = stdin
        self._keys = keys
        self._closed = False

    async def output(self) -> AsyncIterator[bytes]:
        """Ends when the process has ended and all its output was passed on."""
        loop, stirred = asyncio.get_running_loop(), self._exec.stirred
        for descriptor in self._streams.values():
            loop.add_reader(descriptor, stirred.set)
        while self._streams or not self._exec.ended.is_set():
            last = self._exec.ended.is_set()
            stirred.clear()
            quiet = True
            for stream, descriptor in tuple(self._streams.items()):
                data = read_some(descriptor)
                if data:
                    quiet = False
                    yield data if self.tty else frame(stream, data)
                elif data is not None:
                    self._drop(stream)
            if quiet and last:
                break
            if quiet and not self._exec.ended.is_set():
                await stirred.wait()

    def _drop(self, stream: int) -> None:
        descriptor = self._streams.pop(stream)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)

    async def write(self, data: bytes) -> None:
        """What the client typed; raises Detached on the detach keys."""
        detached = False
        if self._keys is not None:
            data, detached = self._keys.feed(data)
        if data and self._stdin is not None:
            await write_all(self._stdin, data)
        if detached:
            raise Detached

    async def close_stdin(self) -> None:
        """End of file for the process; a terminal has none but the user's own Ctrl-D."""
        if self._stdin is not None and not self._exec.asked.tty:
            os.close(self._stdin)
            self._stdin = None

    async def close(self) -> None:
        """The client is gone: what the process still writes is read and thrown away."""
        if self._closed:
            return
        self._closed = True
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
        loop = asyncio.get_running_loop()
        for stream, descriptor in tuple(self._streams.items()):
            loop.remove_reader(descriptor)
            if self._exec.ended.is_set():
                self._drop(stream)
            else:
                loop.add_reader(descriptor, self._discard, stream)

    def _discard(self, stream: int) -> None:
        descriptor = self._streams.get(stream)
        if descriptor is not None and read_some(descriptor) == b"":
            self._drop(stream)


class FailedAttachment:
    """What a client gets whose process could not be started: the reason, and the end."""

    def __init__(self, reason: str, *, tty: bool) -> None:
        self.tty = tty
        self._reason = f"{reason}\r\n".encode()

    async def output(self) -> AsyncIterator[bytes]:
        yield self._reason if self.tty else frame(STDERR, self._reason)

    async def write(self, data: bytes) -> None:
        """Nobody reads it."""

    async def close_stdin(self) -> None:
        """It is closed already."""

    async def close(self) -> None:
        """Nothing is held."""


class StartingAttachment:
    """An exec that starts when its output is first asked for: the client has its answer's head by then.

    Clients read the head through a buffer and the stream behind it without one, so output that came along with
    the head would be lost to them.
    """

    def __init__(self, start: Callable[[], Awaitable[ExecAttachment | FailedAttachment]], *, tty: bool) -> None:
        self.tty = tty
        self._start = start
        self._started: asyncio.Future[ExecAttachment | FailedAttachment] = asyncio.get_running_loop().create_future()

    async def output(self) -> AsyncIterator[bytes]:
        """Start it, then as ExecAttachment; the reason, if it cannot be started."""
        attachment = await self._start()
        self._started.set_result(attachment)
        async for data in attachment.output():
            yield data

    async def write(self, data: bytes) -> None:
        """What the client typed, even before the process was there; raises Detached on the detach keys."""
        await (await asyncio.shield(self._started)).write(data)

    async def begun(self) -> None:
        """Until it was started, or could not be."""
        await asyncio.shield(self._started)

    async def close_stdin(self) -> None:
        """End of file for the process."""
        await (await asyncio.shield(self._started)).close_stdin()

    async def close(self) -> None:
        """The client is gone."""
        if self._started.done():
            await self._started.result().close()
