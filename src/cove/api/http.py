"""Requests and replies as values: what the routes see of HTTP.

Owns how query parameters are read (as Docker's own server reads them) and how large a buffered
body may be. It never touches a socket: `connection` gives a Request its body and performs a reply.

    Request ──▶ route ──▶ Response   a whole body at once
                      ├─▶ Stream     chunks, the header first; the status is sent before any of them
                      └─▶ Hijack     the connection becomes a raw byte stream in both directions
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar
from urllib.parse import parse_qs

from cove.errors import InvalidArgument
from cove.wire import base
from cove.wire.filters import Filters

T = TypeVar("T")

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
TAR = "application/x-tar"
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

MAX_JSON_BODY = 8 << 20
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

    @classmethod
    def parse(cls, text: str) -> Query:
        return cls(parse_qs(text, keep_blank_values=True, max_num_fields=1000) if text else {})

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

    def filters(self, allowed: Iterable[str] | None = None) -> Filters:
        return Filters.parse(self.text("filters"), allowed)


@dataclass
class Request:
    """One request. `path` has no version, `params` hold what the route's template names.

    `headers` have lower-case names. `version` is the API version spoken, e.g. (1, 47).
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    path: str = ""
    query_text: str = ""
    version: tuple[int, int] = (0, 0)
    params: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def query(self) -> Query:
        try:
            return Query.parse(self.query_text)
        except ValueError as error:
            raise InvalidArgument(f"The request's parameters cannot be read: {error}") from None

    async def read(self, limit: int = MAX_JSON_BODY) -> bytes:
        """The whole body. Raises InvalidArgument when it is longer than `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        async for part in self.body:
            size += len(part)
            if size > limit:
                raise InvalidArgument(f"The request's body is longer than the {limit} bytes that this call takes")
            parts.append(part)
        return b"".join(parts)

    async def json(self, kind: type[T]) -> T:
        """The body as a value of the wire. Raises InvalidArgument."""
        return base.decode(kind, await self.read())

    @property
    def upgrades(self) -> bool:
        """Whether the client asks to leave HTTP behind for a raw stream."""
        return "upgrade" in self.headers.get("connection", "").lower() and "upgrade" in self.headers


@dataclass(frozen=True, slots=True)
class Response:
    """A reply that is there as a whole."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """A reply that comes bit by bit; its iterator is closed whatever happens."""

    chunks: AsyncIterator[bytes]
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Hijack:
    """Leave HTTP: send `head` as it is, then let `run` own both directions until it returns."""

    head: bytes
    run: Callable[[Channel], Awaitable[None]]


Reply = Response | Stream | Hijack
App = Callable[[Request], Awaitable[Reply]]


def json_reply(value: object, status: int = 200) -> Response:
    """A value of the wire as a whole reply."""
    return Response(status=status, body=base.encode(value))


NO_CONTENT = Response(status=204)
