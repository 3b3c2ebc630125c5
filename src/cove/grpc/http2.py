"""One HTTP/2 connection over a channel: streams that read and write, with flow control in both directions.

    channel.read ─▶ h2 ─▶ events ─▶ Stream: headers · data as it comes · trailers · reset
    Stream.send ─▶ (room in the windows?) ─▶ h2 ─▶ channel.write, in order

h2 (the library) is the protocol; what waits and who wakes it is here. It knows nothing of gRPC, and of no
socket: whoever upgraded a connection hands it over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes

from cove.httpd.messages import Channel, Disconnected

Headers = list[tuple[str, str]]

_WINDOW = 1 << 20
"""Bytes of a stream that may be received ahead of its reader."""
_CONNECTION_WINDOW = 16 << 20
_FRAME = 256 << 10
_MAX_STREAMS = 1000
_MAX_HEADERS = 4 << 20
_ACKNOWLEDGE = 256 << 10
"""Bytes taken before the peer hears of it: fewer frames."""


class StreamEnded(Exception):
    """The stream, or the connection below it, ended before it was complete."""


class Stream:
    """One stream. What arrives is kept until it is read; a peer that sends more than the window is held back."""

    def __init__(self, connection: Connection, identity: int) -> None:
        self._connection = connection
        self.identity = identity
        self.headers: Headers = []
        self.trailers: Headers = []
        self.reset: str = ""
        self.on_reset: Callable[[], object] | None = None
        self._data: deque[bytes] = deque()
        self._done = False
        self.said_all = False
        self._taken = 0
        self._news = asyncio.Event()

    # ── from the peer ─────────────────────────────────────────────────────────────────────────────

    def got_headers(self, headers: Headers) -> None:
        if self.headers:
            self.trailers = headers
        else:
            self.headers = headers
        self._news.set()

    def got_data(self, data: bytes) -> None:
        self._data.append(data)
        self._news.set()

    def got_end(self) -> None:
        self._done = True
        self._news.set()

    def got_reset(self, reason: str) -> None:
        if self.reset:
            return
        self.reset = reason
        self._news.set()
        if self.on_reset is not None:
            self.on_reset()

    # ── for the reader ────────────────────────────────────────────────────────────────────────────

    async def opened(self) -> Headers:
        """The peer's headers. Raises StreamEnded."""
        while not self.headers:
            await self._more()
        return self.headers

    async def read(self) -> bytes:
        """Some bytes, b"" at the end. Raises StreamEnded when it was no proper end."""
        while not self._data:
            if self._done:
                return b""
            await self._more()
        data = self._data.popleft()
        self._taken += len(data)
        if self._taken >= _ACKNOWLEDGE and not self._done:
            taken, self._taken = self._taken, 0
            await self._connection.acknowledge(self.identity, taken)
        return data

    async def _more(self) -> None:
        if self.reset:
            raise StreamEnded(self.reset)
        self._news.clear()
        await self._news.wait()

    # ── for the writer ────────────────────────────────────────────────────────────────────────────

    async def send_headers(self, headers: Headers, *, end: bool = False) -> None:
        await self._connection.send_headers(self, headers, end=end)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send when the windows have room. Raises StreamEnded."""
        await self._connection.send_data(self, data, end=end)

    async def cancel(self) -> None:
        """Nobody looks at it any more; the peer is told, if either side still had something to say."""
        if self._done and self.said_all:
            self._connection.forget(self)
        else:
            await self._connection.reset_stream(self)


class Connection:
    """One connection; `run` reads it until it ends. `accepted` hears of streams that the peer opens."""

    def __init__(self, channel: Channel, *, client: bool, accepted: Callable[[Stream], None] | None = None) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        values = {
            codes.INITIAL_WINDOW_SIZE: _WINDOW,
            codes.MAX_FRAME_SIZE: _FRAME,
            codes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
            codes.ENABLE_PUSH: 0,
        }
        if not client:
            values[codes.MAX_CONCURRENT_STREAMS] = _MAX_STREAMS
        self._h2.local_settings = h2.settings.Settings(client=client, initial_values=values)
        self._h2.max_inbound_frame_size = _FRAME
        self._h2.decoder.max_header_list_size = _MAX_HEADERS
        self._channel = channel
        self._accepted = accepted
        self._streams: dict[int, Stream] = {}
        self._order = asyncio.Lock()
        self._room = asyncio.Event()
        self._received = 0
        self._ended = ""

    async def run(self) -> None:
        """Be one end of the connection until it is over; then every stream is."""
        reason = "the connection was closed"
        try:
            self._h2.initiate_connection()
            self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
            await self._flush()
            while data := await self._channel.read():
                for event in self._h2.receive_data(data):
                    self._hear(event)
                await self._flush()
                if self._ended:
                    break
        except h2.exceptions.ProtocolError as error:
            reason = f"the peer does not speak HTTP/2 properly: {error}"
            with contextlib.suppress(StreamEnded):
                await self._flush()
        except StreamEnded as error:
            reason = str(error)
        finally:
            self._ended = self._ended or reason
            for stream in tuple(self._streams.values()):
                stream.got_reset(self._ended)
            self._streams.clear()
            self._room.set()

    async def open(self, headers: Headers) -> Stream:
        """A new stream with our headers. Raises StreamEnded."""
        self._check()
        stream = Stream(self, self._h2.get_next_available_stream_id())
        self._streams[stream.identity] = stream
        await self.send_headers(stream, headers)
        return stream

    async def close(self) -> None:
        """Say goodbye."""
        if not self._ended:
            self._h2.close_connection()
            with contextlib.suppress(StreamEnded):
                await self._flush()

    # ── what arrives ──────────────────────────────────────────────────────────────────────────────

    def _hear(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self._data(event)
        elif isinstance(event, h2.events.RequestReceived):
            stream = self._streams[event.stream_id] = Stream(self, event.stream_id)
            stream.got_headers(_headers(event.headers))
            if self._accepted is not None:
                self._accepted(stream)
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            if event.stream_id in self._streams:
                self._streams[event.stream_id].got_headers(_headers(event.headers))
        elif isinstance(event, h2.events.StreamEnded):
            if event.stream_id in self._streams:
                self._streams[event.stream_id].got_end()
        elif isinstance(event, h2.events.StreamReset):
            stream_or_none = self._streams.pop(event.stream_id, None)
            if stream_or_none is not None:
                stream_or_none.got_reset("the peer gave the call up")
            self._room.set()
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._room.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._ended = "the peer closed the connection"

    def _data(self, event: h2.events.DataReceived) -> None:
        """The connection's window is given back at once, so that one slow reader stops nobody else."""
        length = event.flow_controlled_length or 0
        self._received += length
        if self._received >= _ACKNOWLEDGE:
            self._h2.increment_flow_control_window(self._received)
            self._received = 0
        stream = self._streams.get(event.stream_id)
        if stream is not None and event.data:
            stream.got_data(event.data)

    async def acknowledge(self, identity: int, count: int) -> None:
        if identity not in self._streams or self._ended:
            return
        try:
            self._h2.increment_flow_control_window(count, identity)
        except (h2.exceptions.ProtocolError, KeyError):
            return  # the peer has said everything already
        await self._flush()

    # ── what leaves ───────────────────────────────────────────────────────────────────────────────

    async def send_headers(self, stream: Stream, headers: Headers, *, end: bool = False) -> None:
        self._check(stream)
        try:
            self._h2.send_headers(stream.identity, headers, end_stream=end)
        except h2.exceptions.ProtocolError as error:
            raise StreamEnded(str(error)) from error
        stream.said_all = end
        await self._flush()

    async def send_data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        view = memoryview(data)
        try:
            while view:
                self._check(stream)
                room = min(self._h2.local_flow_control_window(stream.identity), self._h2.max_outbound_frame_size)
                if room <= 0:
                    await self._flush()
                    self._room.clear()
                    await self._room.wait()
                    continue
                piece, view = view[:room], view[room:]
                self._h2.send_data(stream.identity, bytes(piece), end_stream=end and not view)
            if end and not data:
                self._check(stream)
                self._h2.end_stream(stream.identity)
        except (h2.exceptions.ProtocolError, KeyError) as error:
            raise StreamEnded(str(error)) from error
        stream.said_all = end
        await self._flush()

    async def reset_stream(self, stream: Stream) -> None:
        if self._streams.pop(stream.identity, None) is None or self._ended:
            return
        try:
            self._h2.reset_stream(stream.identity, ErrorCodes.CANCEL)
        except (h2.exceptions.ProtocolError, KeyError):
            return  # it is over already
        with contextlib.suppress(StreamEnded):
            await self._flush()

    def forget(self, stream: Stream) -> None:
        """Nobody looks at the stream any more."""
        self._streams.pop(stream.identity, None)

    def _check(self, stream: Stream | None = None) -> None:
        if self._ended:
            raise StreamEnded(self._ended)
        if stream is not None and stream.reset:
            raise StreamEnded(stream.reset)

    async def _flush(self) -> None:
        async with self._order:
            data = self._h2.data_to_send()
            if not data:
                return
            try:
                await self._channel.write(data)
            except Disconnected:
                raise StreamEnded("the peer closed the connection") from None


def _headers(pairs: Sequence[tuple[str | bytes, str | bytes]] | None) -> Headers:
    return [(str(name), str(value)) for name, value in pairs or ()]
