"""Attach over a WebSocket (RFC 6455), for clients that live in browsers and proxies.

    Channel of bytes ◀── frames ──▶ client       each output chunk is one binary frame;
                                                 text and binary frames of the client are stdin

Owns the handshake and framing. Never fragments what it sends; joins what it receives.
"""

from __future__ import annotations

import base64
import hashlib
import struct

from cove.api.http import Channel, Disconnected, Request
from cove.errors import InvalidArgument

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_FRAME = 1 << 20
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_FIN, _MASKED = 0x80, 0x80


def handshake(request: Request) -> bytes:
    """The head of the reply that opens the socket. Raises InvalidArgument."""
    key = request.headers.get("sec-websocket-key", "")
    if request.headers.get("upgrade", "").lower() != "websocket" or not key:
        raise InvalidArgument("This path speaks the WebSocket protocol only; use /containers/{id}/attach instead")
    accept = base64.b64encode(hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


class WebSocket:
    """A Channel over a Channel: plain bytes on this side, frames on the other."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._buffer = bytearray()

    async def read(self) -> bytes:
        """The next payload; b"" when the client closed."""
        while True:
            first, second = await self._exactly(2)
            payload = await self._payload(second)
            match first & 0x0F:
                case 0x8:
                    await self._send(_CLOSE, payload[:2])
                    return b""
                case 0x9:
                    await self._send(_PONG, payload)
                case 0x0 | 0x1 | 0x2 if payload:
                    return payload

    async def write(self, data: bytes) -> None:
        await self._send(_BINARY, data)

    async def close(self) -> None:
        """Say good-bye (1000: normal closure)."""
        await self._send(_CLOSE, struct.pack(">H", 1000))

    async def _payload(self, second: int) -> bytes:
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", await self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self._exactly(8))
        if length > _MAX_FRAME or not second & _MASKED:
            raise Disconnected
        mask = await self._exactly(4)
        data = await self._exactly(length)
        key = (mask * (length // 4 + 1))[:length]
        return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self._channel.read()
            if not data:
                raise Disconnected
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _send(self, kind: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = struct.pack(">BB", _FIN | kind, size)
        elif size < 65536:
            head = struct.pack(">BBH", _FIN | kind, 126, size)
        else:
            head = struct.pack(">BBQ", _FIN | kind, 127, size)
        await self._channel.write(head + data)
