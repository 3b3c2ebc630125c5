"""/exec: further processes in running containers."""

from __future__ import annotations

from cove.api.hijack import hijack
from cove.api.http import RAW, Reply, Request, Response, json_reply
from cove.api.router import Route
from cove.api.routes.containers import dimensions
from cove.engine.containers.streams import Detached
from cove.engine.engine import Engine
from cove.errors import InvalidArgument
from cove.wire.execs import ExecCreateRequest, ExecStartRequest, IdResponse


async def create(engine: Engine, request: Request) -> Reply:
    body = await request.json(ExecCreateRequest)
    if not body.cmd:
        raise InvalidArgument("No exec command specified")
    return json_reply(IdResponse(id=await engine.execs.create(request.params["id"], body)), 201)


async def start(engine: Engine, request: Request) -> Reply:
    attachment = await engine.execs.start(request.params["id"], await request.json(ExecStartRequest))
    if attachment is None:
        return Response(content_type=RAW)
    return hijack(request, attachment, detached=Detached)


async def inspect(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.execs.inspect(request.params["id"]))


async def resize(engine: Engine, request: Request) -> Reply:
    height, width = dimensions(request)
    await engine.execs.resize(request.params["id"], height=height, width=width)
    return Response(content_type="text/plain; charset=utf-8")


ROUTES: tuple[Route[Engine], ...] = (
    Route("POST", "/containers/{id}/exec", create),
    Route("POST", "/exec/{id}/start", start),
    Route("GET", "/exec/{id}/json", inspect),
    Route("POST", "/exec/{id}/resize", resize),
)
