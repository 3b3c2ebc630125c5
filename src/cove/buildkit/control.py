"""moby.buildkit.v1.Control: builds, their progress, who works, and what the cache holds."""

from __future__ import annotations

import platform as host
from collections.abc import AsyncIterator

from cove import __version__
from cove.build import cache_places
from cove.buildkit import exportoptions, exports, frontend
from cove.buildkit.job import Job, Outcome
from cove.buildkit.jobs import Jobs
from cove.buildkit.messages import control as wire
from cove.buildkit.messages.common import BuildkitVersion, Empty, Platform, Timestamp, WorkerRecord
from cove.buildkit.messages.gateway import Result
from cove.engine.build.leftovers import Leftover, leftovers
from cove.engine.engine import Engine
from cove.errors import CoveError, Unsupported
from cove.grpc.calls import Call, Handler, streaming, unary
from cove.grpc.status import Code, RpcError
from cove.oci.platform import host_platform
from cove.wire.builds import CachePlace
from cove.wire.filters import Filters

_LABEL = "org.mobyproject.buildkit.worker."


class Control:
    """The service over one engine."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self._engine = engine
        self._jobs = jobs

    def methods(self) -> dict[str, Handler]:
        return {
            "Solve": unary(wire.SolveRequest, self.solve),
            "Status": streaming(wire.StatusRequest, self.status),
            "Info": unary(Empty, self.info),
            "ListWorkers": unary(Empty, self.workers),
            "DiskUsage": unary(wire.DiskUsageRequest, self.disk_usage),
            "Prune": streaming(wire.PruneRequest, self.prune),
        }

    # ── builds ────────────────────────────────────────────────────────────────────────────────────

    async def solve(self, call: Call, request: wire.SolveRequest) -> wire.SolveResponse:
        """One build; it ends with its call."""
        return wire.SolveResponse(exporter_response=await self.solved(request))

    async def solved(self, request: wire.SolveRequest, *, body: AsyncIterator[bytes] | None = None) -> dict[str, str]:
        """Build and hand on; what the exporters tell. `body`: a context that came with the request."""
        exporters = _exporters(request)
        exportoptions.check(exporters)
        _refuse(request)
        stored, taken = _cache_to(request.cache), _cache_from(request.cache)
        async with self._jobs.running(request.ref, request.session) as job:
            job.entitlements = request.entitlements
            job.judged_by((request.source_policy,), request.source_policy_session)
            job.attributes, job.exporters = request.frontend_attributes, exporters
            job.body = body
            job.cache_to, job.cache_from = stored, taken
            try:
                job.told = await self._result(job, request, exporters)
                return job.told
            except RpcError:
                raise
            except CoveError as error:
                raise RpcError(Code.UNKNOWN, error.message) from error

    async def _result(
        self, job: Job, request: wire.SolveRequest, exporters: tuple[wire.Exporter, ...]
    ) -> dict[str, str]:
        options = request.frontend_attributes
        if request.frontend and options.get("requestid"):
            answer = await job.answer(request.frontend, options, request.frontend_inputs)
            return {key: value.decode() for key, value in answer.items()}
        if request.frontend:
            outcome: Outcome | None = await job.plan(request.frontend, options, request.frontend_inputs)
        else:
            outcome = _returned(job, await job.returned)
        if outcome is None:
            return {}
        told = await exports.export(job, outcome, exporters)
        return told | await exports.share(job, outcome)

    async def status(self, call: Call, request: wire.StatusRequest) -> AsyncIterator[wire.StatusResponse]:
        """The progress of a build, until it ends."""
        async for news in self._jobs.progress(request.ref):
            yield news

    # ── who works ─────────────────────────────────────────────────────────────────────────────────

    async def info(self, call: Call, request: Empty) -> wire.InfoResponse:
        return wire.InfoResponse(version=_version())

    async def workers(self, call: Call, request: Empty) -> wire.ListWorkersResponse:
        return wire.ListWorkersResponse(record=(self.worker(),))

    def worker(self) -> WorkerRecord:
        """Cove as a worker: the labels tell clients that indexes of several platforms can be kept here."""
        own = host_platform()
        labels = {
            f"{_LABEL}executor": "cove",
            f"{_LABEL}hostname": host.node(),
            f"{_LABEL}snapshotter": "overlayfs",
            f"{_LABEL}network": "bridge",
        }
        gateway = self._engine.networks.host_gateway
        if gateway:
            labels[f"{_LABEL}moby.host-gateway-ip"] = gateway
        platform = Platform(architecture=own.architecture, os=own.os, variant=own.variant)
        return WorkerRecord(id="cove", labels=labels, platforms=(platform,), version=_version())

    # ── the cache ─────────────────────────────────────────────────────────────────────────────────

    async def disk_usage(self, call: Call, request: wire.DiskUsageRequest) -> wire.DiskUsageResponse:
        filters = _filters(request.filter)
        service = self._engine.builds
        found = await service.context.executors.bulk(lambda: leftovers(service.context, service.cache)[0])
        records = [_record(each) for each in found]
        return wire.DiskUsageResponse(record=tuple(each for each in records if _wanted(each, filters)))

    async def prune(self, call: Call, request: wire.PruneRequest) -> AsyncIterator[wire.UsageRecord]:
        """Forget what builds left; each that is forgotten is told."""
        service = self._engine.builds
        found = await service.context.executors.bulk(lambda: leftovers(service.context, service.cache)[0])
        before = {each.id: each for each in found}
        filters = {name: (value or "true",) for name, value in _filters(request.filter)}
        if request.keep_duration:
            filters["until"] = (f"{request.keep_duration // 10**9}s",)
        done = await service.prune(
            Filters(filters),
            all_=request.all,
            keep_bytes=request.reserved_space,
            most=request.max_used_space,
            free=request.min_free_space,
        )
        for key in done.caches_deleted or ():
            if key in before:
                yield _record(before[key])


def _record(left: Leftover) -> wire.UsageRecord:
    return wire.UsageRecord(
        id=left.id[:25],
        mutable=not left.chains,
        size=left.room,
        created_at=Timestamp.of_ns(left.created_ns),
        last_used_at=Timestamp.of_ns(left.used_ns),
        usage_count=left.uses,
        description=left.title,
        record_type=left.type,
        shared=left.shared,
        parents=tuple(each[:25] for each in left.parents),
    )


def _filters(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """Clients' filters, NAME=VALUE or NAME==VALUE. Raises Unsupported for names that mean nothing here."""
    found = []
    for text in texts:
        for word in filter(None, text.split(",")):
            name, _, value = word.replace("==", "=").partition("=")
            if name not in ("id", "type", "description", "shared", "inuse", "mutable"):
                raise Unsupported(f"the filter {word!r} is not known to this builder")
            found.append((name, value))
    return found


def _wanted(record: wire.UsageRecord, filters: list[tuple[str, str]]) -> bool:
    facts = {
        "id": record.id,
        "type": record.record_type,
        "description": record.description,
        "shared": str(record.shared).lower(),
        "inuse": str(record.in_use).lower(),
        "mutable": str(record.mutable).lower(),
    }
    return all(facts[name] == (value or "true") for name, value in filters)


def _version() -> BuildkitVersion:
    return BuildkitVersion(package="cove", version=f"v{__version__}")


def _exporters(request: wire.SolveRequest) -> tuple[wire.Exporter, ...]:
    if request.exporters:
        return request.exporters
    if request.exporter:
        return (wire.Exporter(type=request.exporter, attributes=request.exporter_attributes),)
    return ()


def _refuse(request: wire.SolveRequest) -> None:
    if request.definition is not None and request.definition.operations:
        raise Unsupported(frontend.NO_LLB)


def _cache_to(cache: wire.CacheOptions | None) -> tuple[CachePlace, ...]:
    if cache is not None and cache.export_ref:
        raise Unsupported(
            "a cache cannot be put to an image by this field of the call, which is older than its others"
        )
    return tuple(cache_places.target(each.type, each.attributes) for each in (cache.exports if cache else ()))


def _cache_from(cache: wire.CacheOptions | None) -> tuple[CachePlace, ...]:
    older = [("registry", {"ref": name}) for name in (cache.import_refs if cache else ())]
    places = [(each.type, each.attributes) for each in (cache.imports if cache else ())]
    return tuple(cache_places.source(kind, attributes) for kind, attributes in (*older, *places))


def _returned(job: Job, result: Result) -> Outcome | None:
    """What the client that drove the frontend wants made of it all; None for nothing."""
    names = [result.ref_deprecated]
    if result.ref is not None:
        names.append(result.ref.id)
    if result.refs is not None:
        names += [ref.id for ref in result.refs.refs.values()]
    if result.refs_deprecated is not None:
        names += result.refs_deprecated.refs.values()
    for name in names:
        if name:
            return job.outcome(name)[0]
    return None
