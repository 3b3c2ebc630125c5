"""Streams of containers, apart from what flows through them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from cove.engine.containers.streams import Streams


class _Stream:
    finished = False

    def finish(self) -> None:
        self.finished = True


def test_a_closed_stream_no_longer_waits_for_the_containers_end() -> None:
    """A container that runs for years would keep something of every client that ever was attached."""

    async def go() -> tuple[asyncio.Future[Any], _Stream]:
        waiting: list[asyncio.Future[Any]] = []

        def wait(*_: object, **__: object) -> asyncio.Future[Any]:
            waiting.append(asyncio.get_running_loop().create_future())
            return waiting[-1]

        streams: Any = Streams(*(SimpleNamespace(wait=wait) for _ in range(3)))  # type: ignore[arg-type]
        container, gone, stays = SimpleNamespace(id="c"), _Stream(), _Stream()
        for stream in (gone, stays):
            streams._at_end(container, stream)
        streams.forget(container, gone)
        waiting[1].set_result(None)
        await asyncio.sleep(0)
        return waiting[0], stays

    first, stays = asyncio.run(go())
    assert first.cancelled() and stays.finished
