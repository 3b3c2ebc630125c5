"""Requests and replies as values: what an application sees of HTTP.

Owns how query parameters are read (as Docker's own server reads them) and how large a buffered
body may be. It never touches a socket: `connection` gives a Request its body and performs a reply.

    Request ──▶ app ──▶ Response   a whole body at once
                    ├─▶ Stream     chunks, the header first; the status is sent before any of them
                    ├─▶ Span       a part of a file, handed over by the kernel where it can
                    └─▶ Hijack     the connection becomes a raw byte stream in both directions
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO, Protocol
from urllib.parse import parse_qs

from cove.errors import InvalidArgument

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

MAX_BODY = 8 << 20
"""Bytes of a body that is read whole; uploads are streamed and have no bound here."""

_FALSE = frozenset({"", "0", "no", "false", "none"})


class Channel(Protocol):
    """A hijacked connection. `read` gives b"" once the client has shut its sending side down."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None:
        """Wait until there is room. Raises Disconnected when the client is gone."""
        ...


class Disconnected(Exception):
    """The client went away; nobody is left to be told anything."""


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters behind the question mark."""

    values: Mapping[str, list[str]]

    @staticmethod
    def values_of(text: str) -> Mapping[str, list[str]]:
        """Raises ValueError for more parameters than anybody needs."""
        return parse_qs(text, keep_blank_values=True, max_num_fields=1000) if text else {}

    def text(self, name: str, default: str = "") -> str:
        """The first value, or `default` when it is missing or empty."""
        found = self.values.get(name)
        return found[0] if found and found[0] else default

    def texts(self, name: str) -> list[str]:
        """Every value of a repeated parameter."""
        return list(self.values.get(name, ()))

    def flag(self, name: str, default: bool = False) -> bool:
        """Docker's rule: "", 0, no, false and none are false, all else is true."""
        found = self.values.get(name)
        return default if found is None else found[0].strip().lower() not in _FALSE

    def number(self, name: str) -> int | None:
        """A whole number, None when it is missing or empty. Raises InvalidArgument."""
        text = self.text(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise InvalidArgument(f"The parameter {name}={text!r} is not a whole number") from None


@dataclass
class Request:
    """One request. `params` hold what a route's template names; `headers` have lower-case names.

    `peer` is the address of the client on TCP, `secure` whether it speaks TLS.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    path: str = ""
    query_text: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""
    secure: bool = False

    @cached_property
    def query(self) -> Query:
        return Query(self._parameters())

    def _parameters(self) -> Mapping[str, list[str]]:
        try:
            return Query.values_of(self.query_text)
        except ValueError as error:
            raise InvalidArgument(f"The request's parameters cannot be read: {error}") from None

    async def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises InvalidArgument when it is longer than `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        async for part in self.body:
            size += len(part)
            if size > limit:
                raise InvalidArgument(f"The request's body is longer than the {limit} bytes that this call takes")
            parts.append(part)
        return b"".join(parts)

    @property
    def upgrades(self) -> bool:
        """Whether the client asks to leave HTTP behind for a raw stream."""
        return "upgrade" in self.headers


@dataclass(frozen=True, slots=True)
class Response:
    """A reply that is there as a whole."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """A reply that comes bit by bit; its iterator is closed whatever happens.

    `length` is told to the client where it is known; an iterator that gives less breaks the connection.
    """

    chunks: AsyncIterator[bytes]
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """`count` bytes of an open file from `start` on; the file is closed whatever happens."""

    file: BinaryIO
    start: int
    count: int
    content_type: str = "application/octet-stream"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Hijack:
    """Leave HTTP: send `head` as it is, then let `run` own both directions until it returns."""

    head: bytes
    run: Callable[[Channel], Awaitable[None]]


Reply = Response | Stream | Span | Hijack
App = Callable[[Request], Awaitable[Reply]]
Refusal = Callable[[BaseException], Response]
"""How an application says what went wrong where it could not say it itself."""

NO_CONTENT = Response(status=204)
