"""The application: every route over one engine, and the headers that every reply carries."""

from __future__ import annotations

from dataclasses import replace

from cove.api.errors import error_reply
from cove.api.http import App, Hijack, Reply, Request
from cove.api.router import Router
from cove.api.routes import backups, build, buildkit, containers, execs, images, manifests, networks, system, volumes
from cove.engine.engine import Engine
from cove.errors import CoveError
from cove.httpd import messages
from cove.wire.versions import CURRENT, dotted

_HEADERS = (
    ("Api-Version", dotted(CURRENT)),
    ("Docker-Experimental", "false"),
    ("Ostype", "linux"),
)


def application(engine: Engine) -> App:
    """What a `cove.api.server.Server` serves."""
    tables = (backups, build, buildkit, containers, execs, images, manifests, networks, volumes, system)
    router = Router(engine, [route for table in tables for route in table.ROUTES])

    async def app(request: messages.Request) -> Reply:
        try:
            reply = await router(Request.of(request))
        except CoveError as error:
            reply = error_reply(error)
        if isinstance(reply, Hijack):
            return reply
        return replace(reply, headers=_HEADERS + reply.headers)

    return app
