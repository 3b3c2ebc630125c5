"""moby.buildkit.v1.frontend.LLBBridge: for clients that drive the frontend themselves, as buildx does.

    Control.Solve (without a frontend) waits … ── Ping · Solve ─▶ a reference … ── Return(reference) ─▶ it is made

Each call names its build in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from cove.build import cache_places
from cove.buildkit import sources
from cove.buildkit.job import Job, Outcome
from cove.buildkit.jobs import Jobs
from cove.buildkit.links import named, reference
from cove.buildkit.messages import gateway as wire
from cove.buildkit.messages.common import Definition, Empty, WorkerRecord
from cove.errors import InvalidArgument, NotFound
from cove.grpc.calls import Call, Handler, unary
from cove.grpc.status import RpcError
from cove.oci import image as oci

_BUILD = "buildkit-controlapi-buildid"
_CONFIG = "containerimage.config"
_FRONTEND_CAPS = (
    "solve.base resolveimage return returnmap importcaches proto.refarray reference.output frontend.inputs "
    "gateway.solve.metadata frontend.caps gateway.solve.evaluate gateway.evaluate readfile readdir statfile"
).split()
_LLB_CAPS = (
    "constraints",
    "platform",
    "meta.description",
    "source.local",
    "source.image",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.subdir",
    "source.git.checksum",
    "source.git.skipsubmodules",
    "source.http",
    "source.http.checksum",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.sourcedateepoch",
)


class Bridge:
    """The service over all jobs."""

    def __init__(self, jobs: Jobs, worker: Callable[[], WorkerRecord]) -> None:
        self._jobs = jobs
        self._worker = worker

    def methods(self) -> dict[str, Handler]:
        return {
            "Ping": unary(Empty, self.ping),
            "Solve": unary(wire.SolveRequest, self.solve),
            "Return": unary(wire.ReturnRequest, self.return_),
            "Evaluate": unary(wire.EvaluateRequest, self.evaluate),
            "Inputs": unary(Empty, self.inputs),
            "ReadFile": unary(wire.ReadFileRequest, self.read_file),
            "ReadDir": unary(wire.ReadDirRequest, self.read_dir),
            "StatFile": unary(wire.StatFileRequest, self.stat_file),
        }

    async def _job(self, call: Call) -> Job:
        names = call.metadata.get(_BUILD)
        if not names:
            raise InvalidArgument(f"the call does not say which build it belongs to ({_BUILD})")
        return await self._jobs.get(names[0])

    async def ping(self, call: Call, request: Empty) -> wire.PongResponse:
        await self._job(call)
        return wire.PongResponse(
            frontend_caps=tuple(wire.APICap(id=each, enabled=True) for each in _FRONTEND_CAPS),
            llb_caps=tuple(wire.APICap(id=each, enabled=True) for each in _LLB_CAPS),
            workers=(self._worker(),),
        )

    async def solve(self, call: Call, request: wire.SolveRequest) -> wire.SolveResponse:
        """Plan what is asked for, which is made when it is returned or evaluated; or answer a question of it."""
        job = await self._job(call)
        if request.definition is not None and request.definition.operations:
            return await self._again(job, request.definition, evaluate=request.evaluate)
        job.judged_by(request.source_policies)
        if not request.frontend:
            return wire.SolveResponse(result=wire.Result(ref=wire.Ref()))
        if request.options.get("requestid"):
            answer = await job.answer(request.frontend, request.options, request.inputs)
            return wire.SolveResponse(result=wire.Result(ref=wire.Ref(), metadata=answer))
        job.cache_from += tuple(cache_places.source(each.type, each.attributes) for each in request.cache_imports)
        outcome = await job.plan(request.frontend, request.options, request.inputs)
        if request.evaluate:
            await job.evaluate(outcome)
        return wire.SolveResponse(ref=_first(outcome), result=_result(outcome))

    async def _again(self, job: Job, definition: Definition, *, evaluate: bool) -> wire.SolveResponse:
        """A result that was given out before, asked for by the definition that stands for it.

        Of a build that may have ended: buildx's experimental commands hold a result so, to look into it.
        """
        identity = named(definition)
        if not identity:
            fetched = await job.fetch(sources.read(definition))
            return wire.SolveResponse(
                ref=fetched, result=wire.Result(ref=wire.Ref(id=fetched, definition=definition))
            )
        owner, outcome = self._jobs.outcome(identity.partition("/")[0], made=True)
        job.outcomes[outcome.identity] = outcome
        if evaluate:
            await owner.evaluate(outcome)
        return wire.SolveResponse(ref=identity, result=wire.Result(ref=reference(identity)))

    async def evaluate(self, call: Call, request: wire.EvaluateRequest) -> Empty:
        job = await self._job(call)
        await job.evaluate(job.outcome(request.ref)[0])
        return Empty()

    async def return_(self, call: Call, request: wire.ReturnRequest) -> Empty:
        """The client's last word: what shall be made, or why nothing."""
        job = await self._job(call)
        if job.returned.done():
            raise NotFound(f"the build {job.ref} has ended")
        if request.error is not None and request.error.code:
            error = request.error
            job.returned.set_exception(RpcError(error.code, error.message, error.details))
        else:
            job.returned.set_result(request.result or wire.Result())
        return Empty()

    async def read_file(self, call: Call, request: wire.ReadFileRequest) -> wire.ReadFileResponse:
        return await (await self._job(call)).look(request.ref, sources.read_file, request)

    async def read_dir(self, call: Call, request: wire.ReadDirRequest) -> wire.ReadDirResponse:
        return await (await self._job(call)).look(request.ref, sources.read_dir, request)

    async def stat_file(self, call: Call, request: wire.StatFileRequest) -> wire.StatFileResponse:
        return await (await self._job(call)).look(request.ref, sources.stat_file, request)

    async def inputs(self, call: Call, request: Empty) -> wire.InputsResponse:
        await self._job(call)
        return wire.InputsResponse()


def _first(outcome: Outcome) -> str:
    return outcome.identity


def _result(outcome: Outcome) -> wire.Result:
    """One reference, or one for each platform, and what the images will be configured as."""
    platforms = outcome.build.platforms
    configs = [oci.encode(plan.made.config) for plan in outcome.build.plans]
    if not outcome.asked.many:
        return wire.Result(ref=reference(outcome.identity), metadata={_CONFIG: configs[0]})
    refs = {str(each): reference(f"{outcome.identity}/{each}") for each in platforms}
    listed = [
        {"ID": str(each), "Platform": {"architecture": each.architecture, "os": each.os, "variant": each.variant}}
        for each in platforms
    ]
    metadata = {f"{_CONFIG}/{each}": config for each, config in zip(platforms, configs, strict=True)}
    metadata["refs.platforms"] = json.dumps({"Platforms": listed}).encode()
    return wire.Result(refs=wire.RefMap(refs=refs), metadata=metadata)
