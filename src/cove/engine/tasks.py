"""Background tasks, all in one group: none is an orphan, and a failure in one is told and contained."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from cove.errors import CoveError

_log = logging.getLogger("cove.engine")


class Tasks:
    """Begins tasks and ends them all at close."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something beside the requests."""
        task = asyncio.get_running_loop().create_task(self._guard(work, name), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _guard(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except CoveError as error:
            _log.error("%s: %s", name, error.message)
        except Exception:
            _log.exception("%s failed; the daemon goes on", name)

    async def close(self) -> None:
        """Cancel everything and wait for it."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
