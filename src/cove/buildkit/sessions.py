"""Clients' sessions: the connections on which the daemon asks, by the name that the client gave each.

    POST /session (Upgrade: h2c) ─▶ Session ─▶ … ─▶ closed: whoever asks it learns so

A build names its session before or after that connection is there; who needs it waits a moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cove.errors import Conflict, InvalidArgument, NotFound
from cove.grpc.calls import Client
from cove.httpd.messages import Channel

_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Session:
    """One client's session. `shared_key` names, across its builds, the directory that it builds from."""

    identity: str
    shared_key: str
    client: Client = field(repr=False)


class Sessions:
    """All sessions that are open."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}
        self._news = asyncio.Event()

    def check(self, identity: str) -> None:
        """Whether a new session may have this name."""
        if not identity:
            raise InvalidArgument("a session needs the header X-Docker-Expose-Session-Uuid, which names it")
        if identity in self._open:
            raise Conflict(f"session {identity} already exists")

    async def serve(self, identity: str, shared_key: str, channel: Channel) -> None:
        """Keep a session while its connection lasts."""
        self.check(identity)
        client = Client(channel)
        self._open[identity] = Session(identity, shared_key, client)
        self._news.set()
        self._news = asyncio.Event()
        try:
            await client.run()
        finally:
            del self._open[identity]

    async def get(self, identity: str) -> Session:
        """The session, as soon as it is there. Raises NotFound."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while identity not in self._open:
                    await self._news.wait()
        except TimeoutError:
            raise NotFound(f"no active session for {identity or 'this build'}") from None
        return self._open[identity]
