"""Who has a thing by its name: several that share it, or one alone. Whoever waits has the next turn.

For one event loop; taking what is free does not give way to others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_ALONE = -1


class Turns:
    """The users of all things of one kind."""

    def __init__(self) -> None:
        self._users: dict[str, int] = {}
        self._waiting: dict[str, deque[tuple[bool, asyncio.Future[None]]]] = {}

    def taken(self, name: str) -> bool:
        """Whether anybody has it, or waits for it."""
        return name in self._users or name in self._waiting

    @asynccontextmanager
    async def held(self, name: str, *, alone: bool) -> AsyncIterator[None]:
        """Have it for the time of a `with`."""
        await self._take(name, alone)
        try:
            yield
        finally:
            self._leave(name)

    async def _take(self, name: str, alone: bool) -> None:
        if name not in self._waiting and self._fits(name, alone):
            self._enter(name, alone)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append((alone, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._next(name)
            else:
                self._leave(name)  # its turn came in the same moment
            raise

    def _fits(self, name: str, alone: bool) -> bool:
        users = self._users.get(name, 0)
        return users == 0 if alone else users != _ALONE

    def _enter(self, name: str, alone: bool) -> None:
        self._users[name] = _ALONE if alone else self._users.get(name, 0) + 1

    def _leave(self, name: str) -> None:
        users = self._users.pop(name)
        if users > 1:
            self._users[name] = users - 1
        self._next(name)

    def _next(self, name: str) -> None:
        """Give those their turn who can have it now."""
        queue = self._waiting.get(name, deque())
        while queue and (queue[0][1].done() or self._fits(name, queue[0][0])):
            alone, turn = queue.popleft()
            if not turn.done():
                self._enter(name, alone)
                turn.set_result(None)
        if not queue:
            self._waiting.pop(name, None)
