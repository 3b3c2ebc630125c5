"""What the routes see of HTTP: `cove.httpd.messages`, and what the Engine API adds to a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from cove.errors import InvalidArgument
from cove.httpd import messages
from cove.httpd.messages import (
    JSON,
    NO_CONTENT,
    TEXT,
    App,
    Channel,
    Disconnected,
    Hijack,
    Reply,
    Response,
    Span,
    Stream,
)
from cove.wire import base
from cove.wire.filters import Filters

__all__ = [
    "JSON",
    "MULTIPLEXED",
    "NO_CONTENT",
    "RAW",
    "TAR",
    "TEXT",
    "App",
    "Channel",
    "Disconnected",
    "Hijack",
    "Query",
    "Reply",
    "Request",
    "Response",
    "Span",
    "Stream",
    "json_reply",
]

T = TypeVar("T")

TAR = "application/x-tar"
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


@dataclass(frozen=True, slots=True)
class Query(messages.Query):
    """The parameters of a request of the Engine API."""

    @classmethod
    def parse(cls, text: str) -> Query:
        return cls(cls.values_of(text))

    def filters(self, allowed: Iterable[str] | None = None) -> Filters:
        return Filters.parse(self.text("filters"), allowed)


@dataclass
class Request(messages.Request):
    """One request. `path` has no version; `version` is the API version spoken, e.g. (1, 47)."""

    version: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, plain: messages.Request) -> Request:
        return cls(
            method=plain.method,
            target=plain.target,
            headers=plain.headers,
            body=plain.body,
            peer=plain.peer,
            secure=plain.secure,
        )

    @cached_property
    def query(self) -> Query:
        return Query(self._parameters())

    async def json(self, kind: type[T]) -> T:
        """The body as a value of the wire. Raises InvalidArgument."""
        return base.decode(kind, await self.json_text())

    async def json_text(self) -> bytes:
        """The body, which has to be called JSON, so that no form of a web page is taken for it. InvalidArgument."""
        named = self.headers.get("content-type", "")
        body = await self.read()
        if body and named.partition(";")[0].strip().lower() != JSON:
            raise InvalidArgument(f"unsupported Content-Type header ({named}): must be '{JSON}'")
        return body


def json_reply(value: object, status: int = 200) -> Response:
    """A value of the wire as a whole reply."""
    return Response(status=status, body=base.encode(value))
