"""Blobs over HTTP: pulled whole or in part, pushed at once or in chunks, mounted, deleted.

    POST …/blobs/uploads/                     202, Location       ?digest= 201 at once   ?mount=&from= 201
    PATCH Location   [Content-Range: 0-99]    202, Range: 0-99    out of order 416
    GET Location                              204, Range          where an interrupted upload goes on
    PUT Location?digest=   [the last chunk]   201
    DELETE Location                           204

Source: the OCI distribution-spec, "Pushing blobs", "Pulling blobs", "Deleting Blobs".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from cove.errors import NotFound
from cove.httpd.messages import Reply, Response, Span, Stream
from cove.oci import digest as digests
from cove.registry import names, refusals
from cove.registry.access import DELETE, PULL, PUSH
from cove.registry.calls import OCTETS, Call
from cove.registry.uploads import Upload

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/.*)?")


# ── pull ──────────────────────────────────────────────────────────────────────────────────────────


async def get_blob(call: Call) -> Reply:
    repository, digest, registry = call.repository, call.digest, call.registry
    await registry.access.check(call.request, repository, PULL)
    proxied = registry.proxies.upstream(repository) is not None
    size = registry.storage.blob_size(repository, digest)
    if size is None and not proxied:
        raise refusals.blob_unknown(repository, digest)
    headers = _headers(call, digest)
    if call.request.headers.get("if-none-match", "").strip() == f'"{digest}"':
        return Response(status=304, headers=headers)
    if size is None:
        return _from_upstream(call, repository, digest, headers)
    start, count = _span(call, size, digest)
    if count != size:
        headers = (*headers, ("Content-Range", f"bytes {start}-{start + count - 1}/{size}"))
    try:
        file = registry.storage.open_blob(digest)
    except NotFound as error:
        raise refusals.blob_unknown(repository, digest) from error
    if not call.head:
        registry.metrics.count("cove_registry_sent_bytes_total", count)
    return Span(file, start, count, status=200 if count == size else 206, headers=headers)


def _from_upstream(call: Call, repository: str, digest: str, headers: tuple[tuple[str, str], ...]) -> Reply:
    """A blob that is not here yet: only counted, or fetched and passed on whole."""
    proxies = call.registry.proxies
    size = proxies.announced(repository, digest)
    if call.head:
        return Stream(_no_chunks(), OCTETS, headers=headers, length=size)
    call.registry.metrics.count("cove_registry_sent_bytes_total", size)
    return Stream(proxies.blob(repository, digest), OCTETS, headers=headers, length=size)


async def _no_chunks(chunks: tuple[bytes, ...] = ()) -> AsyncIterator[bytes]:
    """What is sent after the header of an answer to HEAD."""
    for chunk in chunks:
        yield chunk


def _headers(call: Call, digest: str) -> tuple[tuple[str, str], ...]:
    namespace = (("OCI-Namespace", call.namespace),) if call.namespace else ()
    return (
        ("Docker-Content-Digest", digest),
        ("ETag", f'"{digest}"'),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "max-age=31536000, immutable"),
        *namespace,
    )


def _span(call: Call, size: int, digest: str) -> tuple[int, int]:
    """First byte and count of the part that is asked for; all of it when it is not one plain range."""
    asked = call.request.headers.get("range", "")
    found = _RANGE.fullmatch(asked.strip())
    if found is None or not (found[1] or found[2]):
        return 0, size
    if call.request.headers.get("if-range", f'"{digest}"') != f'"{digest}"':
        return 0, size
    if not found[1]:
        start, end = max(size - int(found[2]), 0), size
    else:
        start, end = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    if start >= end:
        raise refusals.Refused(
            416, "RANGE_INVALID", f"the blob has {size} bytes, {asked[:60]} is none of them",
            ("Content-Range", f"bytes */{size}"),
        )  # fmt: skip
    return start, end - start


async def delete_blob(call: Call) -> Reply:
    repository, digest, registry = call.repository, call.digest, call.registry
    await registry.access.check(call.request, repository, DELETE)
    registry.refuse_if_read_only(repository)
    await registry.run(registry.storage.remove_blob, repository, digest)
    registry.nudge()
    return Response(status=202)


# ── push ──────────────────────────────────────────────────────────────────────────────────────────


async def begin_upload(call: Call) -> Reply:
    repository, registry, query = call.repository, call.registry, call.request.query
    identity = await registry.access.check(call.request, repository, PULL, PUSH)
    registry.refuse_if_read_only(repository)
    mounted, source = query.text("mount"), query.text("from")
    if mounted:
        names.digest(mounted)
        if source:
            names.repository(source)
        allowed = registry.access.mounts_from(identity, source)
        if allowed and await registry.run(registry.storage.mount, repository, mounted, source):
            return _created(repository, mounted)
    digest = query.text("digest")
    if digest:
        names.digest(digest)
    algorithm = digests.parse(digest)[0] if digest else query.text("digest-algorithm", "sha256")
    upload = registry.storage.uploads.begin(repository, algorithm)
    if not digest:
        return _accepted(upload)
    async with upload.lock:
        try:
            await registry.receive(upload, call.request.body)
        except BaseException:
            registry.storage.uploads.end(upload, kept=False)
            raise
        await registry.run(registry.storage.finish, upload, digest)
    return _created(repository, digest)


async def send_chunk(call: Call) -> Reply:
    upload = await _upload(call)
    async with upload.lock:
        await _append(call, upload)
    return _accepted(upload)


async def end_upload(call: Call) -> Reply:
    upload = await _upload(call)
    digest = names.digest(call.request.query.text("digest"))
    async with upload.lock:
        await _append(call, upload)
        await call.registry.run(call.registry.storage.finish, upload, digest)
    return _created(upload.repository, digest)


async def upload_status(call: Call) -> Reply:
    return _accepted(await _upload(call), status=204)


async def cancel_upload(call: Call) -> Reply:
    upload = await _upload(call)
    async with upload.lock:
        call.registry.storage.uploads.end(upload, kept=False)
    return Response(status=204)


async def _upload(call: Call) -> Upload:
    repository = call.repository
    await call.registry.access.check(call.request, repository, PULL, PUSH)
    call.registry.refuse_if_read_only(repository)
    return call.registry.storage.uploads.get(repository, call.request.params["upload"])


async def _append(call: Call, upload: Upload) -> None:
    """The request's body, if it goes on where the upload is. Raises Refused."""
    call.registry.storage.uploads.get(upload.repository, upload.identity)  # it may have ended while we waited
    text = call.request.headers.get("content-range", "")
    if not text:
        await call.registry.receive(upload, call.request.body)
        return
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if found is None:
        raise refusals.Refused(400, "BLOB_UPLOAD_INVALID", f"{text[:80]!r} is no Content-Range of a chunk")
    start, end = int(found[1]), int(found[2])
    length = call.request.headers.get("content-length", "")
    if start != upload.length or end < start or (length.isdecimal() and int(length) != end - start + 1):
        raise refusals.range_refused(
            f"the upload has {upload.length} bytes and goes on there, not with {text[:60]}",
            *_progress(upload),
        )
    before = upload.length
    await call.registry.receive(upload, call.request.body)
    if upload.length != before + end - start + 1:
        raise refusals.range_refused("the chunk is not as long as its Content-Range says", *_progress(upload))


def _progress(upload: Upload) -> tuple[tuple[str, str], ...]:
    return (
        ("Location", f"/v2/{upload.repository}/blobs/uploads/{upload.identity}"),
        ("Range", f"0-{max(upload.length - 1, 0)}"),
        ("Docker-Upload-UUID", upload.identity),
    )


def _accepted(upload: Upload, status: int = 202) -> Response:
    return Response(status=status, headers=_progress(upload))


def _created(repository: str, digest: str) -> Response:
    headers = (("Location", f"/v2/{repository}/blobs/{digest}"), ("Docker-Content-Digest", digest))
    return Response(status=201, headers=headers)
