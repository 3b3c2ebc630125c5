"""What happened, as it is told to those who watch."""

from __future__ import annotations

import msgspec

from cove.wire.base import Value


class Actor(Value, frozen=True, kw_only=True):
    id: str = msgspec.field(name="ID")
    attributes: dict[str, str] = {}


class EventMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`status`, `id` and `from_` repeat type container's and image's for clients of old.

    `type`: "container", "image", "network", "volume" or "daemon"; `time` in Unix seconds.
    """

    status: str | msgspec.UnsetType = msgspec.UNSET
    id: str | msgspec.UnsetType = msgspec.UNSET
    from_: str | msgspec.UnsetType = msgspec.field(name="from", default=msgspec.UNSET)
    type: str = msgspec.field(name="Type")
    action: str = msgspec.field(name="Action")
    actor: Actor = msgspec.field(name="Actor")
    scope: str = "local"
    time: int
    time_nano: int = msgspec.field(name="timeNano")
