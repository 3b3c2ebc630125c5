"""/volumes."""

from __future__ import annotations

from cove.api.http import NO_CONTENT, Reply, Request, json_reply
from cove.api.router import Route
from cove.engine.engine import Engine
from cove.wire.volumes import VolumeCreateRequest

_LIST_FILTERS = ("dangling", "driver", "label", "label!", "name")
_PRUNE_FILTERS = ("all", "label", "label!", "until")


async def list_(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.volumes.list(filters=request.query.filters(_LIST_FILTERS)))


async def inspect(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.volumes.inspect(request.params["name"]))


async def create(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.volumes.create(await request.json(VolumeCreateRequest)), 201)


async def remove(engine: Engine, request: Request) -> Reply:
    await engine.volumes.remove(request.params["name"], force=request.query.flag("force"))
    return NO_CONTENT


async def prune(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.prune.volumes(request.query.filters(_PRUNE_FILTERS)))


ROUTES: tuple[Route[Engine], ...] = (
    Route("GET", "/volumes", list_),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{name}", inspect),
    Route("DELETE", "/volumes/{name}", remove),
)
