"""Threads for work that blocks, by name and bounded, so that one kind never starves another.

Small system calls run inline on the event loop: a thread hop costs more than they do. What may wait for a
disk goes to `disk`, what moves much data to `bulk`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Executors:
    """The daemon's thread pools; `close` waits for what has begun."""

    def __init__(self, *, disk: int = 4, bulk: int = 16) -> None:
        self._disk = ThreadPoolExecutor(disk, thread_name_prefix="disk")
        self._bulk = ThreadPoolExecutor(bulk, thread_name_prefix="bulk")

    async def disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something short that may wait for the disk."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, lambda: function(*args, **kwargs))

    async def bulk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something long: an archive, a layer, a transfer."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._bulk, lambda: function(*args, **kwargs))

    async def stream(self, items: Iterator[T]) -> AsyncIterator[T]:
        """Iterate over something whose every step blocks; closes it when the consumer goes away."""
        end = object()
        step: asyncio.Future[object] | None = None
        try:
            while True:
                step = asyncio.ensure_future(self.bulk(next, items, end))
                item = await asyncio.shield(step)
                if item is end:
                    break
                yield item  # type: ignore[misc]
        finally:
            if step is not None and not step.done():
                await asyncio.wait([step])  # a generator that runs in its thread cannot be closed
                step.exception()  # why it failed is nobody's any more
            close = getattr(items, "close", None)
            if close is not None:
                await self.bulk(close)

    def close(self) -> None:
        self._disk.shutdown(wait=True, cancel_futures=True)
        self._bulk.shutdown(wait=False, cancel_futures=True)
