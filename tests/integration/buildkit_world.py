"""A client of BuildKit's protocol for tests, made of nothing that Cove's own side is made of but h2.

    Control  the connection on which the client asks (POST /grpc)
    Session  the connection on which it is asked for files and secrets (POST /session)

Messages are lists of (field number, value), as protobuf has them: numbers are varints, bytes and text have a length.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.conftest import PATIENCE

Fields = list[tuple[int, "int | bytes | str | Fields"]]


def encode(fields: Fields) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            raw = value.encode() if isinstance(value, str) else encode(value) if isinstance(value, list) else value
            out += _varint(number << 3 | 2) + _varint(len(raw)) + raw
    return out


def decode(data: bytes) -> list[tuple[int, int | bytes]]:
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if tag & 7 == 2:
            found.append((tag >> 3, data[at : at + value]))
            at += value
        else:
            found.append((tag >> 3, value))
    return found


def first(data: bytes, number: int) -> bytes:
    return next((bytes(value) for key, value in decode(data) if key == number and isinstance(value, bytes)), b"")


def parts(data: bytes, number: int) -> list[bytes]:
    """Every value of a repeated field."""
    return [bytes(value) for key, value in decode(data) if key == number and isinstance(value, bytes)]


def pairs(mapping: dict[str, str]) -> list[Fields]:
    return [[(1, key), (2, value)] for key, value in mapping.items()]


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return number, at


def upgraded(path: str, target: str, headers: dict[str, str]) -> socket.socket:
    """A connection to the daemon's socket that has left HTTP/1.1 behind."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(120 * PATIENCE)
    sock.connect(path)
    lines = [f"POST {target} HTTP/1.1", "Host: cove", "Connection: Upgrade", "Upgrade: h2c"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return sock


@dataclass
class _Stream:
    headers: dict[str, list[str]] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False

    def messages(self) -> Iterator[bytes]:
        while len(self.data) >= 5:
            length = int.from_bytes(self.data[1:5], "big")
            if len(self.data) < 5 + length:
                return
            message = bytes(self.data[5 : 5 + length])
            del self.data[: 5 + length]
            yield message


class _End:
    """One end of an HTTP/2 connection, read by a thread of its own."""

    def __init__(self, sock: socket.socket, *, client: bool) -> None:
        self._sock = sock
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding="utf-8"))
        self.news = threading.Condition()
        self.streams: dict[int, _Stream] = {}
        self.asked: Callable[[int], None] | None = None
        with self.news:
            self._h2.initiate_connection()
            self._flush()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = self._sock.recv(1 << 16)
                if not data:
                    return
                with self.news:
                    for event in self._h2.receive_data(data):
                        self._hear(event)
                    self._flush()
                    self.news.notify_all()
            except OSError:  # closed by another thread
                return

    def _hear(self, event: h2.events.Event) -> None:
        number = getattr(event, "stream_id", 0)
        stream = self.streams.setdefault(number, _Stream())
        if isinstance(event, h2.events.DataReceived):
            stream.data += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, number)
        elif isinstance(event, h2.events.RequestReceived):
            for name, value in event.headers:
                stream.headers.setdefault(str(name), []).append(str(value))
            assert self.asked is not None
            threading.Thread(target=self.asked, args=(number,), daemon=True).start()
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            stream.trailers |= {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            stream.ended = True

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._sock.sendall(data)

    def open(self, headers: list[tuple[str, str]]) -> int:
        with self.news:
            number = self._h2.get_next_available_stream_id()
            self.streams[number] = _Stream()
            self._h2.send_headers(number, headers)
            self._flush()
            return number

    def headers(self, number: int, headers: list[tuple[str, str]], *, end: bool = False) -> None:
        with self.news:
            self._h2.send_headers(number, headers, end_stream=end)
            self._flush()

    def send(self, number: int, message: bytes, *, end: bool = False) -> None:
        data = b"\0" + len(message).to_bytes(4, "big") + message
        with self.news:
            while data:
                room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
                if not room:
                    self.news.wait(10)
                    continue
                self._h2.send_data(number, data[:room], end_stream=end and room >= len(data))
                data = data[room:]
                self._flush()

    def receive(self, number: int) -> Iterator[bytes]:
        """Each message, until the peer has sent its last."""
        deadline = time.monotonic() + 120 * PATIENCE
        stream = self.streams[number]
        while True:
            with self.news:
                found = list(stream.messages())
                if not found and not stream.ended:
                    assert self.news.wait(deadline - time.monotonic()), "the daemon says nothing"
                    continue
            yield from found
            if not found:
                return

    def close(self) -> None:
        with suppress(OSError):  # as long as a thread reads from it, closing alone tells the peer nothing
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class Failed(Exception):
    """A call whose status is not 0."""


class Control:
    """Asks the daemon."""

    def __init__(self, path: str) -> None:
        self._end = _End(upgraded(path, "/grpc", {}), client=True)

    def call(self, method: str, message: Fields, **metadata: str) -> list[bytes]:
        """The messages of the answer. Raises Failed with code and message."""
        headers = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "cove")]
        number = self._end.open(
            [*headers, ("te", "trailers"), ("content-type", "application/grpc"), *metadata.items()]
        )
        self._end.send(number, encode(message), end=True)
        answers = list(self._end.receive(number))
        trailers = self._end.streams[number].trailers
        if trailers.get("grpc-status") != "0":
            details = trailers.get("grpc-status-details-bin", "")
            raw = base64.b64decode(details + "=" * (-len(details) % 4))
            raise Failed(trailers.get("grpc-status"), trailers.get("grpc-message"), raw)
        return answers

    def close(self) -> None:
        self._end.close()


@dataclass
class File:
    """A file of the client's; `sent` counts how often its content was asked for."""

    content: bytes
    mode: int = 0o644
    mtime_ns: int = 1_700_000_000 * 10**9
    sent: int = 0


class Session:
    """Is asked by the daemon: serves files as fsutil does, and secrets."""

    def __init__(
        self,
        path: str,
        identity: str,
        directories: dict[str, dict[str, File]],
        secrets: dict[str, bytes] | None = None,
    ) -> None:
        names = {"X-Docker-Expose-Session-Uuid": identity, "X-Docker-Expose-Session-Sharedkey": "tests"}
        self._end = _End(upgraded(path, "/session", names), client=False)
        self._directories = directories
        self._secrets = secrets or {}
        self._end.asked = self._answer

    def close(self) -> None:
        self._end.close()

    def _answer(self, number: int) -> None:
        with suppress(h2.exceptions.ProtocolError):  # the daemon may give a call up
            self._serve(number)

    def _serve(self, number: int) -> None:
        headers = self._end.streams[number].headers
        path = headers[":path"][0]
        self._end.headers(number, [(":status", "200"), ("content-type", "application/grpc")])
        status = "0"
        if path == "/moby.filesync.v1.FileSync/DiffCopy":
            self._copy(number, self._directories[headers["dir-name"][0]], headers.get("followpaths", []))
        elif path == "/moby.buildkit.secrets.v1.Secrets/GetSecret":
            (request,) = self._end.receive(number)
            secret = self._secrets.get(first(request, 1).decode())
            status = "5" if secret is None else "0"
            if secret is not None:
                self._end.send(number, encode([(1, secret)]))
        else:
            status = "12"
        self._end.headers(number, [("grpc-status", status)], end=True)

    def _copy(self, number: int, files: dict[str, File], follow: list[str]) -> None:
        shown = sorted(name for name in files if not follow or any(name.startswith(each) for each in follow))
        for name in shown:
            file = files[name]
            stat: Fields = [(1, name), (2, file.mode), (5, len(file.content)), (6, file.mtime_ns)]
            self._end.send(number, encode([(2, stat)]))
        self._end.send(number, b"")
        for packet in self._end.receive(number):
            fields = dict(decode(packet))
            if fields.get(1) == 3:
                self._end.send(number, encode([(1, 3)]))
                return
            identity = int(fields.get(3, 0))
            file = files[shown[identity]]
            file.sent += 1
            for start in range(0, len(file.content), 32 << 10):
                piece = file.content[start : start + (32 << 10)]
                self._end.send(number, encode([(1, 2), (3, identity), (4, piece)]))
            self._end.send(number, encode([(1, 2), (3, identity)]))
