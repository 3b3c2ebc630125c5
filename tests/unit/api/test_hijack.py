"""What an attachment and a client say to each other, and the WebSocket's framing."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from cove.api.hijack import carry, hijack
from cove.api.http import Disconnected, Request
from cove.api.websocket import WebSocket, handshake
from cove.errors import InvalidArgument


class Detach(Exception):
    pass


class Echo:
    """An attachment that says back what it is told, until stdin ends."""

    tty = True

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False

    async def output(self) -> AsyncIterator[bytes]:
        while data := await self.queue.get():
            yield data

    async def write(self, data: bytes) -> None:
        if data == b"\x10\x11":
            raise Detach
        self.queue.put_nowait(data)

    async def close_stdin(self) -> None:
        self.queue.put_nowait(b"")

    async def close(self) -> None:
        self.closed = True


class Wire:
    """A channel with what the client will say, and a record of what it heard."""

    def __init__(self, *said: bytes, ends: bool = True) -> None:
        self.said = list(said)
        self.heard = b""
        self.ends = ends

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        if self.said:
            return self.said.pop(0)
        if not self.ends:
            await asyncio.sleep(60)
        return b""

    async def write(self, data: bytes) -> None:
        self.heard += data


def request(**headers: str) -> Request:
    async def body() -> AsyncIterator[bytes]:
        return
        yield b""

    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method="POST", target="/", headers=found, body=body(), version=(1, 44))


def test_output_goes_on_after_stdin_ended() -> None:
    echo, wire = Echo(), Wire(b"one ", b"two")
    asyncio.run(carry(wire, echo, detached=Detach))
    assert wire.heard == b"one two"
    assert echo.closed


def test_detaching_ends_it_though_output_goes_on() -> None:
    echo = Echo()
    asyncio.run(asyncio.wait_for(carry(Wire(b"\x10\x11", ends=False), echo, detached=Detach), 60))
    assert echo.closed


def test_the_head_says_what_the_stream_is() -> None:
    echo = Echo()
    assert hijack(request(), echo, detached=Detach).head.startswith(b"HTTP/1.1 200 OK\r\n")
    upgraded = request(connection="Upgrade", upgrade="tcp")
    assert b"101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream" in (
        hijack(upgraded, echo, detached=Detach).head
    )
    echo.tty = False
    assert b"multiplexed-stream" in hijack(upgraded, echo, detached=Detach).head


def frame(kind: int, data: bytes) -> bytes:
    mask = b"\x01\x02\x03\x04"
    length = struct.pack(">B", 0x80 | len(data)) if len(data) < 126 else struct.pack(">BH", 0x80 | 126, len(data))
    return bytes([0x80 | kind]) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))


def test_websocket_frames_become_stdin() -> None:
    async def main() -> None:
        stream = frame(1, b"text") + frame(9, b"ping") + frame(2, b"x" * 300) + frame(8, struct.pack(">H", 1000))
        wire = Wire(stream[:7], stream[7:])
        socket = WebSocket(wire)
        assert await socket.read() == b"text"
        assert await socket.read() == b"x" * 300
        assert await socket.read() == b""
        assert wire.heard == b"\x8a\x04ping" + b"\x88\x02\x03\xe8"
        with pytest.raises(Disconnected):
            await socket.read()
        wire.heard = b""
        await socket.write(b"y" * 70_000)
        assert wire.heard[:10] == struct.pack(">BBQ", 0x82, 127, 70_000)

    asyncio.run(main())


def test_websocket_handshake() -> None:
    # The key and the answer are RFC 6455's own example (section 1.3).
    head = handshake(request(upgrade="websocket", sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ=="))
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    with pytest.raises(InvalidArgument):
        handshake(request())
