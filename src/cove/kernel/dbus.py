"""A small D-Bus client: calls and signals over a unix socket, for talking with systemd. Blocking.

    connect ──▶ AUTH EXTERNAL, BEGIN ──▶ Hello (a bus only) ──▶ call … ──▶ reply │ signals meanwhile are kept

Values are Python's own, described by a D-Bus signature: integers, str, bool, lists for arrays and structures (a
dictionary is an array of pairs), `Variant` where the signature says "v". Nothing is sent that holds descriptors.
Source: the D-Bus Specification, "Message Protocol" and "Authentication Protocol".
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

CALL, REPLY, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(1, 9)
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGNMENT = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}
_CLOSING = {"(": ")", "{": "}"}
_MAX_MESSAGE = 1 << 27
_TIMEOUT = 10.0


class DBusError(OSError):
    """The other side refuses; `name` is the error's name, e.g. org.freedesktop.systemd1.UnitExists."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.name})"


class Variant(msgspec.Struct, frozen=True):
    """A value that carries its signature."""

    signature: str
    value: object


class Message(msgspec.Struct, frozen=True):
    """One message as received; `fields` by the header field's number."""

    type: int
    serial: int
    fields: dict[int, Any] = msgspec.field(default_factory=dict)
    body: list[Any] = msgspec.field(default_factory=list)

    @property
    def member(self) -> str:
        return str(self.fields.get(_MEMBER, ""))


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def types(signature: str) -> Iterator[str]:
    """The complete types of a signature: "sa(sv)u" is s, a(sv), u. Raises ValueError."""
    at = 0
    while at < len(signature):
        end = _end(signature, at)
        yield signature[at:end]
        at = end


def _end(signature: str, at: int) -> int:
    if at >= len(signature):
        raise ValueError(f"the signature {signature!r} ends in the middle of a type")
    letter = signature[at]
    if letter == "a":
        return _end(signature, at + 1)
    if letter in _CLOSING:
        at += 1
        while at < len(signature) and signature[at] != _CLOSING[letter]:
            at = _end(signature, at)
        if at == len(signature):
            raise ValueError(f"the signature {signature!r} lacks a {_CLOSING[letter]}")
    return at + 1


def marshal(signature: str, values: Sequence[Any]) -> bytes:
    """The values as little-endian bytes, as if at an offset that is a multiple of eight."""
    out = bytearray()
    for each, value in zip(types(signature), values, strict=True):
        _put(out, each, value)
    return bytes(out)


def _pad(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def _put(out: bytearray, kind: str, value: Any) -> None:
    letter = kind[0]
    _pad(out, _ALIGNMENT.get(letter, 4))
    if letter in _FIXED:
        out += struct.pack("<" + _FIXED[letter], value)
    elif letter in "so":
        text = value.encode()
        out += struct.pack("<I", len(text)) + text + b"\0"
    elif letter == "g":
        out += bytes([len(value)]) + value.encode() + b"\0"
    elif letter == "v":
        _put(out, "g", value.signature)
        _put(out, value.signature, value.value)
    elif letter == "a":
        _put_array(out, kind[1:], value)
    else:
        for part, item in zip(types(kind[1:-1]), value, strict=True):
            _put(out, part, item)


def _put_array(out: bytearray, element: str, values: Sequence[Any]) -> None:
    at = len(out)
    out += bytes(4)
    _pad(out, _ALIGNMENT.get(element[0], 4))
    start = len(out)
    if element == "y":
        out += bytes(values)
    else:
        for value in values:
            _put(out, element, value)
    struct.pack_into("<I", out, at, len(out) - start)


class _Reader:
    """Takes values off a message's bytes."""

    def __init__(self, data: bytes, order: str = "<") -> None:
        self.data = data
        self.order = order
        self.at = 0

    def values(self, signature: str) -> list[Any]:
        return [self.value(kind) for kind in types(signature)]

    def value(self, kind: str) -> Any:
        letter = kind[0]
        self.align(_ALIGNMENT.get(letter, 4))
        if letter in _FIXED:
            found = self.fixed(_FIXED[letter])
            return bool(found) if letter == "b" else found
        if letter in "so":
            return self.text(self.fixed("I"))
        if letter == "g":
            return self.text(self.fixed("B"))
        if letter == "v":
            signature = self.value("g")
            return Variant(signature, self.value(signature))
        if letter == "a":
            return self.array(kind[1:])
        return [self.value(part) for part in types(kind[1:-1])]

    def array(self, element: str) -> list[Any]:
        length = self.fixed("I")
        self.align(_ALIGNMENT.get(element[0], 4))
        end, found = self.at + length, []
        if end > len(self.data):
            raise ValueError("an array is longer than its message")
        while self.at < end:
            found.append(self.value(element))
        return found

    def align(self, alignment: int) -> None:
        self.at += -self.at % alignment

    def fixed(self, code: str) -> Any:
        (found,) = struct.unpack_from(self.order + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return found

    def text(self, length: int) -> str:
        found = self.data[self.at : self.at + length].decode()
        self.at += length + 1
        return found


def encode(serial: int, kind: int, fields: dict[int, Variant], signature: str, body: Sequence[Any]) -> bytes:
    """One whole message."""
    content = marshal(signature, body)
    if signature:
        fields = fields | {_SIGNATURE: Variant("g", signature)}
    head = bytearray(struct.pack("<4BII", ord("l"), kind, 0, 1, len(content), serial))
    _put(head, "a(yv)", [(number, value) for number, value in fields.items()])
    _pad(head, 8)
    return bytes(head) + content


def decode(data: bytes) -> Message:
    """One whole message; raises ValueError or struct.error on what is none."""
    order = "<" if data[:1] == b"l" else ">"
    reader = _Reader(data, order)
    _, kind, _, _, length, serial = (reader.fixed(code) for code in "BBBBII")
    fields = {number: variant.value for number, variant in reader.value("a(yv)")}
    body = _Reader(data[len(data) - length :], order)
    return Message(kind, serial, fields, body.values(fields.get(_SIGNATURE, "")))


# ── a connection ──────────────────────────────────────────────────────────────────────────────────


class Connection:
    """One socket to a bus, or to a peer without one (`bus` False). Raises OSError, of which DBusError is one."""

    def __init__(self, path: str | Path, *, bus: bool) -> None:
        self._bus = bus
        self._serial = 0
        self._signals: deque[Message] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.connect(str(path))
            self._authenticate()
            if bus:
                self._call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *arguments: object
    ) -> list[Any]:
        """Call a method and wait for its answer's values. `destination` is left out where there is no bus."""
        return self._call(destination, path, interface, member, signature, *arguments)

    def listen(self, rule: str) -> None:
        """Let the bus send the signals that match; without a bus the peer sends them anyway."""
        if self._bus:
            name = "org.freedesktop.DBus"
            self._call(name, "/org/freedesktop/DBus", name, "AddMatch", "s", rule)

    def signal(self) -> Message:
        """The next signal, as they came."""
        while not self._signals:
            self._keep(self._receive())
        return self._signals.popleft()

    def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *arguments: object
    ) -> list[Any]:
        self._serial += 1
        fields = {
            _PATH: Variant("o", path),
            _INTERFACE: Variant("s", interface),
            _MEMBER: Variant("s", member),
        }
        if self._bus:
            fields[_DESTINATION] = Variant("s", destination)
        self._socket.sendall(encode(self._serial, CALL, fields, signature, arguments))
        while True:
            message = self._receive()
            if message.fields.get(_REPLY_SERIAL) != self._serial:
                self._keep(message)
            elif message.type == ERROR:
                raise DBusError(message.fields[_ERROR_NAME], str(message.body[0]) if message.body else member)
            else:
                return message.body

    def _keep(self, message: Message) -> None:
        if message.type == SIGNAL:
            self._signals.append(message)

    def _receive(self) -> Message:
        head = self._read(16)
        length, _, fields = struct.unpack("<III" if head[:1] == b"l" else ">III", head[4:])
        rest = fields + -fields % 8 + length
        if rest > _MAX_MESSAGE:
            raise ConnectionError("a D-Bus message is longer than the protocol allows")
        try:
            return decode(head + self._read(rest))
        except (ValueError, KeyError, struct.error) as error:
            raise ConnectionError(f"a D-Bus message cannot be read: {error}") from error

    def _authenticate(self) -> None:
        """EXTERNAL: the kernel tells the other side who we are."""
        identity = str(os.geteuid()).encode().hex().encode()
        self._socket.sendall(b"\0AUTH EXTERNAL " + identity + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += self._read(1)
        if not answer.startswith(b"OK "):
            raise PermissionError(f"the D-Bus peer refuses user {os.geteuid()}")
        self._socket.sendall(b"BEGIN\r\n")

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            piece = self._socket.recv(size - len(parts))
            if not piece:
                raise ConnectionResetError("the D-Bus peer hung up")
            parts += piece
        return bytes(parts)
