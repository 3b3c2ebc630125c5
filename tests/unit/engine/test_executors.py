"""Streams of blocking work whose consumer goes away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

from cove.engine.executors import Executors


def test_a_failure_after_the_consumer_has_gone_is_nobodys() -> None:
    complaints: list[dict[str, Any]] = []
    asked, gone = threading.Event(), threading.Event()

    def failing() -> Iterator[bytes]:
        asked.set()
        gone.wait()
        raise OSError("it went meanwhile")
        yield b""

    async def consume() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        executors = Executors(disk=1, bulk=2)
        task = asyncio.create_task(anext(executors.stream(failing())))  # type: ignore[arg-type]
        await asyncio.to_thread(asked.wait)
        task.cancel()
        asyncio.get_running_loop().call_later(0.01, gone.set)
        await asyncio.wait([task])
        assert task.cancelled()
        executors.close()

    asyncio.run(consume())
    assert complaints == []
