"""Cove's own: backups of containers.

GET  /containers/{id}/backup    an archive            ?volumes=0 ?image=0 ?pause=0: without these
POST /containers/{id}/backup    ?to=NAME: to a registry, with its progress
POST /containers/restore        the body is an archive, or ?from=NAME names one at a registry
                                ?name= ?volume=OLD%3DNEW, repeatable: other names here
                                ?trust=1: with all that it asks for of the host
"""

from __future__ import annotations

from cove.api.http import TAR, Reply, Request, Stream, json_reply
from cove.api.router import Route
from cove.api.streams import progress
from cove.engine.backup import restores
from cove.engine.backup.backups import Wishes
from cove.engine.engine import Engine
from cove.errors import InvalidArgument


async def save(engine: Engine, request: Request) -> Reply:
    return Stream(await engine.backups.save(request.params["id"], _wishes(request)), content_type=TAR)


async def push(engine: Engine, request: Request) -> Reply:
    target = request.query.text("to")
    if not target:
        raise InvalidArgument("The parameter to=NAME is missing: it names the backup at its registry")
    auth = request.headers.get("x-registry-auth", "")
    return progress(await engine.backups.push(request.params["id"], target, _wishes(request), auth=auth))


async def restore(engine: Engine, request: Request) -> Reply:
    query = request.query
    wishes = restores.Wishes(
        name=query.text("name"),
        volumes=dict(_pair(text) for text in query.texts("volume")),
        trust=query.flag("trust"),
    )
    if source := query.text("from"):
        auth = request.headers.get("x-registry-auth", "")
        made = await engine.restores.pull(source, wishes, auth=auth)
    else:
        made = await engine.restores.load(request.body, wishes)
    return json_reply(made, 201)


def _wishes(request: Request) -> Wishes:
    query = request.query
    return Wishes(
        volumes=query.flag("volumes", default=True),
        image=query.flag("image", default=True),
        pause=query.flag("pause", default=True),
    )


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise InvalidArgument(f"the parameter volume={text!r} is not of the form OLD=NEW")
    return old, new


ROUTES: tuple[Route[Engine], ...] = (
    Route("GET", "/containers/{id}/backup", save),
    Route("POST", "/containers/{id}/backup", push),
    Route("POST", "/containers/restore", restore),
)
