"""Streams of JSON: progress, events, samples; one object a line, as Docker sends them.

A client may ask for events as a text sequence (RFC 7464), where each object follows a record separator.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from cove.api.errors import progress_error
from cove.api.http import JSON, Disconnected, Request, Stream
from cove.errors import CoveError
from cove.wire import base

_log = logging.getLogger(__name__)

JSON_LINES = "application/jsonl"
_SEQUENCE = "application/json-seq"
_OFFERED = (JSON_LINES, "application/x-ndjson", _SEQUENCE)
_SEPARATOR = b"\x1e"


def accepted(request: Request, usual: str) -> str:
    """The content type that the client names with the most weight among those there are, else the `usual` one."""
    weights: dict[str, float] = {}
    for item in request.headers.get("accept", "").split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weights[kind] = max(weights.get(kind, 0.0), _weight(parameters))
    best = max(_OFFERED, key=lambda kind: weights.get(kind, 0.0))
    return best if weights.get(best) else usual


def _weight(parameters: list[str]) -> float:
    """The q of one item of an Accept header, 1 where it has none; 0 for one that is no number."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def objects(values: AsyncIterator[object], kind: str = JSON) -> Stream:
    """A reply of one JSON object a line, as they come."""
    return Stream(_lines(values, _SEPARATOR if kind == _SEQUENCE else b""), content_type=kind)


def progress(values: AsyncIterator[dict[str, object]]) -> Stream:
    """The same for work under way: its failure is the last object, for the status is already sent."""
    return Stream(_progress_lines(values))


async def _lines(values: AsyncIterator[object], before: bytes) -> AsyncIterator[bytes]:
    try:
        async for value in values:
            yield before + base.encode(value)
    except CoveError as error:
        _log.warning("a client is hung up on: %s", error.message)
        raise Disconnected from error  # the answer has begun: only a broken connection says that it is not whole
    finally:
        await close(values)


async def _progress_lines(values: AsyncIterator[dict[str, object]]) -> AsyncIterator[bytes]:
    try:
        async for value in values:
            yield base.encode(value)
    except Disconnected:
        raise
    except Exception as error:
        if not isinstance(error, CoveError):
            _log.exception("work failed after its progress had begun to be told")
        yield base.encode(progress_error(error))
    finally:
        await close(values)


async def close(values: AsyncIterator[object]) -> None:
    """Run an asynchronous generator's `finally` now; other iterators have none."""
    aclose = getattr(values, "aclose", None)
    if aclose is not None:
        await aclose()
