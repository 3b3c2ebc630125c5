"""Events: replay, live, filters."""

from __future__ import annotations

import asyncio

from cove.engine.events import Events
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
    assert seen(container="abcdef", type="network") == ["connect"]
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
