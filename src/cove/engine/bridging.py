"""Between threads that block and coroutines that wait: bodies going in, progress coming out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from cove.engine.executors import Executors

Message = dict[str, Any]
Sink = Callable[[Message], None]
_AT_ONCE = 1 << 20


def blocking(stream: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop | None = None) -> Iterator[bytes]:
    """A body of a request, to be read in a thread; call this on the loop's own thread, or name the loop.

    From thread to thread goes much at once: each way there and back costs as much as copying a hundred KiB.
    """
    own = loop or asyncio.get_running_loop()

    async def following() -> bytes:
        pieces, size = [], 0
        while size < _AT_ONCE and (piece := await anext(stream, None)) is not None:
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def pieces() -> Iterator[bytes]:
        while piece := asyncio.run_coroutine_threadsafe(following(), own).result():
            yield piece

    return pieces()


async def told(
    executors: Executors,
    work: Callable[[Sink, threading.Event], None],
    *,
    at_once: bool = False,
) -> AsyncIterator[Message]:
    """Run `work(sink, cancel)` in a thread: its messages as they come.

    What fails before the first message is raised here (with `at_once`, too, by the iterator), later failures by
    the iterator. A consumer that goes away sets `cancel`.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Message | None] = asyncio.Queue()
    cancel = threading.Event()

    def sink(message: Message) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, message)

    running = asyncio.ensure_future(executors.bulk(work, sink, cancel))
    running.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever listens hears of it
    running.add_done_callback(lambda _: queue.put_nowait(None))
    if at_once:
        return _messages({}, queue, running, cancel)
    try:
        first = await queue.get()
    except asyncio.CancelledError:
        cancel.set()
        raise
    if first is None:
        await running
    return _messages(first, queue, running, cancel)


async def _messages(
    first: Message | None,
    queue: asyncio.Queue[Message | None],
    running: asyncio.Future[None],
    cancel: threading.Event,
) -> AsyncIterator[Message]:
    message = first
    try:
        while message is not None:
            if message:
                yield message
            message = await queue.get()
        await running
    finally:
        cancel.set()
