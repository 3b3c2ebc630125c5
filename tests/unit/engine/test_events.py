"""Events: replay, live, filters."""

from __future__ import annotations

import asyncio
import time

import pytest

from cove.engine.events import Events
from cove.errors import InvalidArgument, Unavailable
from cove.wire.events import EventMessage
from cove.wire.filters import Filters


def actions(found: list[EventMessage]) -> list[str]:
    return [message.action for message in found]


async def _collect(events: Events, filters: Filters, since: str = "0", until: str = "0s") -> list[EventMessage]:
    return [message async for message in events.subscribe(since=since, until=until, filters=filters)]


def test_replay_and_filters() -> None:
    events = Events()
    events.emit("container", "start", "abcdef", {"image": "busybox", "name": "box", "role": "web"})
    events.emit("container", "health_status: healthy", "abcdef", {"image": "busybox", "name": "box"})
    events.emit("network", "connect", "n1", {"name": "net", "container": "abcdef"})

    def seen(**terms: str) -> list[str]:
        filters = Filters({name: (term,) for name, term in terms.items()})
        return actions(asyncio.run(_collect(events, filters)))

    assert seen() == ["start", "health_status: healthy", "connect"]
    assert seen(type="network") == ["connect"]
    assert seen(event="health_status") == ["health_status: healthy"]
    assert seen(container="box") == ["start", "health_status: healthy"]
    assert seen(container="abcdef", type="network") == []
    assert seen(label="role=web") == ["start"]
    assert seen(image="busybox") == ["start", "health_status: healthy"]


def test_what_happens_after_subscribing_is_seen() -> None:
    async def live() -> str:
        events = Events()
        stream = events.subscribe()
        events.emit("volume", "create", "v")
        async for message in stream:
            return message.action
        return ""

    assert asyncio.run(live()) == "create"


def test_an_end_alone_means_all_that_is_kept() -> None:
    events = Events()
    events.emit("container", "start", "abcdef", {"name": "box"})
    assert len(asyncio.run(_collect(events, Filters(), since=""))) == 1
    with pytest.raises(InvalidArgument, match="cannot be after"):
        asyncio.run(_collect(events, Filters(), since="2000-01-02T00:00:00Z", until="2000-01-01T00:00:00Z"))


def test_who_reads_too_slowly_hears_what_was_kept_and_that_it_is_not_all() -> None:
    async def slow() -> tuple[int, int]:
        events, read = Events(), 0
        stream = events.subscribe()
        for number in range(100_000):
            events.emit("container", "start", str(number))
        with pytest.raises(Unavailable, match="faster than they were read"):
            async for message in stream:
                assert message.actor.id == str(read)
                read += 1
        return read, events.listeners

    read, listeners = asyncio.run(slow())
    assert 0 < read < 100_000 and listeners == 0


def test_an_end_is_reached_though_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def until_soon() -> list[str]:
        events = Events()
        stream = events.subscribe(until=f"{time.time() + 0.5:.9f}")
        yesterday = time.time_ns() - 86400 * 10**9
        monkeypatch.setattr(time, "time_ns", lambda: yesterday)
        events.emit("container", "start", "a")
        async with asyncio.timeout(60):
            return [message.action async for message in stream]

    assert asyncio.run(until_soon()) == ["start"]
