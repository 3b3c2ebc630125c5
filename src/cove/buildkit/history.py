"""The builds that were: what was asked, when, how it ended. For `docker buildx history`.

    Control.Solve ─▶ Job ─▶ a record, which the daemon's database keeps
    ListenBuildHistory ─▶ records, newest first, and with a client that stays, news
    Content.Info, Content.Read ─▶ what records point at: statements about results

Output is not here: a client asks for the progress of the build again (`Control.Status`).
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Iterator

import msgspec

from cove.buildkit.jobs import Jobs
from cove.buildkit.messages import content as blobs
from cove.buildkit.messages import control as wire
from cove.buildkit.messages.common import Empty
from cove.buildkit.records import Record
from cove.errors import CoveError, InvalidArgument, NotFound, Unsupported
from cove.grpc.calls import Call, Handler, streaming, unary
from cove.grpc.status import Code
from cove.oci import digest as digests
from cove.oci import image as oci
from cove.oci.image import Descriptor, Index, Manifest

STARTED, COMPLETE, DELETED = range(3)
_CHUNK = 512 << 10
_ERROR = "application/vnd.googeapis.google.rpc.status+proto"
"""As BuildKit spells it."""


class History:
    """The service over one engine's jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._content = jobs.service.context.store.content

    def methods(self) -> dict[str, Handler]:
        """Those of the control service."""
        return {
            "ListenBuildHistory": streaming(wire.BuildHistoryRequest, self.listen),
            "UpdateBuildHistory": unary(wire.UpdateBuildHistoryRequest, self.update),
        }

    def content(self) -> dict[str, Handler]:
        """Those of the content service, by their paths."""
        return {
            blobs.INFO: unary(blobs.InfoRequest, self.info),
            blobs.READ: streaming(blobs.ReadRequest, self.read),
        }

    async def listen(self, call: Call, request: wire.BuildHistoryRequest) -> AsyncIterator[wire.BuildHistoryEvent]:
        """Records of builds; of a client that stays, until it goes."""
        wanted = _filters(request.filter)
        with self._jobs.listening() as news:
            found = [record for record in self._jobs.all() if _fits(record, request, wanted)]
            for record in found[: request.limit or None]:
                yield self._event(record)
            while not request.early_exit:
                record, forgotten = await news.get()
                if forgotten:
                    yield wire.BuildHistoryEvent(type=DELETED, record=record.told)
                elif _fits(record, request, wanted):
                    yield self._event(record)

    async def update(self, call: Call, request: wire.UpdateBuildHistoryRequest) -> Empty:
        """Pin a record, or forget it."""
        if request.delete:
            self._jobs.forget(request.ref)
        elif not request.finalize:
            self._jobs.records.pin(request.ref, request.pinned)
        return Empty()

    def _event(self, record: Record) -> wire.BuildHistoryEvent:
        error = _described(_error(record)) if record.error else None
        told = msgspec.structs.replace(record.told, result=self._result(record), external_error=error)
        return wire.BuildHistoryEvent(type=COMPLETE if record.ended_ns else STARTED, record=told)

    def _result(self, record: Record) -> wire.BuildResultInfo | None:
        """The image, with the statements about it; None for files, and for an image that is gone."""
        if record.result is None:
            return None
        try:
            statements = tuple(_described(each) for each in self._statements(record.result))
        except CoveError:
            return None
        return wire.BuildResultInfo(attestations=statements, results={0: _described(record.result)})

    def _statements(self, target: Descriptor) -> Iterator[Descriptor]:
        document = oci.decode_manifest(self._content.read(target.digest))
        for each in document.manifests if isinstance(document, Index) else ():
            if oci.ATTESTATION_TYPE in each.annotations:
                manifest = oci.decode_manifest(self._content.read(each.digest))
                yield from manifest.layers if isinstance(manifest, Manifest) else ()

    # ── what records point at ─────────────────────────────────────────────────────────────────────

    def _known(self, digest: str) -> tuple[Descriptor, bytes | None]:
        """A blob that a record points at, and no other; its bytes if it is in the record. Raises NotFound."""
        for record in self._jobs.all():
            if record.error and _error(record).digest == digest:
                return _error(record), record.error
            if record.result is not None:
                try:
                    for each in (record.result, *self._statements(record.result)):
                        if each.digest == digest:
                            return each, None
                except CoveError:
                    continue
        raise NotFound(f"no build that is remembered has the content {digest}")

    async def info(self, call: Call, request: blobs.InfoRequest) -> blobs.InfoResponse:
        found, _ = self._known(request.digest)
        return blobs.InfoResponse(info=blobs.Info(digest=found.digest, size=found.size))

    async def read(self, call: Call, request: blobs.ReadRequest) -> AsyncIterator[blobs.ReadResponse]:
        found, data = self._known(request.digest)
        data = self._content.read(found.digest) if data is None else data
        end = request.offset + request.size if request.size else len(data)
        for start in range(request.offset, min(end, len(data)), _CHUNK):
            yield blobs.ReadResponse(offset=start, data=data[start : min(start + _CHUNK, end)])


def _error(record: Record) -> Descriptor:
    """The blob that tells all of a failure: with the lines that it is about."""
    return Descriptor(media_type=_ERROR, digest=digests.of(record.error), size=len(record.error))


def _described(blob: Descriptor) -> wire.Descriptor:
    return wire.Descriptor(
        media_type=blob.media_type, digest=blob.digest, size=blob.size, annotations=dict(blob.annotations)
    )


def _status(record: Record) -> str:
    error = record.told.error
    if not record.ended_ns:
        return "running"
    if error is None:
        return "completed"
    return "canceled" if error.code == Code.CANCELLED else "error"


def _filters(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """FIELD=VALUE, several separated by commas. Raises InvalidArgument or Unsupported."""
    found = []
    for word in (word for row in csv.reader(texts) for word in row):
        field, equals, value = word.replace("==", "=").partition("=")
        if not equals:
            raise InvalidArgument(f"the filter {word!r} must have the form FIELD=VALUE")
        if field not in ("ref", "status", "repository"):
            raise Unsupported(f"the filter {field!r} of the history is not known; ref, status and repository are")
        found.append((field, value))
    return found


def _fits(record: Record, request: wire.BuildHistoryRequest, wanted: list[tuple[str, str]]) -> bool:
    if (request.active_only and record.ended_ns) or request.ref not in ("", record.ref):
        return False
    repository = record.told.frontend_attributes.get("vcs:source", "")
    facts = {"ref": record.ref, "status": _status(record), "repository": repository}
    return all(facts[field] == value for field, value in wanted)
