"""The supervisor's event loop: descriptors that became readable, and calls that are due. Nothing else."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

Handler = Callable[[], None]


class Loop:
    """One epoll. Level-triggered: a handler that leaves something is called again in the next turn."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._due: list[tuple[float, int, Handler]] = []
        self._order = itertools.count()

    def watch(self, fd: int, handler: Handler) -> None:
        """Call `handler` whenever `fd` is readable or at its end."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> bool:
        """Forget `fd`, before it is closed; whether it was watched."""
        if self._handlers.pop(fd, None) is None:
            return False
        self._epoll.unregister(fd)
        return True

    def later(self, seconds: float, handler: Handler) -> None:
        """Call `handler` once, in about `seconds`."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), handler))

    def turn(self) -> None:
        """Wait for something and handle all that is ready, each once."""
        timeout = max(self._due[0][0] - time.monotonic(), 0) if self._due else None
        for fd, _ in self._epoll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
