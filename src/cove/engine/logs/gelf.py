"""The driver `gelf`: lines as Graylog's JSON messages, over UDP (compressed, in pieces) or TCP (ended by a zero).

Source: Graylog, "GELF Payload Specification" 1.1.
"""

from __future__ import annotations

import gzip
import os
import socket
import zlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from cove.engine.logs.entries import STDERR, Entry, Source
from cove.engine.logs.transport import Address, Connection, parse
from cove.errors import InvalidArgument
from cove.wire.times import stamp

OPTIONS = frozenset({"gelf-address", "gelf-compression-type", "gelf-compression-level"})
_ERROR, _INFO = 3, 6
_PIECE = 1420
_MOST_PIECES = 128
_MAGIC = b"\x1e\x0f"
_COMPRESSIONS = ("gzip", "zlib", "none")


def check(options: Mapping[str, str]) -> None:
    """Raise InvalidArgument for options that mean nothing."""
    if not options.get("gelf-address"):
        raise InvalidArgument("gelf-address is a required parameter")
    udp = _address(options).scheme == "udp"
    kind, level = options.get("gelf-compression-type", ""), options.get("gelf-compression-level", "")
    if not udp and (kind or level):
        raise InvalidArgument("compression is only supported on UDP: leave out gelf-compression-type and -level")
    if kind and kind not in _COMPRESSIONS:
        raise InvalidArgument(f"unknown value '{kind}' for gelf-compression-type: {', '.join(_COMPRESSIONS)}")
    if level and level not in {str(number) for number in range(-1, 10)}:
        raise InvalidArgument(f"unknown value '{level}' for gelf-compression-level: from -1 to 9")


class Gelf:
    """See `cove.engine.logs.entries.Sink`."""

    def __init__(self, source: Source, options: Mapping[str, str]) -> None:
        self._connection = Connection(_address(options))
        self._kind = options.get("gelf-compression-type", "") or "gzip"
        self._level = int(options.get("gelf-compression-level", "") or 1)
        self._common = {
            "version": "1.1",
            "host": socket.gethostname(),
            "_container_id": source.id,
            "_container_name": source.name,
            "_image_id": source.image_id,
            "_image_name": source.image,
            "_command": source.command,
            "_tag": source.tag,
            "_created": stamp(source.created_ns),
        }
        self._common |= {f"_{name}": value for name, value in source.attributes.items() if name != "id"}

    async def open(self) -> None:
        await self._connection.open()

    async def send(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            message = self._message(entry)
            if self._connection.stream:
                await self._connection.send(message + b"\0")
                continue
            for piece in pieces(self._compressed(message)):
                await self._connection.send(piece)

    def close(self) -> None:
        self._connection.close()

    def _message(self, entry: Entry) -> bytes:
        text = entry.data.decode(errors="replace")
        level = _ERROR if entry.stream == STDERR else _INFO
        own = {"short_message": text or " ", "timestamp": entry.time_ns / 10**9, "level": level}
        return msgspec.json.encode(self._common | own)

    def _compressed(self, message: bytes) -> bytes:
        if self._kind == "gzip":
            return gzip.compress(message, self._level, mtime=0)
        return zlib.compress(message, self._level) if self._kind == "zlib" else message


SINK = Gelf


def pieces(message: bytes) -> Iterator[bytes]:
    """The datagrams of a message; more than 128 pieces cannot be, so that the rest of such a one is left out."""
    if len(message) <= _PIECE:
        yield message
        return
    size = _PIECE - 12
    count = min(-(-len(message) // size), _MOST_PIECES)
    head = _MAGIC + os.urandom(8)
    for number in range(count):
        yield head + bytes((number, count)) + message[number * size : (number + 1) * size]


def _address(options: Mapping[str, str]) -> Address:
    return parse("gelf-address", options["gelf-address"], ("udp", "tcp"), 12201)
