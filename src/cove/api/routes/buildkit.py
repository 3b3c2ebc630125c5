"""/session and /grpc: the two connections of BuildKit's clients; what is behind them is imported with the first."""

from __future__ import annotations

from cove.api.http import Channel, Hijack, Reply, Request
from cove.api.router import Route
from cove.engine.engine import Engine
from cove.errors import InvalidArgument

_HEAD = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
_SESSION = "x-docker-expose-session-"


async def session(engine: Engine, request: Request) -> Reply:
    """The client serves on this connection: its files, secrets, agents and credentials."""
    _check(request)
    from cove.buildkit.door import door

    sessions = door(engine).sessions
    identity = request.headers.get(f"{_SESSION}uuid", "")
    shared_key = request.headers.get(f"{_SESSION}sharedkey", "")
    sessions.check(identity)

    async def run(channel: Channel) -> None:
        await sessions.serve(identity, shared_key, channel)

    return Hijack(head=_HEAD, run=run)


async def grpc(engine: Engine, request: Request) -> Reply:
    """The client asks on this connection."""
    _check(request)
    from cove.buildkit.door import door

    return Hijack(head=_HEAD, run=door(engine).serve)


def _check(request: Request) -> None:
    protocol = request.headers.get("upgrade", "") if request.upgrades else ""
    if not protocol:
        raise InvalidArgument("no upgrade proto in request: this call is the beginning of another protocol (h2c)")
    if protocol != "h2c":
        raise InvalidArgument(f"protocol {protocol} not supported: only h2c is")


ROUTES: tuple[Route[Engine], ...] = (
    Route("POST", "/session", session),
    Route("POST", "/grpc", grpc),
)
"""Both are older than any version of the API."""
