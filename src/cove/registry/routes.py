"""Every endpoint of the registry, and what is done about every request: its path, its counting, its headers.

/v2/…        the distribution API            /token     bearer tokens
/, /r/NAME   pages for people                /metrics   for Prometheus      /healthz   for watchers
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qs, unquote

from cove.errors import CoveError
from cove.httpd.messages import App, Hijack, Reply, Request, Response
from cove.registry import metrics, pages, refusals
from cove.registry.blob_routes import (
    begin_upload,
    cancel_upload,
    delete_blob,
    end_upload,
    get_blob,
    send_chunk,
    upload_status,
)
from cove.registry.calls import Call, Endpoint, json_response
from cove.registry.manifest_routes import (
    delete_manifest,
    get_manifest,
    list_referrers,
    list_repositories,
    list_tags,
    put_manifest,
)
from cove.registry.service import Registry

_API = (("Docker-Distribution-Api-Version", "registry/2.0"), ("X-Content-Type-Options", "nosniff"))
_MAX_FORM = 64 << 10
_READS = frozenset({"GET", "HEAD"})


async def get_base(call: Call) -> Reply:
    """Whether this is a registry, and how it wants to be spoken to."""
    await call.registry.access.check(call.request, "")
    return json_response({})


async def get_token(call: Call) -> Reply:
    request = call.request
    form: dict[str, str] = {}
    scopes = request.query.texts("scope")
    if request.method == "POST":
        sent = parse_qs((await request.read(_MAX_FORM)).decode(errors="replace"), max_num_fields=100)
        form = {name: values[0] for name, values in sent.items()}
        scopes = sent.get("scope", [])
    answer = await call.registry.access.token(request, form, scopes)
    return json_response(answer, ("Cache-Control", "no-store"))


async def get_metrics(call: Call) -> Reply:
    await call.registry.access.check_overview(call.request, page=True)
    gauges = await call.registry.run(call.registry.gauges)
    text = call.registry.metrics.exposition(gauges)
    return Response(body=text.encode(), content_type=metrics.CONTENT_TYPE)


async def get_health(call: Call) -> Reply:
    call.registry.storage.catalogue.has_repository("-")  # the database answers
    return json_response({"status": "ok"})


_NAME = "/v2/(?P<name>.+)"
_ENDPOINTS: tuple[tuple[str, str, Mapping[str, Endpoint]], ...] = (
    ("base", "/v2/?", {"GET": get_base}),
    ("catalog", "/v2/_catalog", {"GET": list_repositories}),
    ("token", "/token", {"GET": get_token, "POST": get_token}),
    ("metrics", "/metrics", {"GET": get_metrics}),
    ("health", "/healthz", {"GET": get_health}),
    ("page", "/", {"GET": pages.overview}),
    ("page", "/r/(?P<name>.+)", {"GET": pages.repository}),
    ("tags", f"{_NAME}/tags/list", {"GET": list_tags}),
    ("referrers", f"{_NAME}/referrers/(?P<digest>[^/]+)", {"GET": list_referrers}),
    (
        "manifests",
        f"{_NAME}/manifests/(?P<reference>[^/]+)",
        {"GET": get_manifest, "PUT": put_manifest, "DELETE": delete_manifest},
    ),
    ("uploads", f"{_NAME}/blobs/uploads/?", {"POST": begin_upload}),
    (
        "uploads",
        f"{_NAME}/blobs/uploads/(?P<upload>[^/]+)",
        {"GET": upload_status, "PATCH": send_chunk, "PUT": end_upload, "DELETE": cancel_upload},
    ),
    ("blobs", f"{_NAME}/blobs/(?P<digest>[^/]+)", {"GET": get_blob, "DELETE": delete_blob}),
)
_PATTERNS = tuple((title, re.compile(pattern), methods) for title, pattern, methods in _ENDPOINTS)


def application(registry: Registry) -> App:
    """What a `cove.httpd.server.Server` serves."""

    async def app(request: Request) -> Reply:
        began = time.monotonic()
        title, endpoint = "none", None
        try:
            title, endpoint = _find(request)
            reply = await endpoint(Call(registry, request))
        except CoveError as error:
            reply = refusals.refusal(error)
        if isinstance(reply, Hijack):
            return reply
        registry.metrics.count(
            "cove_registry_requests_total", endpoint=title, method=_method(request), status=str(reply.status)
        )
        registry.metrics.took(title, time.monotonic() - began)
        return replace(reply, headers=_API + reply.headers)

    return app


def _find(request: Request) -> tuple[str, Endpoint]:
    """Whose path this is; `params` of the request are what its pattern names. Raises Refused."""
    path, _, request.query_text = request.target.partition("?")
    request.path = unquote(path)
    for title, pattern, methods in _PATTERNS:
        found = pattern.fullmatch(request.path)
        if found is None:
            continue
        request.params = found.groupdict()
        endpoint = methods.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            allowed = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
            raise refusals.Refused(
                405, "UNSUPPORTED", f"{_method(request)} is not done at {title}", ("Allow", allowed)
            )
        if request.method not in _READS and "origin" in request.headers:
            raise refusals.Refused(403, "DENIED", "web pages (with an Origin header) may not change anything here")
        return title, endpoint
    raise refusals.Refused(404, "NOT_FOUND", "there is nothing at this address; the registry's API is below /v2/")


def _method(request: Request) -> str:
    return request.method if request.method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} else "other"
