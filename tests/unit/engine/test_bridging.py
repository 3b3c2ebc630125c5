"""Between threads that block and coroutines that wait."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from cove.engine.bridging import Sink, blocking, told
from cove.engine.executors import Executors
from cove.errors import Unavailable


def test_work_whose_listener_goes_before_the_first_word_is_cancelled_and_its_failure_is_nobodys() -> None:
    complaints: list[dict[str, Any]] = []
    ended = threading.Event()

    def work(_: Sink, cancel: threading.Event) -> None:
        cancel.wait(10)
        ended.set()
        raise Unavailable("cancelled" if cancel.is_set() else "forgotten")

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        executors = Executors()
        listening = asyncio.create_task(told(executors, work))
        await asyncio.sleep(0.05)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        await asyncio.to_thread(ended.wait, 10)
        await asyncio.sleep(0.05)
        executors.close()

    asyncio.run(go())
    assert ended.is_set() and complaints == []


def test_a_body_comes_whole_however_it_was_cut() -> None:
    async def body() -> Any:
        for number in range(300):
            yield bytes([number % 256]) * 9000

    async def go() -> bytes:
        pieces = blocking(body())
        return b"".join(await asyncio.to_thread(list, pieces))

    assert asyncio.run(go()) == b"".join(bytes([number % 256]) * 9000 for number in range(300))
