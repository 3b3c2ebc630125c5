"""/cove/manifests: manifest lists, which Docker's command makes without its daemon."""

from __future__ import annotations

from cove.api.http import Reply, Request, Response, json_reply
from cove.api.router import Route
from cove.engine.engine import Engine
from cove.wire.execs import IdResponse
from cove.wire.images import ManifestAnnotateRequest, ManifestCreateRequest


async def create(engine: Engine, request: Request) -> Reply:
    made = await engine.manifests.create(request.params["name"], await request.json(ManifestCreateRequest))
    return json_reply(IdResponse(id=made), 201)


async def annotate(engine: Engine, request: Request) -> Reply:
    made = await engine.manifests.annotate(request.params["name"], await request.json(ManifestAnnotateRequest))
    return json_reply(IdResponse(id=made))


async def document(engine: Engine, request: Request) -> Reply:
    auth = request.headers.get("x-registry-auth", "")
    raw = await engine.manifests.document(request.params["name"], auth=auth)
    return Response(body=raw, content_type="application/json")


ROUTES: tuple[Route[Engine], ...] = (
    Route("POST", "/cove/manifests/{name:path}/annotate", annotate),
    Route("POST", "/cove/manifests/{name:path}", create),
    Route("GET", "/cove/manifests/{name:path}", document),
)
