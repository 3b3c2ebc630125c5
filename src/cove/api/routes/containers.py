"""/containers: create, look, change, remove."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Awaitable

import msgspec

from cove.api import requests, shapes
from cove.api.hijack import carry, hijack, stream_type
from cove.api.http import NO_CONTENT, TAR, Channel, Hijack, Reply, Request, Response, Stream, json_reply
from cove.api.router import Route
from cove.api.streams import objects
from cove.api.websocket import WebSocket, handshake
from cove.engine.containers.streams import Attachment, Detached, LogStream
from cove.engine.engine import Engine
from cove.errors import InvalidArgument, Unsupported
from cove.wire import base
from cove.wire.containers import (
    CreateRequest,
    WaitResponse,
)

_LIST_FILTERS = (
    "ancestor", "before", "expose", "exited", "health", "id", "isolation", "is-task", "label", "label!", "name",
    "network", "publish", "since", "status", "volume",
)  # fmt: skip
_PRUNE_FILTERS = ("until", "label", "label!")
_CHECKPOINT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_WAIT_CONDITIONS = ("", "not-running", "next-exit", "removed")


async def list_(engine: Engine, request: Request) -> Reply:
    query = request.query
    found = await engine.containers.list(
        all=query.flag("all"),
        limit=max(query.number("limit") or 0, 0),
        size=query.flag("size"),
        filters=query.filters(_LIST_FILTERS),
    )
    return json_reply([shapes.container_line(each, request.version) for each in found])


async def create(engine: Engine, request: Request) -> Reply:
    body = requests.create(await request.json(CreateRequest), request.version)
    query = request.query
    made = await engine.containers.create(body, name=query.text("name"), platform=query.text("platform"))
    warnings = (*made.warnings, *requests.warnings(body, request.version))
    return json_reply(msgspec.structs.replace(made, warnings=warnings), 201)


async def inspect(engine: Engine, request: Request) -> Reply:
    found = await engine.containers.inspect(request.params["id"], size=request.query.flag("size"))
    return json_reply(shapes.container(found, request.version))


async def explain(engine: Engine, request: Request) -> Reply:
    """Cove's own: how a container is isolated."""
    return json_reply(await engine.explanations.container(request.params["id"]))


async def explain_plan(engine: Engine, request: Request) -> Reply:
    """Cove's own: how a container would be, with the body and the errors of a create; nothing is made."""
    body = await request.json(CreateRequest)
    query = request.query
    plan = await engine.explanations.plan(body, name=query.text("name"), platform=query.text("platform"))
    return json_reply(plan)


async def rename(engine: Engine, request: Request) -> Reply:
    name = request.query.text("name").removeprefix("/")
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty")
    await engine.containers.rename(request.params["id"], name)
    return NO_CONTENT


async def update(engine: Engine, request: Request) -> Reply:
    body, cleared = requests.update(await request.json_text(), request.version)
    return json_reply(await engine.containers.update(request.params["id"], body, cleared=cleared))


async def remove(engine: Engine, request: Request) -> Reply:
    query = request.query
    await engine.containers.remove(
        request.params["id"], force=query.flag("force"), volumes=query.flag("v"), link=query.flag("link")
    )
    return NO_CONTENT


async def prune(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.prune.containers(request.query.filters(_PRUNE_FILTERS)))


# ── life ──────────────────────────────────────────────────────────────────────────────────────────


async def start(engine: Engine, request: Request) -> Reply:
    checkpoint = request.query.text("checkpoint")
    if checkpoint and not _CHECKPOINT.fullmatch(checkpoint):
        raise InvalidArgument(f'invalid checkpoint ID "{checkpoint}": letters, digits, _, . and - are possible')
    if checkpoint:
        raise Unsupported("there are no checkpoints of containers: start it without one")
    await engine.lifecycle.start(request.params["id"])
    return NO_CONTENT


async def stop(engine: Engine, request: Request) -> Reply:
    query = request.query
    await engine.lifecycle.stop(request.params["id"], timeout=query.number("t"), signal=query.text("signal"))
    return NO_CONTENT


async def restart(engine: Engine, request: Request) -> Reply:
    query = request.query
    await engine.lifecycle.restart(request.params["id"], timeout=query.number("t"), signal=query.text("signal"))
    return NO_CONTENT


async def kill(engine: Engine, request: Request) -> Reply:
    await engine.lifecycle.kill(request.params["id"], signal=request.query.text("signal"))
    return NO_CONTENT


async def pause(engine: Engine, request: Request) -> Reply:
    await engine.lifecycle.pause(request.params["id"])
    return NO_CONTENT


async def unpause(engine: Engine, request: Request) -> Reply:
    await engine.lifecycle.unpause(request.params["id"])
    return NO_CONTENT


async def wait(engine: Engine, request: Request) -> Reply:
    """The header goes out as soon as the wait is registered: clients start the container after it."""
    condition = request.query.text("condition")
    if condition not in _WAIT_CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    identity = engine.containers.identity(request.params["id"])
    return Stream(_ended(engine, identity, engine.lifecycle.wait(identity, condition=condition)))


async def _ended(engine: Engine, identity: str, exit_: Awaitable[WaitResponse]) -> AsyncIterator[bytes]:
    found = await exit_
    await engine.streams.delivered(identity)
    yield base.encode(found)


# ── streams ───────────────────────────────────────────────────────────────────────────────────────


async def _attached(engine: Engine, request: Request, *, framed: bool = True) -> Attachment:
    query = request.query
    return await engine.streams.attach(
        request.params["id"],
        stdin=query.flag("stdin"),
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        stream=query.flag("stream"),
        logs=query.flag("logs"),
        detach_keys=query.text("detachKeys"),
        framed=framed,
    )


async def attach(engine: Engine, request: Request) -> Reply:
    attachment = await _attached(engine, request)
    return hijack(request, attachment, detached=Detached)


async def attach_socket(engine: Engine, request: Request) -> Reply:
    """The same over a WebSocket, always as one raw stream."""
    engine.containers.identity(request.params["id"])
    head = handshake(request)
    attachment = await _attached(engine, request, framed=False)

    async def run(channel: Channel) -> None:
        socket = WebSocket(channel)
        await carry(socket, attachment, detached=Detached)
        await socket.close()

    return Hijack(head=head, run=run)


async def logs(engine: Engine, request: Request) -> Reply:
    query = request.query
    stdout, stderr = query.flag("stdout"), query.flag("stderr")
    if not stdout and not stderr:
        raise InvalidArgument("must specify at least one of 'stdout' or 'stderr'")
    stream = await engine.streams.logs(
        request.params["id"],
        stdout=stdout,
        stderr=stderr,
        follow=query.flag("follow"),
        since=query.text("since"),
        until=query.text("until"),
        timestamps=query.flag("timestamps"),
        tail=query.text("tail", "all"),
        details=query.flag("details"),
    )
    return Stream(_log_bytes(stream), content_type=stream_type(request, tty=stream.tty))


async def _log_bytes(stream: LogStream) -> AsyncIterator[bytes]:
    try:
        async for data in stream.output():
            yield data
    finally:
        await stream.close()


async def resize(engine: Engine, request: Request) -> Reply:
    height, width = dimensions(request)
    await engine.streams.resize(request.params["id"], height=height, width=width)
    return Response(content_type="text/plain; charset=utf-8")


def dimensions(request: Request) -> tuple[int, int]:
    """A terminal's height and width in characters."""
    return _dimension(request, "h", "height"), _dimension(request, "w", "width")


def _dimension(request: Request, name: str, called: str) -> int:
    text = request.query.text(name)
    if not text.removeprefix("-").isdecimal():
        raise InvalidArgument(f'invalid resize {called} "{text}": invalid syntax; a number of characters is needed')
    if not 0 <= int(text) < 65536:
        raise InvalidArgument(f'invalid resize {called} "{text}": value out of range; it is from 0 to 65535')
    return int(text)


async def stats(engine: Engine, request: Request) -> Reply:
    query = request.query
    if query.flag("stream", default=True):
        return objects(engine.stats.stream(request.params["id"]))
    return json_reply(await engine.stats.once(request.params["id"], one_shot=query.flag("one-shot")))


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


def _path(request: Request) -> str:
    path = request.query.text("path")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    return path


def _stat_header(stat: object) -> tuple[tuple[str, str], ...]:
    return (("X-Docker-Container-Path-Stat", base64.b64encode(msgspec.json.encode(stat)).decode()),)


async def archive_stat(engine: Engine, request: Request) -> Reply:
    stat = await engine.files.stat(request.params["id"], _path(request))
    return Response(headers=_stat_header(stat))


async def archive_get(engine: Engine, request: Request) -> Reply:
    stat, data = await engine.files.read(request.params["id"], _path(request), sparse=request.query.flag("sparse"))
    return Stream(data, content_type=TAR, headers=_stat_header(stat))


async def archive_put(engine: Engine, request: Request) -> Reply:
    query = request.query
    await engine.files.write(
        request.params["id"],
        _path(request),
        request.body,
        no_overwrite_dir_non_dir=query.flag("noOverwriteDirNonDir"),
        copy_uid_gid=query.flag("copyUIDGID"),
    )
    return Response()


async def export(engine: Engine, request: Request) -> Reply:
    return Stream(await engine.files.export(request.params["id"]), content_type="application/octet-stream")


async def changes(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.files.changes(request.params["id"]))


async def top(engine: Engine, request: Request) -> Reply:
    ps_args = request.query.text("ps_args", "-ef")
    return json_reply(await engine.files.top(request.params["id"], ps_args=ps_args))


ROUTES: tuple[Route[Engine], ...] = (
    Route("GET", "/containers/json", list_),
    Route("POST", "/containers/create", create),
    Route("POST", "/containers/explain", explain_plan),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{id:path}/json", inspect),
    Route("GET", "/containers/{id}/explain", explain),
    Route("POST", "/containers/{id}/rename", rename),
    Route("POST", "/containers/{id}/update", update),
    Route("DELETE", "/containers/{id:path}", remove),
    Route("POST", "/containers/{id}/start", start),
    Route("POST", "/containers/{id}/stop", stop),
    Route("POST", "/containers/{id}/restart", restart),
    Route("POST", "/containers/{id}/kill", kill),
    Route("POST", "/containers/{id}/pause", pause),
    Route("POST", "/containers/{id}/unpause", unpause),
    Route("POST", "/containers/{id}/wait", wait),
    Route("POST", "/containers/{id}/attach", attach),
    Route("GET", "/containers/{id}/attach/ws", attach_socket),
    Route("GET", "/containers/{id}/logs", logs),
    Route("POST", "/containers/{id}/resize", resize),
    Route("GET", "/containers/{id}/stats", stats),
    Route("HEAD", "/containers/{id}/archive", archive_stat),
    Route("GET", "/containers/{id}/archive", archive_get),
    Route("PUT", "/containers/{id}/archive", archive_put),
    Route("GET", "/containers/{id}/export", export),
    Route("GET", "/containers/{id}/changes", changes),
    Route("GET", "/containers/{id}/top", top),
)
