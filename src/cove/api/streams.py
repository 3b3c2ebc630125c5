"""Streams of JSON: progress, events, samples; one object a line, as Docker sends them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from cove.api.errors import progress_error
from cove.api.http import Disconnected, Stream
from cove.errors import CoveError
from cove.wire import base

_log = logging.getLogger(__name__)


def objects(values: AsyncIterator[object]) -> Stream:
    """A reply of one JSON object a line, as they come."""
    return Stream(_lines(values))


def progress(values: AsyncIterator[dict[str, object]]) -> Stream:
    """The same for work under way: its failure is the last object, for the status is already sent."""
    return Stream(_progress_lines(values))


async def _lines(values: AsyncIterator[object]) -> AsyncIterator[bytes]:
    try:
        async for value in values:
            yield base.encode(value)
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
