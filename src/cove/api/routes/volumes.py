"""/volumes."""

from __future__ import annotations

from cove.api.http import NO_CONTENT, TAR, Reply, Request, Stream, json_reply
from cove.api.router import Route
from cove.engine.engine import Engine
from cove.errors import InvalidArgument, Unsupported
from cove.wire.filters import Filters
from cove.wire.volumes import VolumeCreateRequest

_LIST_FILTERS = ("dangling", "driver", "label", "label!", "name")
_PRUNE_FILTERS = ("all", "label", "label!", "until")
_ANONYMOUS_ALONE_SINCE = (1, 42)


async def list_(engine: Engine, request: Request) -> Reply:
    query = request.query
    return json_reply(await engine.volumes.view.list(filters=query.filters(_LIST_FILTERS), size=query.flag("size")))


async def inspect(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.volumes.view.inspect(request.params["name"]))


async def create(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.volumes.create(await request.json(VolumeCreateRequest)), 201)


async def remove(engine: Engine, request: Request) -> Reply:
    await engine.volumes.remove(request.params["name"], force=request.query.flag("force"))
    return NO_CONTENT


async def export(engine: Engine, request: Request) -> Reply:
    return Stream(await engine.volume_moves.export(request.params["name"]), content_type=TAR)


async def import_(engine: Engine, request: Request) -> Reply:
    await engine.volume_moves.import_(request.params["name"], request.body)
    return NO_CONTENT


async def clone(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.volume_moves.clone(request.params["name"], _target(request)), 201)


async def snapshot(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.volume_moves.snapshot(request.params["name"], request.query.text("to")), 201)


async def rename(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.volume_moves.rename(request.params["name"], _target(request)))


def _target(request: Request) -> str:
    to = request.query.text("to")
    if not to:
        raise InvalidArgument("The parameter to=NAME is missing: it names the new volume")
    return to


async def update(engine: Engine, request: Request) -> Reply:
    await engine.volumes.view.inspect(request.params["name"])
    raise Unsupported("Only volumes of a cluster can be updated, and Cove has none; make another volume and copy")


async def prune(engine: Engine, request: Request) -> Reply:
    filters = request.query.filters(_PRUNE_FILTERS)
    if request.version < _ANONYMOUS_ALONE_SINCE and "all" not in filters:
        filters = Filters({**filters.terms, "all": ("true",)})
    return json_reply(await engine.prune.volumes(filters))


ROUTES: tuple[Route[Engine], ...] = (
    Route("GET", "/volumes", list_),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{name}", inspect),
    Route("DELETE", "/volumes/{name}", remove),
    Route("PUT", "/volumes/{name}", update),
    # Cove's own:
    Route("GET", "/volumes/{name}/archive", export),
    Route("PUT", "/volumes/{name}/archive", import_),
    Route("POST", "/volumes/{name}/clone", clone),
    Route("POST", "/volumes/{name}/snapshot", snapshot),
    Route("POST", "/volumes/{name}/rename", rename),
)
