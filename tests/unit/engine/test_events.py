"""Events: replay, live, filters."""

from __future__ import annotations

import asyncio

import pytest

from cove.engine.events import Events
from cove.errors import InvalidArgument
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
