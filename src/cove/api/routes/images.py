"""/images: bring in, look, name, send out, remove. /commit makes one of a container."""

from __future__ import annotations

from cove.api import shapes
from cove.api.http import TAR, Reply, Request, Response, Stream, json_reply
from cove.api.router import Route
from cove.api.streams import progress
from cove.engine.engine import Engine
from cove.engine.images.selection import asked_platform
from cove.errors import InvalidArgument, NotFound
from cove.wire.base import decode
from cove.wire.containers import ContainerConfig
from cove.wire.execs import IdResponse
from cove.wire.images import BootstrapRequest, VerifyRequest

_ARCHIVES = (1, 22)
"""What containers/image before 5.26 (skopeo and podman of Debian 12) speaks for `docker-daemon:`."""
_SEVERAL_PLATFORMS_SINCE = (1, 52)
_IDENTITY_SINCE = (1, 54)
_ATTESTATIONS_SINCE = (1, 55)
_LIST_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")
_SEARCH_FILTERS = ("is-automated", "is-official", "stars")
_PRUNE_FILTERS = ("dangling", "label", "label!", "until", "unused-for", "keep-storage")


async def list_(engine: Engine, request: Request) -> Reply:
    query = request.query
    if query.flag("identity") and not query.flag("manifests") and request.version >= _IDENTITY_SINCE:
        raise InvalidArgument("conflicting options: identity requires manifests=1")
    found = await engine.images.list(
        all=query.flag("all"),
        digests=query.flag("digests"),
        count=request.version >= shapes.CONTAINERS_COUNTED,
        shared=query.flag("shared-size"),
        manifests=query.flag("manifests"),
        filters=query.filters(_LIST_FILTERS),
    )
    return json_reply([shapes.image_line(each, request.version) for each in found])


async def inspect(engine: Engine, request: Request) -> Reply:
    query = request.query
    platform, manifests = query.text("platform"), query.flag("manifests")
    if platform and manifests:
        raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
    found = await engine.images.inspect(request.params["name"], platform=platform, manifests=manifests)
    return json_reply(shapes.image(found, request.version))


async def attestations(engine: Engine, request: Request) -> Reply:
    if request.version < _ATTESTATIONS_SINCE:
        raise NotFound("page not found")
    query = request.query
    platforms = [text for text in query.texts("platform") if text]
    if len(platforms) > 1:
        raise InvalidArgument("only one platform value is currently supported")
    found = await engine.attestations.of(
        request.params["name"],
        platform=asked_platform(platforms[0]) if platforms else None,
        types=[kind for text in query.texts("type") if (kind := text.strip())],
        statements=query.flag("statement"),
    )
    return json_reply(found)


async def history(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.images.history(request.params["name"], platform=request.query.text("platform")))


async def tag(engine: Engine, request: Request) -> Reply:
    query = request.query
    await engine.images.tag(request.params["name"], repo=query.text("repo"), tag=query.text("tag"))
    return Response(status=201)


async def remove(engine: Engine, request: Request) -> Reply:
    query = request.query
    if not request.params["name"].strip():
        raise InvalidArgument("image name cannot be blank")
    removed = await engine.images.remove(
        request.params["name"],
        force=query.flag("force"),
        noprune=query.flag("noprune"),
        platforms=query.texts("platforms"),
    )
    return json_reply(removed)


async def prune(engine: Engine, request: Request) -> Reply:
    return json_reply(await engine.prune.images(request.query.filters(_PRUNE_FILTERS)))


async def create(engine: Engine, request: Request) -> Reply:
    """Pull (`fromImage`), or import the archive in the body (`fromSrc=-`) or at an address (`fromSrc=URL`)."""
    query = request.query
    if name := query.text("fromImage"):
        auth = request.headers.get("x-registry-auth", "")
        messages = await engine.images.pull(
            name,
            tag=query.text("tag"),
            platform=query.text("platform"),
            every=query.flag("allPlatforms"),
            auth=auth,
        )
        return progress(messages)
    source = query.text("fromSrc")
    if not source:
        raise InvalidArgument("Nothing is named to be pulled (fromImage) or imported (fromSrc)")
    messages = await engine.image_making.import_(
        request.body,
        address="" if source == "-" else source if "://" in source else f"http://{source}",
        repo=query.text("repo"),
        tag=query.text("tag"),
        message=query.text("message"),
        changes=query.texts("changes"),
        platform=query.text("platform"),
    )
    return progress(messages)


async def push(engine: Engine, request: Request) -> Reply:
    auth = request.headers.get("x-registry-auth", "")
    query = request.query
    messages = await engine.images.push(
        request.params["name"], tag=query.text("tag"), platform=query.text("platform"), auth=auth
    )
    return progress(messages)


async def distribution(engine: Engine, request: Request) -> Reply:
    auth = request.headers.get("x-registry-auth", "")
    return json_reply(await engine.images.distribution(request.params["name"], auth=auth))


async def verify(engine: Engine, request: Request) -> Reply:
    """Cove's own: who signed it."""
    body = await request.json(VerifyRequest)
    auth = request.headers.get("x-registry-auth", "")
    return json_reply(await engine.trust.verify(request.params["name"], body.keys, auth=auth))


async def attachments(engine: Engine, request: Request) -> Reply:
    """Cove's own: what is attached to it."""
    return json_reply(await engine.trust.attachments(request.params["name"]))


async def load(engine: Engine, request: Request) -> Reply:
    query = request.query
    return progress(await engine.images.load(request.body, quiet=query.flag("quiet"), platforms=_platforms(request)))


async def save(engine: Engine, request: Request) -> Reply:
    names = [request.params["name"]] if "name" in request.params else request.query.texts("names")
    return Stream(await engine.images.save(names, platforms=_platforms(request)), content_type=TAR)


def _platforms(request: Request) -> list[str]:
    platforms = request.query.texts("platform")
    if len(platforms) > 1 and request.version < _SEVERAL_PLATFORMS_SINCE:
        raise InvalidArgument(
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later"
        )
    return platforms


async def search(engine: Engine, request: Request) -> Reply:
    query = request.query
    auth = request.headers.get("x-registry-auth", "")
    found = await engine.images.search(
        query.text("term"),
        limit=query.number("limit") or 25,
        auth=auth,
        filters=query.filters(_SEARCH_FILTERS),
    )
    return json_reply(found)


async def commit(engine: Engine, request: Request) -> Reply:
    query = request.query
    body = await request.json_text()
    made = await engine.image_making.commit(
        query.text("container"),
        repo=query.text("repo"),
        tag=query.text("tag"),
        comment=query.text("comment"),
        author=query.text("author"),
        pause=query.flag("pause", default=True),
        changes=query.texts("changes"),
        config=_config(body),
    )
    return json_reply(IdResponse(id=made), 201)


def _config(body: bytes) -> ContainerConfig | None:
    """Clients send null or {} when they don't want to change the configuration."""
    return None if body.strip() in (b"", b"null", b"{}") else decode(ContainerConfig, body)


async def bootstrap(engine: Engine, request: Request) -> Reply:
    """Cove's own: a base image made of a distribution's packages."""
    body = await request.json(BootstrapRequest)
    messages = await engine.image_making.bootstrap(
        body.name, suite=body.suite, include=list(body.include), variant=body.variant, mirror=body.mirror
    )
    return progress(messages)


ROUTES: tuple[Route[Engine], ...] = (
    Route("GET", "/images/json", list_),
    Route("POST", "/images/create", create),
    Route("POST", "/images/load", load, oldest=_ARCHIVES),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/get", save, oldest=_ARCHIVES),
    Route("GET", "/images/search", search),
    Route("POST", "/commit", commit),
    Route("GET", "/images/{name:path}/json", inspect),
    Route("GET", "/images/{name:path}/history", history),
    Route("GET", "/images/{name:path}/attestations", attestations),
    Route("GET", "/images/{name:path}/get", save, oldest=_ARCHIVES),
    Route("POST", "/images/{name:path}/push", push),
    Route("GET", "/distribution/{name:path}/json", distribution),
    Route("POST", "/images/{name:path}/tag", tag),
    Route("DELETE", "/images/{name:path}", remove),
    Route("POST", "/cove/images/bootstrap", bootstrap),
    Route("POST", "/cove/images/{name:path}/verify", verify),
    Route("GET", "/cove/images/{name:path}/attachments", attachments),
)
