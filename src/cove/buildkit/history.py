"""The builds that were: what was asked, when, how it ended. For `docker buildx history`.

    Control.Solve ─▶ Job, which remembers ─▶ a record as long as the job is: the last ones of this daemon's life
    ListenBuildHistory ─▶ records, newest first, and with a client that stays, news
    Content.Info, Content.Read ─▶ what records point at: statements about results

Output is not here: a client asks for the progress of the build again (`Control.Status`). Records that are pinned are
forgotten last.
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Iterator

from cove.buildkit.job import Job
from cove.buildkit.jobs import Jobs
from cove.buildkit.messages import content as blobs
from cove.buildkit.messages import control as wire
from cove.buildkit.messages.common import Empty, Timestamp
from cove.errors import CoveError, InvalidArgument, NotFound, Unsupported
from cove.grpc.calls import Call, Handler, streaming, unary
from cove.grpc.status import Code, Status
from cove.oci import image as oci
from cove.oci.image import Descriptor, Index, Manifest

STARTED, COMPLETE, DELETED = range(3)
_CHUNK = 512 << 10


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
            found = [job for job in self._jobs.all() if _fits(job, request, wanted)]
            found.sort(key=lambda job: job.began_ns, reverse=True)
            for job in found[: request.limit or None]:
                yield self._event(job)
            while not request.early_exit:
                job, forgotten = await news.get()
                if forgotten:
                    yield wire.BuildHistoryEvent(type=DELETED, record=wire.BuildHistoryRecord(ref=job.ref))
                elif _fits(job, request, wanted):
                    yield self._event(job)

    async def update(self, call: Call, request: wire.UpdateBuildHistoryRequest) -> Empty:
        """Pin a record, or forget it."""
        if request.delete:
            self._jobs.forget(request.ref)
        elif not request.finalize:
            (await self._jobs.get(request.ref)).pinned = request.pinned
        return Empty()

    def _event(self, job: Job) -> wire.BuildHistoryEvent:
        ended = job.ended_ns
        error = job.error
        record = wire.BuildHistoryRecord(
            ref=job.ref,
            frontend="dockerfile.v0",
            frontend_attributes=dict(job.attributes),
            exporters=job.exporters,
            error=Status(code=error.code, message=error.message) if error is not None else None,
            created_at=Timestamp.of_ns(job.began_ns),
            completed_at=Timestamp.of_ns(ended) if ended else None,
            exporter_response=job.told,
            result=self._result(job),
            generation=2 if ended else 1,
            pinned=job.pinned,
            cached_steps=job.trace.cached,
            total_steps=len(job.trace.vertices),
            completed_steps=sum(each.completed is not None and not each.error for each in job.trace.vertices),
            warnings=job.trace.warnings,
        )
        return wire.BuildHistoryEvent(type=COMPLETE if ended else STARTED, record=record)

    def _result(self, job: Job) -> wire.BuildResultInfo | None:
        """The image, with the statements about it; None for files, and for an image that is gone."""
        if job.result is None:
            return None
        try:
            statements = tuple(_described(each) for each in self._statements(job.result))
        except CoveError:
            return None
        return wire.BuildResultInfo(attestations=statements, results={0: _described(job.result)})

    def _statements(self, target: Descriptor) -> Iterator[Descriptor]:
        document = oci.decode_manifest(self._content.read(target.digest))
        for each in document.manifests if isinstance(document, Index) else ():
            if oci.ATTESTATION_TYPE in each.annotations:
                manifest = oci.decode_manifest(self._content.read(each.digest))
                yield from manifest.layers if isinstance(manifest, Manifest) else ()

    # ── what records point at ─────────────────────────────────────────────────────────────────────

    def _known(self, digest: str) -> Descriptor:
        """A blob that a record points at, and no other. Raises NotFound."""
        for job in self._jobs.all():
            if job.result is not None:
                try:
                    for each in (job.result, *self._statements(job.result)):
                        if each.digest == digest:
                            return each
                except CoveError:
                    continue
        raise NotFound(f"no build that is remembered has the content {digest}")

    async def info(self, call: Call, request: blobs.InfoRequest) -> blobs.InfoResponse:
        found = self._known(request.digest)
        return blobs.InfoResponse(info=blobs.Info(digest=found.digest, size=found.size))

    async def read(self, call: Call, request: blobs.ReadRequest) -> AsyncIterator[blobs.ReadResponse]:
        data = self._content.read(self._known(request.digest).digest)
        end = request.offset + request.size if request.size else len(data)
        for start in range(request.offset, min(end, len(data)), _CHUNK):
            yield blobs.ReadResponse(offset=start, data=data[start : min(start + _CHUNK, end)])


def _described(blob: Descriptor) -> wire.Descriptor:
    return wire.Descriptor(
        media_type=blob.media_type, digest=blob.digest, size=blob.size, annotations=dict(blob.annotations)
    )


def _status(job: Job) -> str:
    if not job.ended_ns:
        return "running"
    if job.error is None:
        return "completed"
    return "canceled" if job.error.code == Code.CANCELLED else "error"


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


def _fits(job: Job, request: wire.BuildHistoryRequest, wanted: list[tuple[str, str]]) -> bool:
    if (request.active_only and job.ended_ns) or request.ref not in ("", job.ref):
        return False
    facts = {"ref": job.ref, "status": _status(job), "repository": job.attributes.get("vcs:source", "")}
    return all(facts[field] == value for field, value in wanted)
