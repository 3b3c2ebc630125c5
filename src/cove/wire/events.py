"""What happened, as it is told to those who watch."""

from __future__ import annotations

import msgspec

from cove.wire.base import Value


class Actor(Value, frozen=True, kw_only=True):
    id: str = msgspec.field(name="ID")
    attributes: dict[str, str] = {}


class EventMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`type`: "container", "image", "network", "volume" or "daemon"; `time` in Unix seconds."""

    type: str = msgspec.field(name="Type")
    action: str = msgspec.field(name="Action")
    actor: Actor = msgspec.field(name="Actor")
    scope: str = "local"
    time: int
    time_nano: int = msgspec.field(name="timeNano")


class OlderEventMessage(EventMessage, frozen=True, kw_only=True):
    """The event of a container or an image before API 1.52, which says some of it twice."""

    status: str
    id: str
    from_: str | msgspec.UnsetType = msgspec.field(name="from", default=msgspec.UNSET)
