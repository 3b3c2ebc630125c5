"""The door as a whole: its sessions, its jobs, and the services over them.

    /session ─▶ Door.session      /grpc ─▶ Door.serve: moby.buildkit.v1.Control · …frontend.LLBBridge · grpc.health.v1

One for each engine, made with the first request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from weakref import WeakKeyDictionary

from cove.buildkit.bridge import Bridge
from cove.buildkit.build_call import BuildCall
from cove.buildkit.control import Control
from cove.buildkit.history import History
from cove.buildkit.jobs import Jobs
from cove.buildkit.messages import control, gateway
from cove.buildkit.messages.common import BytesMessage, Empty
from cove.buildkit.sessions import Sessions
from cove.engine.engine import Engine
from cove.grpc.calls import Call, Handler, serve, unary
from cove.grpc.protobuf import Message
from cove.httpd.messages import Channel

_SERVING = 1
_NAMES = ("uuid", "sharedkey")


class _Tunnel:
    """A connection whose bytes are a call's messages."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def read(self) -> bytes:
        message = await self._call.receive(BytesMessage)
        return message.data if message is not None else b""

    async def write(self, data: bytes) -> None:
        await self._call.send(BytesMessage(data=data))


class HealthResponse(Message, frozen=True):
    """grpc.health.v1.HealthCheckResponse."""

    status: Annotated[int, 1] = 0


class Door:
    """One engine's."""

    def __init__(self, engine: Engine) -> None:
        self.sessions = Sessions()
        self.jobs = Jobs(engine.builds, self.sessions)
        self.control = Control(engine, self.jobs)
        self.calls = BuildCall(self.jobs, self.control)
        history = History(self.jobs)
        bridge = Bridge(self.jobs, self.control.worker)
        self._methods: Mapping[str, Handler] = {
            **{f"/{control.SERVICE}/{name}": handler for name, handler in self.control.methods().items()},
            **{f"/{control.SERVICE}/{name}": handler for name, handler in history.methods().items()},
            **history.content(),
            f"/{control.SERVICE}/Session": self._tunnelled,
            **{f"/{gateway.SERVICE}/{name}": handler for name, handler in bridge.methods().items()},
            "/grpc.health.v1.Health/Check": unary(Empty, _healthy),
        }

    async def _tunnelled(self, call: Call) -> None:
        """A session within a call, of clients that have no other connection (`buildctl`)."""
        named, shared = (call.metadata.get(f"x-docker-expose-session-{name}", [""])[0] for name in _NAMES)
        await self.sessions.serve(named, shared, _Tunnel(call))

    async def serve(self, channel: Channel) -> None:
        """A connection to the services."""
        await serve(channel, self._methods)


async def _healthy(call: Call, request: Empty) -> HealthResponse:
    return HealthResponse(status=_SERVING)


_doors: WeakKeyDictionary[Engine, Door] = WeakKeyDictionary()


def door(engine: Engine) -> Door:
    """The engine's door."""
    found = _doors.get(engine)
    if found is None:
        found = _doors[engine] = Door(engine)
    return found
