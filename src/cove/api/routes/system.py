"""The engine about itself, what happens in it, and what it is not (yet)."""

from __future__ import annotations

import msgspec

from cove.api.http import TEXT, Reply, Request, Response, json_reply
from cove.api.router import Route
from cove.api.streams import objects
from cove.engine.engine import Engine
from cove.errors import NotFound, Unavailable, Unsupported
from cove.wire.images import RegistryAuth

_PING = (
    ("Builder-Version", "2"),
    ("Swarm", "inactive"),
    ("Cache-Control", "no-cache, no-store, must-revalidate"),
    ("Pragma", "no-cache"),
)
_NO_BRIDGE_FILTER_SINCE = (1, 50)
_EVENT_FILTERS = (
    "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret",
    "service", "type", "volume",
)  # fmt: skip


async def ping(engine: Engine, request: Request) -> Reply:
    return Response(body=b"OK", content_type=TEXT, headers=_PING)


async def version(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.system.version())


async def info(engine: Engine, request: Request) -> Reply:
    found = await engine.system.info()
    if request.version < _NO_BRIDGE_FILTER_SINCE:
        # Cove's rules see packets of bridges without the kernel's br_netfilter.
        found = msgspec.structs.replace(found, bridge_nf_iptables=True, bridge_nf_ip6tables=True)
    return json_reply(found)


async def df(engine: Engine, request: Request) -> Reply:
    query = request.query
    return json_reply(await engine.disk_usage.measure(query.texts("type"), items=query.flag("verbose")))


async def auth(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.system.auth(await request.json(RegistryAuth)))


async def events(engine: Engine, request: Request) -> Reply:
    query = request.query
    watched = engine.events.subscribe(
        since=query.text("since"), until=query.text("until"), filters=query.filters(_EVENT_FILTERS)
    )
    return objects(watched)


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
