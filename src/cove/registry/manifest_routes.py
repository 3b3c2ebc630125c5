"""Manifests, tags, referrers and the catalogue over HTTP.

Source: the OCI distribution-spec, "Pulling manifests", "Pushing Manifests", "Content Discovery", "Content
Management"; `_catalog` is the distribution project's.
"""

from __future__ import annotations

from cove.errors import InvalidArgument, NotFound
from cove.httpd.messages import Reply, Response
from cove.oci import image
from cove.oci.image import Descriptor, Index
from cove.registry import names, refusals
from cove.registry.access import DELETE, PULL, PUSH
from cove.registry.calls import Call, json_response, next_page
from cove.registry.catalogue import Entry
from cove.registry.manifests import descriptor_of

_MOST_TAGS = 100
_PAGE_BYTES = 3 << 20
"""Of a list of referrers, below the 4 MiB that clients read at least."""


async def get_manifest(call: Call) -> Reply:
    repository, which, registry = call.repository, call.which, call.registry
    await registry.access.check(call.request, repository, PULL)
    if registry.proxies.upstream(repository) is not None:
        entry = await registry.proxies.manifest(repository, which)
    else:
        entry = registry.storage.manifest(repository, which)
    headers = _headers(call, entry, by_tag=":" not in which)
    if call.request.headers.get("if-none-match", "").strip() == f'"{entry.digest}"':
        return Response(status=304, headers=headers)
    try:
        raw = await registry.run(registry.storage.manifest_bytes, entry)
    except NotFound as error:
        raise refusals.manifest_unknown(repository, which) from error
    if not call.head:
        registry.metrics.count("cove_registry_sent_bytes_total", len(raw))
    return Response(body=raw, content_type=entry.media_type, headers=headers)


def _headers(call: Call, entry: Entry, *, by_tag: bool) -> tuple[tuple[str, str], ...]:
    namespace = (("OCI-Namespace", call.namespace),) if call.namespace else ()
    lasting = "no-cache" if by_tag else "max-age=31536000, immutable"
    return (
        ("Docker-Content-Digest", entry.digest),
        ("ETag", f'"{entry.digest}"'),
        ("Cache-Control", lasting),
        *namespace,
    )


async def put_manifest(call: Call) -> Reply:
    repository, which, registry = call.repository, call.which, call.registry
    await registry.access.check(call.request, repository, PULL, PUSH)
    registry.refuse_if_read_only(repository)
    further = call.request.query.texts("tag")
    if len(further) > _MOST_TAGS or not all(map(names.is_tag, further)) or (further and ":" not in which):
        raise refusals.manifest_invalid(
            f"the parameters tag= go with a digest, are tags, and no more than {_MOST_TAGS}"
        )
    raw = await _body(call)
    digest, tags = (which, tuple(further)) if ":" in which else ("", (which,))
    found = await registry.run(
        registry.storage.put_manifest,
        repository,
        raw,
        call.request.headers.get("content-type", ""),
        digest=digest,
        tags=tags,
    )
    registry.metrics.count("cove_registry_received_bytes_total", len(raw))
    headers = [
        ("Location", f"/v2/{repository}/manifests/{found.entry.digest}"),
        ("Docker-Content-Digest", found.entry.digest),
    ]
    if found.entry.subject:
        headers.append(("OCI-Subject", found.entry.subject))
    headers += [("OCI-Tag", tag) for tag in further]
    return Response(status=201, headers=tuple(headers))


async def _body(call: Call) -> bytes:
    told = call.request.headers.get("content-length", "")
    try:
        if told.isdecimal() and int(told) > image.MAX_MANIFEST:
            raise InvalidArgument("")
        return await call.request.read(image.MAX_MANIFEST)
    except InvalidArgument:
        raise refusals.Refused(
            413, "MANIFEST_INVALID", f"a manifest may have {image.MAX_MANIFEST} bytes and this one has more"
        ) from None


async def delete_manifest(call: Call) -> Reply:
    repository, which, registry = call.repository, call.which, call.registry
    await registry.access.check(call.request, repository, DELETE)
    registry.refuse_if_read_only(repository)
    await registry.run(registry.storage.remove_manifest, repository, which)
    registry.nudge()
    return Response(status=202)


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────


async def list_tags(call: Call) -> Reply:
    repository, registry = call.repository, call.registry
    await registry.access.check(call.request, repository, PULL)
    most, after = call.page()
    if registry.proxies.upstream(repository) is not None:
        found = [tag for tag in await registry.proxies.tags(repository) if tag > after][: most + 1]
    else:
        catalogue = registry.storage.catalogue
        if not catalogue.has_repository(repository):
            raise refusals.name_unknown(repository)
        found = [tag.name for tag in catalogue.tags(repository, after=after, most=most + 1)]
    headers = [next_page(f"/v2/{repository}/tags/list", most, found[most - 1])] if 0 < most < len(found) else []
    return json_response({"name": repository, "tags": found[:most]}, *headers)


async def list_repositories(call: Call) -> Reply:
    registry = call.registry
    await registry.access.check_overview(call.request)
    most, after = call.page()
    found = registry.storage.catalogue.repositories(after=after, most=most + 1)
    headers = [next_page("/v2/_catalog", most, found[most - 1])] if 0 < most < len(found) else []
    return json_response({"repositories": found[:most]}, *headers)


async def list_referrers(call: Call) -> Reply:
    repository, digest, registry = call.repository, call.digest, call.registry
    await registry.access.check(call.request, repository, PULL)
    wanted, after = call.request.query.text("artifactType"), call.request.query.text("last")
    if registry.proxies.upstream(repository) is not None:
        found = [
            each
            for each in await registry.proxies.referrers(repository, digest)
            if not wanted or each.artifact_type == wanted
        ]
    else:
        found = [descriptor_of(entry) for entry in registry.storage.catalogue.referrers(repository, digest, wanted)]
    page, last = _page(found, after)
    headers = [("OCI-Filters-Applied", "artifactType")] if wanted else []
    if last:
        kind = f"artifactType={wanted}&" if wanted else ""
        headers.append(("Link", f'</v2/{repository}/referrers/{digest}?{kind}last={last}>; rel="next"'))
    index = Index(media_type=image.OCI_INDEX, manifests=tuple(page))
    return Response(body=_with_manifests(image.encode(index)), content_type=image.OCI_INDEX, headers=tuple(headers))


def _with_manifests(raw: bytes) -> bytes:
    """An index says that it is empty; `encode` leaves out what is."""
    return raw if b'"manifests"' in raw else raw[:-1] + b',"manifests":[]}'


def _page(found: list[Descriptor], after: str) -> tuple[list[Descriptor], str]:
    """What fits into one answer, beginning behind the digest `after`, and the last one of it if more follow."""
    start = next((number + 1 for number, each in enumerate(found) if each.digest == after), 0) if after else 0
    page: list[Descriptor] = []
    size = 0
    for each in found[start:]:
        size += len(each.digest) + 200 + sum(len(key) + len(value) + 6 for key, value in each.annotations.items())
        if page and size > _PAGE_BYTES:
            return page, page[-1].digest
        page.append(each)
    return page, ""
