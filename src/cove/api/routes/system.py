"""The engine about itself, what happens in it, and what it is not (yet)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from cove.api import shapes
from cove.api.http import JSON, TEXT, Reply, Request, Response, json_reply
from cove.api.router import Route
from cove.api.streams import JSON_LINES, accepted, close, objects
from cove.engine.engine import Engine
from cove.errors import NotFound, Unavailable, Unsupported
from cove.wire.events import EventMessage
from cove.wire.images import RegistryAuth

_PING = (
    ("Builder-Version", "2"),
    ("Swarm", "inactive"),
    ("Cache-Control", "no-cache, no-store, must-revalidate"),
    ("Pragma", "no-cache"),
)
_KINDS_SINCE = (1, 42)
_EVENT_FILTERS = (
    "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret",
    "service", "type", "volume",
)  # fmt: skip


async def ping(engine: Engine, request: Request) -> Reply:
    return Response(body=b"OK", content_type=TEXT, headers=_PING)


async def version(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.system.version())


async def info(engine: Engine, request: Request) -> Reply:
    return json_reply(shapes.info(await engine.system.info(), request.version))


async def df(engine: Engine, request: Request) -> Reply:
    query = request.query
    verbose = query.flag("verbose") and request.version >= shapes.LEAN
    kinds = query.texts("type") if request.version >= _KINDS_SINCE else ()
    found = await engine.disk_usage.measure(kinds, items=verbose)
    return json_reply(shapes.disk_usage(found, request.version, verbose=verbose))


async def auth(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.system.auth(await request.json(RegistryAuth)))


async def events(engine: Engine, request: Request) -> Reply:
    query = request.query
    watched = engine.events.subscribe(
        since=query.text("since"), until=query.text("until"), filters=query.filters(_EVENT_FILTERS)
    )
    kind = JSON if request.version < shapes.LEAN else JSON_LINES
    return objects(_known(watched, request), accepted(request, kind))


async def _known(watched: AsyncIterator[EventMessage], request: Request) -> AsyncIterator[EventMessage]:
    try:
        async for message in watched:
            shown = shapes.event(message, request.version)
            if shown is not None:
                yield shown
    finally:
        await close(watched)


async def no_plugins(engine: Engine, request: Request) -> Reply:
    return json_reply([])


async def refuse_plugins(engine: Engine, request: Request) -> Reply:
    raise Unsupported("Cove has no plugins: its drivers are part of it; see docker info or cove info for their names")


async def no_plugin(engine: Engine, request: Request) -> Reply:
    raise NotFound(f'plugin "{request.params["name"]}" not found: Cove has no plugins')


async def no_swarm(engine: Engine, request: Request) -> Reply:
    raise Unavailable(
        "This node is not a swarm manager. Cove has no swarm mode; run the containers on this host instead"
    )


_PLUGIN_VERBS = ("enable", "disable", "upgrade", "push", "set")
_SWARM = ("swarm", "nodes", "services", "tasks", "secrets", "configs")

ROUTES: tuple[Route[Engine], ...] = (
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/system/df", df),
    Route("POST", "/auth", auth),
    Route("GET", "/events", events),
    Route("GET", "/plugins", no_plugins),
    Route("GET", "/plugins/{name:path}/json", no_plugin),
    Route("DELETE", "/plugins/{name:path}", no_plugin),
    *(Route("POST", f"/plugins/{{name:path}}/{verb}", no_plugin) for verb in _PLUGIN_VERBS),
    Route("GET", "/plugins/privileges", refuse_plugins),
    Route("POST", "/plugins/pull", refuse_plugins),
    Route("POST", "/plugins/create", refuse_plugins),
    *(Route(method, f"/{noun}", no_swarm) for noun in _SWARM for method in ("GET", "POST")),
    *(Route(method, f"/{noun}/{{rest:path}}", no_swarm) for noun in _SWARM for method in ("GET", "POST", "DELETE")),
)
