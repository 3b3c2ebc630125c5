"""/networks."""

from __future__ import annotations

import msgspec

from cove.api import shapes
from cove.api.http import NO_CONTENT, Reply, Request, Response, json_reply
from cove.api.router import Route
from cove.engine.engine import Engine
from cove.wire.networks import (
    NetworkConnectRequest,
    NetworkCreateRequest,
    NetworkDisconnectRequest,
    NetworkUpdateRequest,
)

_IPV4_SINCE = (1, 48)
"""The version of the API that may leave IPv4 out."""
_LIST_FILTERS = ("dangling", "driver", "id", "label", "label!", "name", "scope", "type")
_PRUNE_FILTERS = ("until", "label", "label!")


async def list_(engine: Engine, request: Request) -> Reply:
    found = await engine.networks.list(filters=request.query.filters(_LIST_FILTERS))
    return json_reply([shapes.network_line(each, request.version) for each in found])


async def inspect(engine: Engine, request: Request) -> Reply:
    query = request.query
    found = await engine.networks.inspect(
        request.params["id"], verbose=query.flag("verbose"), scope=query.text("scope")
    )
    return json_reply(shapes.network(found, request.version))


async def create(engine: Engine, request: Request) -> Reply:
    body = await request.json(NetworkCreateRequest)
    if request.version < _IPV4_SINCE:
        body = msgspec.structs.replace(body, enable_ipv4=None)
    return json_reply(await engine.networks.create(body), 201)


async def update(engine: Engine, request: Request) -> Reply:
    await engine.networks.update(request.params["id"], await request.json(NetworkUpdateRequest))
    return NO_CONTENT


async def remove(engine: Engine, request: Request) -> Reply:
    await engine.networks.remove(request.params["id"])
    return NO_CONTENT


async def connect(engine: Engine, request: Request) -> Reply:
    await engine.networks.connect(request.params["id"], await request.json(NetworkConnectRequest))
    return Response()


async def disconnect(engine: Engine, request: Request) -> Reply:
    await engine.networks.disconnect(request.params["id"], await request.json(NetworkDisconnectRequest))
    return Response()


async def prune(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.prune.networks(request.query.filters(_PRUNE_FILTERS)))


async def trace(engine: Engine, request: Request) -> Reply:
    """Cove's own: the way of a packet to a container."""
    return json_reply(await engine.tracing.trace(request.query.text("to")))


ROUTES: tuple[Route[Engine], ...] = (
    Route("GET", "/net/trace", trace),
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("GET", "/networks/{id}", inspect),
    Route("POST", "/networks/{id}/update", update),
    Route("DELETE", "/networks/{id}", remove),
    Route("POST", "/networks/{id}/connect", connect),
    Route("POST", "/networks/{id}/disconnect", disconnect),
)
