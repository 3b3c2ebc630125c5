"""One call of gRPC: metadata, messages both ways, a status at its end.

    client                                             server
      headers  :path /package.Service/Method  ───────▶  the method's handler, as a task of its own
      messages (5 bytes before each)  ◀──────────────▶  Call.receive, Call.send
      half close ─────────────────────────────────────▶ receive gives None
      ◀──────────────────────────── trailers: grpc-status

A client that goes away, or gives up a call, cancels its handler. Messages are not compressed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from cove.errors import trouble
from cove.grpc.http2 import Connection, Headers, Stream, StreamEnded
from cove.grpc.protobuf import Message, decode, encode
from cove.grpc.status import Code, RpcError, Status, ended, trailers
from cove.httpd.messages import Channel

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
Metadata = dict[str, list[str]]

MAX_MESSAGE = 32 << 20
_PREFIX = 5
_UNEXPECTED = "Cove failed in a way that it did not foresee; the reason is in the daemon's log"
_TYPE = "application/grpc"


class _Messages:
    """The frames of one direction of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._kept = bytearray()

    async def next(self) -> bytes | None:
        """The next message, None at the end. Raises StreamEnded or RpcError."""
        if not await self._fill(_PREFIX):
            return None
        if self._kept[0]:
            raise RpcError(Code.UNIMPLEMENTED, "the message is compressed, which nobody was told to do")
        length = int.from_bytes(self._kept[1:_PREFIX], "big")
        if length > MAX_MESSAGE:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"the message is longer than {MAX_MESSAGE} bytes")
        if not await self._fill(_PREFIX + length):
            raise StreamEnded("the last message is cut off")
        message = bytes(self._kept[_PREFIX : _PREFIX + length])
        del self._kept[: _PREFIX + length]
        return message

    async def _fill(self, size: int) -> bool:
        while len(self._kept) < size:
            data = await self._stream.read()
            if not data:
                if self._kept:
                    raise StreamEnded("the last message is cut off")
                return False
            self._kept += data
        return True


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _metadata(headers: Headers) -> Metadata:
    found: Metadata = {}
    for name, value in headers:
        if not name.startswith(":"):
            found.setdefault(name, []).append(value)
    return found


# ── serving ───────────────────────────────────────────────────────────────────────────────────────


class Call:
    """A call as its handler sees it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._messages = _Messages(stream)
        self._begun = False
        self.path = dict(stream.headers).get(":path", "")
        self.metadata = _metadata(stream.headers)

    async def receive(self, kind: type[M]) -> M | None:
        """The next message, None when the client has sent its last."""
        raw = await self._messages.next()
        return None if raw is None else decode(kind, raw)

    async def send(self, message: Message) -> None:
        await self._begin()
        await self._stream.send(framed(encode(message)))

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            await self._stream.send_headers([(":status", "200"), ("content-type", _TYPE)])

    async def end(self, status: Status) -> None:
        """The last word."""
        await self._begin()
        await self._stream.send_headers(trailers(status), end=True)


Handler = Callable[[Call], Awaitable[None]]
Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


def unary(kind: type[Q], function: Callable[[Call, Q], Awaitable[Message]]) -> Handler:
    """A method with one message each way."""

    async def handler(call: Call) -> None:
        await call.send(await function(call, await _one(call, kind)))

    return handler


def streaming(kind: type[Q], function: Callable[[Call, Q], AsyncIterator[Message]]) -> Handler:
    """A method that answers one message with many."""

    async def handler(call: Call) -> None:
        async with contextlib.aclosing(function(call, await _one(call, kind))) as answers:  # type: ignore[type-var]
            async for answer in answers:
                await call.send(answer)

    return handler


async def _one(call: Call, kind: type[Q]) -> Q:
    request = await call.receive(kind)
    if request is None:
        raise RpcError(Code.INVALID_ARGUMENT, f"{call.path} needs a message")
    return request


async def serve(channel: Channel, methods: Mapping[str, Handler]) -> None:
    """Serve a connection until the client ends it; what runs then is cancelled."""
    tasks: set[asyncio.Task[None]] = set()

    def accepted(stream: Stream) -> None:
        task = asyncio.ensure_future(_answer(Call(stream), methods))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: connection.forget(stream))
        stream.on_reset = task.cancel

    connection = Connection(channel, client=False, accepted=accepted)
    try:
        await connection.run()
    finally:
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(call: Call, methods: Mapping[str, Handler]) -> None:
    handler = methods.get(call.path)
    status = Status()
    try:
        if handler is None:
            raise RpcError(Code.UNIMPLEMENTED, f"Cove does not know the method {call.path}")
        await handler(call)
    except StreamEnded:
        return
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        status = Status(code=Code.CANCELLED, message="what the call waited for was given up")
    except Exception as error:
        refusal = RpcError.of(error, trouble(error) or _UNEXPECTED)
        if refusal.message == _UNEXPECTED:
            _log.exception("%s failed", call.path)
        status = refusal.status
    with contextlib.suppress(StreamEnded):
        await call.end(status)


# ── asking ────────────────────────────────────────────────────────────────────────────────────────


class Asked:
    """A call that we made."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._messages = _Messages(stream)

    async def send(self, message: Message) -> None:
        """Raises RpcError, with the peer's reason when it gave the call up."""
        try:
            await self._stream.send(framed(encode(message)))
        except StreamEnded as error:
            if self._stream.trailers:
                self._check()
            raise _session_ended(error) from error

    async def end(self) -> None:
        """We have sent our last message."""
        with contextlib.suppress(StreamEnded):
            await self._stream.send(b"", end=True)

    async def receive(self, kind: type[M]) -> M | None:
        """The next message; None at a good end. Raises RpcError."""
        try:
            await self._stream.opened()
            raw = await self._messages.next()
        except StreamEnded as error:
            raise _session_ended(error) from error
        if raw is not None:
            return decode(kind, raw)
        self._check()
        return None

    def _check(self) -> None:
        status = ended(_metadata(self._stream.trailers or self._stream.headers))
        if status.code != Code.OK:
            raise RpcError(status.code, status.message, status.details)

    async def close(self) -> None:
        """Give up what is not complete."""
        await self._stream.cancel()


class Client:
    """Asks whoever serves at the other end of a connection."""

    def __init__(self, channel: Channel, authority: str = "localhost") -> None:
        self._connection = Connection(channel, client=True)
        self._authority = authority

    async def run(self) -> None:
        """Until the connection ends."""
        await self._connection.run()

    @contextlib.asynccontextmanager
    async def call(self, path: str, metadata: Metadata | None = None) -> AsyncIterator[Asked]:
        """A call for the time of a `with`."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", _TYPE),
        ]
        headers += [(name, _header(name, value)) for name, values in (metadata or {}).items() for value in values]
        try:
            stream = await self._connection.open(headers)
        except StreamEnded as error:
            raise _session_ended(error) from error
        asked = Asked(stream)
        try:
            yield asked
        finally:
            await asked.close()

    async def unary(self, path: str, request: Message, kind: type[M]) -> M:
        """One message for one message. Raises RpcError."""
        async with self.call(path) as asked:
            await asked.send(request)
            await asked.end()
            answer = await asked.receive(kind)
            if answer is None:
                raise RpcError(Code.INTERNAL, f"{path} answered nothing")
            return answer


def _session_ended(error: StreamEnded) -> RpcError:
    return RpcError(Code.UNAVAILABLE, f"the client's session ended: {error}")


def _header(name: str, value: str) -> str:
    """Names that end in -bin have bytes."""
    if not name.endswith("-bin"):
        return value
    return base64.b64encode(value.encode("utf-8", "surrogateescape")).decode().rstrip("=")
