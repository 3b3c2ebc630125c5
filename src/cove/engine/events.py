"""What happened, told to those who watch.

Owns the replay buffer and the subscribers. An event is made once, when the thing it tells of is already
true; nobody waits for a subscriber, and one that does not keep up is ended rather than lied to.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Literal

from cove.errors import InvalidArgument, Unavailable
from cove.wire.events import Actor, EventMessage
from cove.wire.filters import Filters
from cove.wire.times import moment

Kind = Literal["builder", "container", "image", "network", "volume", "daemon"]

_Item = EventMessage | Literal["end", "cut"]
"""What waits for a subscriber; "cut": it did not keep up."""

_REPLAY = 4096
_BACKLOG = 8192
_OBJECTS = ("container", "network", "volume", "daemon", "plugin", "service", "node", "secret", "config")


class Events:
    """Publish and subscribe; both on the event loop's thread."""

    def __init__(self) -> None:
        self._recent: deque[EventMessage] = deque(maxlen=_REPLAY)
        self._subscribers: set[asyncio.Queue[_Item]] = set()

    def emit(self, kind: Kind, action: str, actor: str, attributes: Mapping[str, str] | None = None) -> None:
        """Tell everyone that `action` happened to `actor` (an id or a name)."""
        now = time.time_ns()
        message = EventMessage(
            type=kind,
            action=action,
            actor=Actor(id=actor, attributes=dict(attributes or {})),
            time=now // 10**9,
            time_nano=now,
        )
        self._recent.append(message)
        for queue in tuple(self._subscribers):
            if queue.qsize() >= _BACKLOG:
                self._subscribers.discard(queue)
                queue.put_nowait("cut")
            else:
                queue.put_nowait(message)

    @property
    def listeners(self) -> int:
        return len(self._subscribers)

    def subscribe(
        self,
        *,
        since: str = "",
        until: str = "",
        filters: Filters = Filters(),  # noqa: B008 - frozen
    ) -> AsyncIterator[EventMessage]:
        """Past events from `since` on (with `until` alone, all that are kept), then new ones up to `until`.

        Registered at once: what happens after this returns will be seen. Raises InvalidArgument; the iterator raises
        Unavailable when its reader does not keep up, after what had waited for it.
        """
        now = time.time_ns()
        end = moment(until, now_ns=now) if until else None
        begin = moment(since, now_ns=now) if since else None if end is None else 0
        if begin is not None and end is not None and begin > end:
            raise InvalidArgument(f"`since` time ({since}) cannot be after `until` time ({until})")
        past = [m for m in self._recent if begin is not None and m.time_nano >= begin]
        queue: asyncio.Queue[_Item] = asyncio.Queue()
        if end is None or end > now:
            self._subscribers.add(queue)
        else:
            queue.put_nowait("end")
        due = None if end is None else time.monotonic() + (end - now) / 1e9
        return self._run([m for m in past if end is None or m.time_nano <= end], queue, due, filters)

    async def _run(
        self,
        past: list[EventMessage],
        queue: asyncio.Queue[_Item],
        due: float | None,
        filters: Filters,
    ) -> AsyncIterator[EventMessage]:
        try:
            for message in past:
                if matches(message, filters):
                    yield message
            while not isinstance(next_one := await _take(queue, due), str):
                if matches(next_one, filters):
                    yield next_one
            if next_one == "cut":
                raise Unavailable(
                    f"the events came faster than they were read, and no more than {_BACKLOG} wait: read on from the "
                    "last one's time (--since)"
                )
        finally:
            self._subscribers.discard(queue)


async def _take(queue: asyncio.Queue[_Item], due: float | None) -> _Item:
    """`due`: by the monotonic clock, as a wall clock may be set meanwhile."""
    if due is None:
        return await queue.get()
    try:
        return await asyncio.wait_for(queue.get(), max(0.0, due - time.monotonic()))
    except TimeoutError:
        return "end"


def matches(message: EventMessage, filters: Filters) -> bool:
    """Whether a subscriber with these filters wants the event."""
    attributes = message.actor.attributes
    if not filters.exact("type", message.type) or not filters.exact("scope", message.scope):
        return False
    words = filters.get("event")
    if words and not any(message.action == word or message.action.startswith(f"{word}:") for word in words):
        return False
    for kind in _OBJECTS:
        if kind in filters and not _about(message, kind, filters.get(kind)):
            return False
    if "image" in filters:
        names = {message.actor.id, attributes.get("image", ""), attributes.get("name", "")}
        if not any(name and _same_image(name, wanted) for name in names for wanted in filters.get("image")):
            return False
    return filters.labels(attributes)


def _about(message: EventMessage, kind: str, wanted: tuple[str, ...]) -> bool:
    """Of this kind and this object, or one whose identity or name begins so."""
    names = {message.actor.id, message.actor.attributes.get("name", "")} - {""} if message.type == kind else set()
    return any(name.startswith(word) for name in names for word in wanted)


def _same_image(name: str, wanted: str) -> bool:
    return name == wanted or name.partition(":")[0] == wanted or name == f"{wanted}:latest"
