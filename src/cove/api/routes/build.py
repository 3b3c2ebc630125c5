"""/build: a context in the body, parameters in the query, progress in the answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import msgspec

from cove.api.http import TAR, Query, Reply, Request, Response, Stream, json_reply
from cove.api.router import Route
from cove.api.streams import progress
from cove.build import cache_places, provenance
from cove.engine.build.caches import Name
from cove.engine.engine import Engine
from cove.errors import InvalidArgument, NotFound, Unsupported
from cove.wire.base import decode
from cove.wire.builds import BuildOptions, BuildSecrets, CachePlace, ListedContext
from cove.wire.containers import Ulimit
from cove.wire.execs import IdResponse

_PRUNE_FILTERS = (
    "until",
    "unused-for",
    "id",
    "parent",
    "type",
    "description",
    "inuse",
    "shared",
    "private",
    "label",
    "label!",
)


async def build(engine: Engine, request: Request) -> Reply:
    """Docker's call, in its older form, and (version=2) with a session as BuildKit has it."""
    if request.query.text("version") == "2":
        from cove.buildkit.door import door

        session = request.query.text("session")
        return progress(await door(engine).calls.build(_options(request.query), session, request.body))
    return progress(await engine.builds.build(_options(request.query), request.body, _auth(request)))


async def build_events(engine: Engine, request: Request) -> Reply:
    """Cove's own: the same with each step's events."""
    options = msgspec.structs.replace(_options(request.query), events=True)
    return progress(await engine.builds.build(options, request.body, _auth(request)))


async def give(engine: Engine, request: Request) -> Reply:
    """Cove's own: secrets for one build that follows, whose parameter cove-session names them."""
    return json_reply(IdResponse(id=engine.builds.give(await request.json(BuildSecrets))), 201)


async def keep_context(engine: Engine, request: Request) -> Reply:
    """Cove's own: a directory for one build that follows, whose parameters context or contexts name it "sent:ID".

    With `listing`, what changed of one that was listed.
    """
    if listing := request.query.text("listing"):
        return json_reply(IdResponse(id=await engine.builds.fill_context(listing, request.body)), 201)
    return json_reply(IdResponse(id=await engine.builds.keep_context(request.body)), 201)


async def list_context(engine: Engine, request: Request) -> Reply:
    """Cove's own: what a directory has, by the name `key` that it has in every build; what need not be sent of it."""
    key = request.query.text("key")
    if not key:
        raise InvalidArgument("the parameter key is missing: it names the directory from one build to the next")
    identity, known = await engine.builds.list_context(key, request.body)
    return json_reply(ListedContext(id=identity, known=tuple(known)), 201)


async def rootfs(engine: Engine, request: Request) -> Reply:
    """Cove's own: an image's files as a tar archive, with nothing that a container would add; times are `epoch`'s."""
    moment = request.query.number("epoch")
    return Stream(await engine.builds.rootfs(request.params["name"], moment), content_type=TAR)


async def receive_cache(engine: Engine, request: Request) -> Reply:
    """Cove's own: a directory's cache for one build that follows, whose cache-from names it by src "sent:ID"."""
    return json_reply(IdResponse(id=await engine.builds.parcels.receive(request.body)), 201)


async def fetch_cache(engine: Engine, request: Request) -> Reply:
    """Cove's own: what a build has for a directory of the client's, an image layout as an archive."""
    return Stream(await engine.builds.parcels.fetch(request.params["id"]), content_type=TAR)


async def mounts(engine: Engine, request: Request) -> Reply:
    """Cove's own: the directories of cache mounts."""
    return json_reply(await engine.builds.caches.mounts())


async def export_mount(engine: Engine, request: Request) -> Reply:
    """Cove's own: one of them, by the mount's id or its own, as an archive that tells its name."""
    return Stream(await engine.builds.caches.export(request.query.text("id")), content_type=TAR)


async def import_mount(engine: Engine, request: Request) -> Reply:
    """Cove's own: such an archive in its place; of any other archive the parameters tell the mount's name."""
    return json_reply(await engine.builds.caches.import_(_mount(request.query), request.body), 201)


async def cancel(engine: Engine, request: Request) -> Reply:
    identity = request.query.text("id")
    try:
        await engine.builds.cancel(identity)
    except NotFound:
        from cove.buildkit.door import door

        await door(engine).calls.cancel(identity)
    return Response(status=204)


async def prune(engine: Engine, request: Request) -> Reply:
    query = request.query
    done = await engine.builds.prune(
        query.filters(_PRUNE_FILTERS),
        all_=query.flag("all"),
        keep_bytes=query.number("reserved-space") or query.number("keep-storage") or 0,
        most=query.number("max-used-space") or 0,
        free=query.number("min-free-space") or 0,
    )
    return json_reply(done)


def _options(query: Query) -> BuildOptions:
    if query.flag("squash"):
        raise Unsupported("squash is not supported: it would throw away the layers that other images share")
    if any(query.texts("securityopt")):
        raise Unsupported("security options are not taken for builds: RUN --security in the file, with --allow, is")
    return BuildOptions(
        dockerfile=query.text("dockerfile"),
        tags=tuple(text for text in query.texts("t") if text),
        remote=query.text("remote"),
        quiet=query.flag("q"),
        no_cache=query.flag("nocache"),
        no_cache_filter=_list(query, "nocachefilter"),
        pull=query.flag("pull"),
        arguments=_pairs(query, "buildargs"),
        labels=_pairs(query, "labels"),
        target=query.text("target"),
        platforms=tuple(part for part in query.text("platform").split(",") if part),
        network=query.text("networkmode"),
        extra_hosts=_hosts(query),
        shm_size=query.number("shmsize") or 0,
        memory=query.number("memory") or 0,
        memory_swap=query.number("memswap") or 0,
        cpu_shares=query.number("cpushares") or 0,
        cpu_period=query.number("cpuperiod") or 0,
        cpu_quota=query.number("cpuquota") or 0,
        cpuset_cpus=query.text("cpusetcpus"),
        cpuset_mems=query.text("cpusetmems"),
        cgroup_parent=query.text("cgroupparent"),
        ulimits=tuple(decode(list[Ulimit], _or_none(query.text("ulimits")))),
        isolation=query.text("isolation"),
        build_id=query.text("buildid"),
        cache_from=_places(query, "cache-from", cache_places.source),
        cache_only=_list(query, "cachefrom"),
        cache_to=_places(query, "cache-to", cache_places.target),
        outputs=_outputs(query),
        allow=_list(query, "allow"),
        session=query.text("cove-session"),
        check=query.flag("check"),
        contexts=_pairs(query, "contexts"),
        context=query.text("context"),
        provenance=provenance.read(query.text("provenance")) if query.text("provenance") else None,
        annotations=_pairs(query, "annotations"),
        epoch=query.number("epoch") if query.text("epoch") else _epoch(_pairs(query, "buildargs")),
    )


def _mount(query: Query) -> Name | None:
    """The name of a cache mount, as a mount's options tell it; None when none is given."""
    identity, owner, mode = query.text("id"), query.text("owner"), query.text("mode")
    if not identity:
        if owner or mode:
            raise InvalidArgument("an owner or mode belongs to the id of a mount, which is missing")
        return None
    uid, _, gid = (owner or "0:0").partition(":")
    try:
        found = Name(identity, uid=int(uid), gid=int(gid or "0"), mode=int(mode or "755", 8))
    except ValueError:
        raise InvalidArgument(f"owner={owner} mode={mode}: write UID:GID in numbers, and the mode in octal") from None
    if found.uid < 0 or found.gid < 0 or not 0 <= found.mode <= 0o7777:
        raise InvalidArgument(f"owner={owner} mode={mode}: no such owner or mode is possible")
    return found


def _or_none(text: str) -> bytes:
    """A JSON list; clients write null for an empty one."""
    return b"[]" if text in ("", "null") else text.encode()


def _json(query: Query, name: str) -> object:
    text = query.text(name)
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"the parameter {name} is no JSON: {error}") from None


def _pairs(query: Query, name: str) -> dict[str, str]:
    """A JSON object of text; a null is a name without a value, which is left out."""
    found = _json(query, name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidArgument(f"the parameter {name} is no JSON object")
    return {str(key): str(value) for key, value in found.items() if value is not None}


def _list(query: Query, name: str) -> tuple[str, ...]:
    found = _json(query, name)
    if found is None:
        return ()
    if not isinstance(found, list):
        raise InvalidArgument(f"the parameter {name} is no JSON list")
    return tuple(str(each) for each in found)


def _places(query: Query, name: str, read: Callable[[str, dict[str, str]], CachePlace]) -> tuple[CachePlace, ...]:
    """A JSON list of objects with a type and its attributes; a text is an image's name, or inline."""
    found = _json(query, name)
    if found is not None and not isinstance(found, list):
        raise InvalidArgument(f"the parameter {name} is no JSON list")
    places = []
    for each in found or ():
        fields = each if isinstance(each, dict) else {"type": "inline"} if each == "inline" else {"ref": each}
        attributes = {str(key): str(value) for key, value in fields.items()}
        places.append(read(attributes.pop("type", "registry"), attributes))
    return tuple(places)


def _outputs(query: Query) -> tuple[dict[str, object], ...]:
    found = _json(query, "outputs")
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InvalidArgument("the parameter outputs is no JSON list of objects")
    return tuple(found)


def _hosts(query: Query) -> tuple[str, ...]:
    """ "name:address" words: a JSON list, a comma-separated text, or the parameter again and again."""
    texts = query.texts("extrahosts")
    if len(texts) == 1 and texts[0].startswith("["):
        return _list(query, "extrahosts")
    if len(texts) == 1 and texts[0].startswith("{"):
        return tuple(f"{name}:{address}" for name, address in _pairs(query, "extrahosts").items())
    return tuple(part for text in texts for part in text.split(",") if part)


def _epoch(arguments: dict[str, str]) -> int | None:
    text = arguments.get("SOURCE_DATE_EPOCH", "")
    if text in ("", "context"):
        return None
    if not text.isdecimal():
        raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {text}")
    return int(text)


def _auth(request: Request) -> dict[str, dict[str, str]]:
    """X-Registry-Config: credentials by registry, base64."""
    text = request.headers.get("x-registry-config", "")
    if not text:
        return {}
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.json.decode(raw or b"{}", type=dict[str, dict[str, str]] | None, strict=False) or {}
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise InvalidArgument(f"the header X-Registry-Config cannot be read: {error}") from None


ROUTES: tuple[Route[Engine], ...] = (
    Route("POST", "/build", build),
    Route("POST", "/build/cancel", cancel),
    Route("POST", "/build/prune", prune),
    Route("POST", "/cove/build", build_events),
    Route("POST", "/cove/build/context", keep_context),
    Route("POST", "/cove/build/listing", list_context),
    Route("POST", "/cove/build/caches", receive_cache),
    Route("GET", "/cove/build/caches/{id}", fetch_cache),
    Route("GET", "/cove/build/mounts", mounts),
    Route("GET", "/cove/build/mounts/archive", export_mount),
    Route("PUT", "/cove/build/mounts/archive", import_mount),
    Route("POST", "/cove/build/secrets", give),
    Route("GET", "/cove/images/{name:path}/rootfs", rootfs),
)
