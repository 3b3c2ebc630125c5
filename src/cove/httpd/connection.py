"""One connection of one client: HTTP/1.1 by h11 on an asyncio transport.

Owns keep-alive, pipelining, back-pressure in both directions, Expect: 100-continue, hijacking and
what happens when the client goes away. It never knows a path or a resource.

    data_received ─▶ h11 ─▶ _serve (one task a connection)
                              loop: request ─▶ app ─▶ reply ─▶ next cycle
                              hijacked: head sent raw, then Channel.read / Channel.write

The client is gone when its side of the socket ends while a request is being answered. A request
that only watches (GET, HEAD, or one whose reply is a stream) is cancelled then; one that changes something runs to
its end, so that no half-done work hangs on a client's patience.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import socket
import termios
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Protocol

import h11

from cove import __version__
from cove.errors import CoveError, InvalidArgument
from cove.httpd import checks
from cove.httpd.messages import App, Disconnected, Hijack, Refusal, Reply, Request, Response, Span, Stream

_log = logging.getLogger(__name__)

_HIGH_WATER = 256 << 10
"""Bytes received ahead of the reader before the transport is paused."""

_DRAIN_LIMIT = 1 << 20
_PIECE = 4 << 20
"""Bytes of a file between two looks at whether the client still takes them."""
_READ = 256 << 10
_LINGER_SECONDS = 2.0
_HEAD_LOOKS, _HEAD_PAUSE = 250, 0.001
_SERVER = f"Cove/{__version__} (linux)"
_WATCHING = frozenset({"GET", "HEAD"})


class Owner(Protocol):
    """What a connection tells the server that made it."""

    connections: set[Connection]
    half_closed: set[Connection]

    refusal: Refusal

    @property
    def app(self) -> App: ...


class Connection(asyncio.Protocol):
    """Also the Channel of a hijacked connection."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=checks.MAX_HEADER)
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]
        self._arrived: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._ahead = 0
        self._paused = False
        self._eof = False
        self._lost = False
        self._hijacked = False
        self._head_unread = False
        self._raw: list[bytes] = []
        self.busy = False
        self.watching = False
        self.waiting_since: float | None = None
        """Since when (monotonic) the client has given or taken nothing, although it is its turn."""
        self.head_since: float | None = None
        """Since when a request's line and headers have begun to come, and are not there yet."""

    # ── what the transport says ───────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._owner.connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self._hijacked:
            self._raw.append(data)
        else:
            self._http.receive_data(data)
            if self.head_since is None and not self.busy:
                self.head_since = time.monotonic()
        self._ahead += len(data)
        if self._ahead > _HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """True keeps the sending side open: the client may have only finished talking."""
        self._eof = True
        if not self._hijacked:
            self._http.receive_data(b"")
            if self.watching and not self._http.trailing_data[0]:
                self._task.cancel()
        self._wake()
        if self._transport.get_extra_info("sslcontext") is not None:
            return False
        self._owner.half_closed.add(self)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._eof = True
        self._owner.connections.discard(self)
        self._owner.half_closed.discard(self)
        self._wake()
        self.resume_writing()
        if self.watching:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def hung_up(self) -> bool:
        """Whether the client closed both directions, which an end of file alone does not tell."""
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        poller = select.poll()
        poller.register(sock.fileno(), 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poller.poll(0))

    # ── what the server asks ──────────────────────────────────────────────────────────────────────

    def refuse_late(self) -> None:
        """End the wait for a request's head, with a word to whoever listens."""
        reply = self._owner.refusal(InvalidArgument("The request took too long to come"))
        self._send_head(Response(status=408), [("Content-Length", str(len(reply.body))), ("Connection", "close")])
        self._send(h11.Data(data=reply.body))
        self._transport.close()
        self._task.cancel()

    def abort(self) -> None:
        """Drop the connection and whatever it watches."""
        self._transport.abort()

    def stop(self) -> asyncio.Task[None]:
        """End after the request that is being answered, at once if there is none."""
        if not self.busy:
            self._transport.close()
            self._task.cancel()
        return self._task

    def cancel(self) -> None:
        self._task.cancel()

    # ── Channel ───────────────────────────────────────────────────────────────────────────────────

    async def read(self) -> bytes:
        while not self._raw:
            if self._eof:
                return b""
            await self._wait_for_data()
        data = b"".join(self._raw)
        self._raw.clear()
        self._drained()
        return data

    async def write(self, data: bytes) -> None:
        if self._head_unread:
            self._head_unread = False
            await self._head_taken()
        if self._lost:
            raise Disconnected
        self._transport.write(data)
        await self._room()

    async def _head_taken(self) -> None:
        """Until a client on a unix socket has read the head of a hijacked answer, for a quarter of a second.

        Some read the head through a buffer and what follows without one: output that arrived with it was lost.
        """
        sock = self._transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            return
        for _ in range(_HEAD_LOOKS):
            if self._lost or not any(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))):
                return
            await asyncio.sleep(_HEAD_PAUSE)

    # ── the cycle ─────────────────────────────────────────────────────────────────────────────────

    async def _serve(self) -> None:
        try:
            while await self._cycle():
                pass
        except (Disconnected, asyncio.CancelledError):
            _log.debug("a client went away")
        except Exception:
            _log.exception("a connection failed")
        finally:
            self._transport.close()

    async def _cycle(self) -> bool:
        """Answer one request; whether another may follow."""
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            await self._refuse(error)
            return False
        self.head_since = None
        if not isinstance(event, h11.Request):
            return False
        if (why := checks.objection(event)) is not None:
            await self._refuse(why)
            return False
        self.busy = True
        try:
            await self._answer(event)
        finally:
            self.busy = self.watching = False
        if self._hijacked or not await self._finish_body():
            return False
        self._http.start_next_cycle()
        return True

    async def _answer(self, event: h11.Request) -> None:
        request = Request(
            method=event.method.decode("ascii"),
            target=checks.origin_form(event.target.decode("latin-1")),
            headers={name.decode("ascii"): value.decode("latin-1") for name, value in event.headers},
            body=self._body(),
            peer=self._peer(),
            secure=self._transport.get_extra_info("sslcontext") is not None,
        )
        if request.method in _WATCHING:
            self._watch()
        try:
            reply = await self._owner.app(request)
        except CoveError as error:
            reply = self._owner.refusal(error)
        except Disconnected:
            raise
        except Exception as error:
            _log.exception("%s %s failed", request.method, request.target)
            reply = self._owner.refusal(error)
        await self._perform(reply, head_only=request.method == "HEAD")

    def _peer(self) -> str:
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    def _watch(self) -> None:
        self.watching = True
        if self._lost:
            self._task.cancel()

    async def _perform(self, reply: Reply, *, head_only: bool) -> None:
        match reply:
            case Response():
                length = [] if reply.status in (204, 304) else [("Content-Length", str(len(reply.body)))]
                self._send_head(reply, length)
                if not head_only and reply.body and length:
                    self._send(h11.Data(data=reply.body))
                self._send(h11.EndOfMessage())
                await self._room()
            case Stream():
                await self._perform_stream(reply, head_only=head_only)
            case Span():
                with reply.file:
                    await self._perform_span(reply, head_only=head_only)
            case Hijack():
                await self._perform_hijack(reply)

    async def _perform_stream(self, reply: Stream, *, head_only: bool) -> None:
        self._watch()
        async with _closing(reply.chunks):
            self._send_head(reply, [] if reply.length is None else [("Content-Length", str(reply.length))])
            await self._room()
            if not head_only:
                async for chunk in reply.chunks:
                    if chunk:
                        self._send(h11.Data(data=chunk))
                        await self._room()
        self._send(h11.EndOfMessage())
        await self._room()

    async def _perform_span(self, reply: Span, *, head_only: bool) -> None:
        self._watch()
        self._send_head(reply, [("Content-Length", str(reply.count))])
        if not head_only and reply.count:
            self._http.send_with_data_passthrough(h11.Data(data=_Counted(reply.count)))  # type: ignore[arg-type]
            done = 0
            while done < reply.count:
                done += await self._send_piece(reply, reply.start + done, min(_PIECE, reply.count - done))
        self._send(h11.EndOfMessage())
        await self._room()

    async def _send_piece(self, reply: Span, start: int, count: int) -> int:
        """Some bytes of a file, without a copy where there is no TLS. Raises Disconnected."""
        if self._transport.get_extra_info("sslcontext") is not None:
            data = os.pread(reply.file.fileno(), min(count, _READ), start)
            if not data:
                raise Disconnected  # the file is shorter than was announced: only a broken connection says so
            self._transport.write(data)
            await self._room()
            return len(data)
        if self._lost:
            raise Disconnected
        self.waiting_since = time.monotonic()
        try:
            sent = await asyncio.get_running_loop().sendfile(self._transport, reply.file, start, count)
        except (OSError, RuntimeError) as error:
            raise Disconnected from error
        finally:
            self.waiting_since = None
        if not sent:
            raise Disconnected
        return sent

    async def _perform_hijack(self, reply: Hijack) -> None:
        async for _ in self._body():
            pass
        left, ended = self._http.trailing_data
        self._hijacked = True
        self._eof = self._eof or ended
        self._raw = [left] if left else []
        self._watch()
        await self.write(reply.head)
        self._head_unread = True
        await reply.run(self)
        await self._linger()

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer what is no HTTP, and let the answer be read."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        reason = InvalidArgument(f"This is no request of HTTP/1.1: {checks.said(error)}")
        status = error.error_status_hint or 400
        reply = self._owner.refusal(reason)
        self._send_head(
            Response(status=status, body=reply.body),
            [("Content-Length", str(len(reply.body))), ("Connection", "close")],
        )
        self._send(h11.Data(data=reply.body))
        self._send(h11.EndOfMessage())
        await self._linger()

    # ── bodies ────────────────────────────────────────────────────────────────────────────────────

    async def _body(self) -> AsyncIterator[bytes]:
        """The request's body as it comes; the client is told to go on when it waits to be told."""
        while self._http.their_state is h11.SEND_BODY:
            if self._http.they_are_waiting_for_100_continue and self._http.our_state is h11.SEND_RESPONSE:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                event = await self._next_event()
            except h11.RemoteProtocolError as error:
                if self._lost:
                    raise Disconnected from error
                if self._eof:
                    raise InvalidArgument("The request's body ends too early: the client stopped in it") from error
                raise InvalidArgument(f"The request's body is no valid HTTP: {checks.said(error)}") from error
            match event:
                case h11.Data():
                    yield bytes(event.data)
                case h11.EndOfMessage():
                    return
                case _:
                    raise Disconnected

    async def _finish_body(self) -> bool:
        """Read what the application left unread; whether the connection can serve on."""
        if self._http.our_state is not h11.DONE or self._http.they_are_waiting_for_100_continue:
            await self._linger()
            return False
        left = 0
        while self._http.their_state is h11.SEND_BODY:
            try:
                event = await self._next_event()
            except h11.RemoteProtocolError:
                return False
            left += len(event.data) if isinstance(event, h11.Data) else 0
            if left > _DRAIN_LIMIT:
                await self._linger()
                return False
        return self._http.their_state is h11.DONE

    async def _linger(self) -> None:
        """Stop sending, and throw away what still comes, so that the client can read our last word."""
        if self._lost or not self._transport.can_write_eof():
            return
        with contextlib.suppress(OSError):  # the client may have hung up in this very moment
            self._transport.write_eof()
        self._hijacked = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while await self.read():
                    pass

    # ── below ─────────────────────────────────────────────────────────────────────────────────────

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                assert not isinstance(event, type) or event is h11.PAUSED
                return event
            if self._lost:
                raise Disconnected
            self._drained()
            await self._wait_for_data()

    async def _wait_for_data(self) -> None:
        self._arrived = asyncio.get_running_loop().create_future()
        self.waiting_since = time.monotonic()
        try:
            await self._arrived
        finally:
            self._arrived = self.waiting_since = None

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _drained(self) -> None:
        self._ahead = 0
        if self._paused and not self._lost:
            self._paused = False
            self._transport.resume_reading()

    def _send_head(self, reply: Response | Stream | Span, extra: list[tuple[str, str]]) -> None:
        headers = [("Server", _SERVER), *reply.headers, *extra]
        if reply.status not in (204, 304):
            headers.append(("Content-Type", reply.content_type))
        phrase = HTTPStatus(reply.status).phrase
        self._send(h11.Response(status_code=reply.status, headers=headers, reason=phrase))

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data and not self._lost:
            self._transport.write(data)

    async def _room(self) -> None:
        """Wait until the client has read enough. Raises Disconnected when it is gone."""
        if self._writable is not None:
            self.waiting_since = time.monotonic()
            await asyncio.shield(self._writable)
            self.waiting_since = None
        if self._lost:
            raise Disconnected


class _Counted:
    """Stands for bytes that h11 counts and never sees."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


@contextlib.asynccontextmanager
async def _closing(chunks: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """Close a generator of chunks, which runs its `finally` now and not some day."""
    try:
        yield
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
