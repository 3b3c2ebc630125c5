"""HTTP/1.1 over one connected stream: just as much as the Engine API speaks.

    Connection.send(request) ──▶ Response
        Response.read()      the whole body          ┐ afterwards the connection is free again
        Response.chunks()    the body as it arrives  ┘ for the next request
        Response.hijack()    status 101 (or an old daemon's 200): the raw stream, both ways

A request's body is bytes, or an iterable of bytes that is sent chunked. A daemon that
refuses an upload half-way answers and closes: the answer is read, not the broken pipe.
It never retries, never follows redirects, and knows nothing of the API's nouns.
"""

from __future__ import annotations

from cove.client.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_SHUT_WR = 1
_LARGEST_HEAD = 64 * 1024
_PIECE = 64 * 1024


class Hijacked:
    """A connection that stopped being HTTP: a raw stream in both directions."""

    def __init__(self, stream: Any, early: bytes) -> None:
        self._stream = stream
        self._early = early

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def waiting(self) -> bool:
        """Whether bytes are here that no poll would report."""
        pending = getattr(self._stream, "pending", None)
        return bool(self._early) or bool(pending and pending())

    def receive(self) -> bytes:
        """The next bytes; empty at the end. A reset by the daemon is an end as well."""
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            return bytes(self._stream.recv(_PIECE))
        except ConnectionResetError:
            return b""

    def send(self, data: bytes) -> None:
        self._stream.sendall(data)

    def half_close(self) -> None:
        """Say that nothing more will be sent; output still arrives."""
        try:
            self._stream.shutdown(_SHUT_WR)
        except OSError:
            return  # the other end is gone already, which the reader will see

    def close(self) -> None:
        self._stream.close()


class Connection:
    """One stream to a daemon, used for one request after another."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._buffer = b""
        self.reusable = True

    def close(self) -> None:
        self.reusable = False
        self.stream.close()

    def send(
        self, method: str, target: str, headers: dict[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        """Send one request and read the head of its answer."""
        lines = [f"{method} {target} HTTP/1.1", "Host: cove", "User-Agent: cove"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is None or isinstance(body, bytes):
            data = body or b""
            if data or method not in {"GET", "HEAD"}:
                lines.append(f"Content-Length: {len(data)}")
            self.stream.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + data)
        else:
            lines.append("Transfer-Encoding: chunked")
            self.stream.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
            self._upload(body)
        return Response(self, method)

    def _upload(self, body: Iterable[bytes]) -> None:
        try:
            for piece in body:
                if piece:
                    self.stream.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.stream.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.reusable = False  # the daemon answered early; its answer says why

    def fill(self) -> bool:
        """Read more into the buffer; False at the end of the stream."""
        data = self.stream.recv(_PIECE)
        self._buffer += data
        return bool(data)

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LARGEST_HEAD:
                raise ProtocolError("the daemon's answer has a header line without an end")
            if not self.fill():
                raise ProtocolError("the daemon closed the connection in the middle of its answer")
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.rstrip(b"\r")

    def some(self, most: int) -> bytes:
        """Between one and `most` bytes; empty only at the end of the stream."""
        if not self._buffer:
            self.fill()
        data, self._buffer = self._buffer[:most], self._buffer[most:]
        return data

    def take_buffer(self) -> bytes:
        data, self._buffer = self._buffer, b""
        return data

    @property
    def fresh(self) -> bool:
        return not self._buffer


class Response:
    """The answer to one request; its body is read at most once."""

    def __init__(self, connection: Connection, method: str) -> None:
        self.connection = connection
        status_line = connection.line()
        try:
            version, status, *_ = status_line.split(b" ", 2)
            self.status = int(status)
        except ValueError:
            raise ProtocolError(f"what answers does not speak HTTP: {status_line[:80]!r}") from None
        self.headers: dict[str, str] = {}
        while line := connection.line():
            name, _, value = line.partition(b":")
            self.headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        if version == b"HTTP/1.0" or self.headers.get("connection", "").lower() == "close":
            connection.reusable = False
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        length = self.headers.get("content-length")
        self._left: int | None = int(length) if length is not None else None
        if method == "HEAD" or self.status in {204, 304} or 100 <= self.status < 200:
            self._left, self._chunked = 0, False
        self.done = not self._chunked and self._left == 0

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece as it arrives."""
        if self.done:
            return
        if self._chunked:
            yield from self._chunked_body()
        elif self._left is None:
            self.connection.reusable = False
            while data := self.connection.some(_PIECE):
                yield data
        else:
            while self._left:
                data = self.connection.some(min(self._left, _PIECE))
                if not data:
                    raise ProtocolError("the daemon closed the connection in the middle of its answer")
                self._left -= len(data)
                yield data
        self.done = True

    def _chunked_body(self) -> Iterator[bytes]:
        connection = self.connection
        while size := int(connection.line().split(b";")[0] or b"0", 16):
            while size:
                data = connection.some(min(size, _PIECE))
                if not data:
                    raise ProtocolError("the daemon closed the connection in the middle of its answer")
                size -= len(data)
                yield data
            connection.line()
        while connection.line():
            pass

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def hijack(self) -> Hijacked:
        """Take the raw stream over; the connection is never used for HTTP again."""
        self.connection.reusable = False
        self.done = True
        return Hijacked(self.connection.stream, self.connection.take_buffer())

    def close(self) -> None:
        """Stop reading; a half-read answer takes its connection with it."""
        if not self.done:
            self.connection.close()
