"""The resolver's loop: descriptors and timers in one thread, without asyncio's weight. Knows nothing of DNS."""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
import time
from collections.abc import Callable

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_log = logging.getLogger("cove.dns")


class Timer:
    """A call that is due at a time, unless it is cancelled."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Loop:
    """Used by one thread. What an action raises as OSError is logged and ends that action alone."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def watch(self, fd: int, action: Callable[[], None], events: int = READ) -> None:
        """Call `action` whenever `fd` is ready, instead of what was called before."""
        if fd in self._selector.get_map():
            self._selector.modify(fd, events, action)
        else:
            self._selector.register(fd, events, action)

    def unwatch(self, fd: int) -> None:
        """Idempotent; to be called before `fd` is closed."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def turn(self) -> None:
        """Wait for something and do it."""
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        patience = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        for key, _ in self._selector.select(patience):
            if self._selector.get_map().get(key.fd) is key:
                self._do(key.data)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            action = heapq.heappop(self._timers)[2].action
            if action is not None:
                self._do(action)

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            _log.warning("%s", error)

    def close(self) -> None:
        self._selector.close()
