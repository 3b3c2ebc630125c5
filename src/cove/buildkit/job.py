"""One request to build, from its beginning to its end: what was solved in it, and its progress.

    Control.Solve ─▶ Job ─▶ (bridge: Solve, …, Return) or its own frontend ─▶ Outcome ─▶ evaluated once ─▶ exported
                      └────────────────────────────▶ Trace ◀── Control.Status

A result is planned when it is asked for and made when somebody needs it. What passes through lies in a directory of
the job's, which ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cove import ids
from cove.build.dockerfile.plan import Plan
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.graph import ordered
from cove.buildkit import frontend, layouts, links, sources, subrequests
from cove.buildkit.contents import SessionDirectories
from cove.buildkit.failures import failure
from cove.buildkit.files import OWN, SessionFiles
from cove.buildkit.frontend import Asked
from cove.buildkit.gifts import Gifts, credentials
from cove.buildkit.messages.common import Definition, Timestamp
from cove.buildkit.messages.control import BuildHistoryRecord, Exporter
from cove.buildkit.messages.gateway import Result
from cove.buildkit.policies import Policies
from cove.buildkit.progress import Trace
from cove.buildkit.records import Record
from cove.buildkit.sessions import Session, Sessions
from cove.engine.build.bases import Bases, Sink
from cove.engine.build.files import tree_or_image
from cove.engine.build.job import Build
from cove.engine.build.service import BuildService
from cove.errors import CoveError, NotFound, Unavailable, Unsupported
from cove.grpc.protobuf import encode
from cove.grpc.status import RpcError, Status
from cove.oci.image import Descriptor
from cove.oci.platform import Platform, host_platform
from cove.oci.reference import Reference
from cove.wire.builds import CachePlace


@dataclass(eq=False)
class Outcome:
    """A planned build; `Job.evaluate` makes it."""

    identity: str
    asked: Asked
    build: Build
    planned: Plan
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def is_made(self) -> bool:
        """Whether all its steps are done, and well."""
        return self.task is not None and self.task.done() and not self.task.cancelled() and not self.task.exception()


Q = TypeVar("Q")
A = TypeVar("A")
FindOutcome = Callable[[str], "tuple[Job, Outcome]"]


class Job:
    """One request's builds."""

    def __init__(self, service: BuildService, sessions: Sessions, ref: str, session: str, find: FindOutcome) -> None:
        self._find = find
        self._linked = contextlib.AsyncExitStack()
        self._service = service
        self._sessions = sessions
        self._session = session
        self.ref = ref
        self.trace = Trace()
        self.outcomes: dict[str, Outcome] = {}
        self.entitlements: tuple[str, ...] = ()
        self.cache_to: tuple[CachePlace, ...] = ()
        self.cache_from: tuple[CachePlace, ...] = ()
        self.body: AsyncIterator[bytes] | None = None
        self.attributes: Mapping[str, str] = {}
        self.exporters: tuple[Exporter, ...] = ()
        self.told: dict[str, str] = {}
        self.result: Descriptor | None = None
        self.error: RpcError | None = None
        self.began_ns = time.time_ns()
        self.ended_ns = 0
        self.returned: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._scratches: list[Path] = []
        self._files: list[SessionFiles] = []
        self._fetched: dict[str, Path] = {}
        self._rules: list[bytes] = []
        self._judge = ""
        self.policies = Policies()

    async def find_session(self) -> Session | None:
        """The client's session; None for a build that names none."""
        return await self._sessions.get(self._session) if self._session else None

    def judged_by(self, rules: Iterable[bytes], session: str = "") -> None:
        """Sources are judged by these policies, and by the client of that session."""
        self._rules += [raw for raw in rules if raw]
        self._judge = session or self._judge
        judge = partial(self._sessions.get, self._judge) if self._judge else None
        self.policies = Policies(self._rules, judge)

    @property
    def service(self) -> BuildService:
        return self._service

    async def plan(self, name: str, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Outcome:
        """Read what is to be built and plan it; `inputs` are results of other builds. Raises RpcError."""
        self.attributes = options
        frontend.check_frontend(name, options)
        asked = frontend.read(options, self.entitlements, self.cache_to, self.cache_from)
        build = await self._build(asked, inputs)
        with self._told(asked, build):
            await build.read()
            try:
                planned = await build.plan(lambda _: None)
                for vertex in ordered(tuple(each.made.vertex for each in build.plans)):
                    if isinstance(vertex.step, sources.Source):
                        await self._allowed(vertex.step)
            finally:
                self.trace.planned(tuple(each.made.vertex for each in build.plans))
                for warning in build.warnings:
                    self.trace.warn(warning, asked.filename, build.text)
        outcome = Outcome(ids.new_id()[:25], asked, build, planned)
        self.outcomes[outcome.identity] = outcome
        return outcome

    async def answer(
        self, name: str, options: Mapping[str, str], inputs: Mapping[str, Definition]
    ) -> subrequests.Answer:
        """The answer to the question that the options ask; nothing is built. Raises RpcError."""
        frontend.check_frontend(name, options)
        asked = frontend.read(options, self.entitlements, self.cache_to, self.cache_from)
        subrequests.check(asked.request)
        if asked.request == subrequests.DESCRIBE:
            return subrequests.describe()
        build = await self._build(asked, inputs)
        if asked.request == subrequests.TARGETS:
            with self._told(asked, build):
                await build.read()
            assert build.dockerfile is not None
            return subrequests.targets(build.dockerfile, build.text)
        if asked.request == subrequests.OUTLINE:
            with self._told(asked, build):
                await build.read()
                outlined = (await build.plan(lambda _: None)).outline
            assert outlined is not None
            return subrequests.outline(outlined, build.text)
        try:
            await build.read()
            warnings = (await build.plan(lambda _: None)).warnings
        except CoveError as error:
            if not build.text:
                raise  # there is no Dockerfile that anything could be said of
            told = error.warnings if isinstance(error, DockerfileError) else ()
            return subrequests.lint(told, error, asked.filename, build.text)
        return subrequests.lint(warnings, None, asked.filename, build.text)

    async def _build(self, asked: Asked, inputs: Mapping[str, Definition]) -> Build:
        if (main := inputs.get("context")) is not None and not links.named(main):
            mine = asked.local_dockerfile or "dockerfile" not in inputs
            asked = replace(asked, context=sources.address(sources.read(main)), local_dockerfile=mine)
        if (remote := sources.remote(asked.context)) is not None:
            await self._allowed(remote)
        scratch = self._service.scratch()
        self._scratches.append(scratch)
        context = self._service.context
        bases = _TracedBases(self, asked.options.pull)
        files = SessionFiles(
            asked,
            self.find_session,
            self._sessions,
            context.executors,
            self._service.workshop,
            context.data.build_contexts,
            scratch,
            self.trace,
            self.body,
        )
        self._files.append(files)
        return self._service.job(
            asked.options,
            files=files,
            bases=bases,
            giver=Gifts(self.find_session),
            scratch=scratch,
            directories=SessionDirectories(context, self.find_session),
            contexts=await self._contexts(asked, inputs, bases),
        )

    async def _contexts(self, asked: Asked, inputs: Mapping[str, Definition], bases: Bases) -> dict[str, str]:
        """The named contexts in a plan's words; the results of other builds are made, and known as images."""
        found: dict[str, str] = {}
        for name, value in asked.contexts.items():
            if value.startswith(layouts.PREFIX):
                context = self._service.context
                platforms = [Platform.parse(text) for text in asked.options.platforms] or [host_platform()]
                entered = layouts.imported(context, self.find_session, name, value, platforms)
                digest = await self._linked.enter_async_context(entered)
                for platform in platforms:
                    bases.know(digest, platform)
                found[name] = f"image:{digest}"
                continue
            if not value.startswith("input:"):
                found[name] = tree_or_image(name, value, OWN)
                continue
            definition = inputs.get(value.removeprefix("input:"))
            identity = links.named(definition) if definition is not None else ""
            if not identity:
                raise Unsupported(f"the context {name} is no result of this builder's: {frontend.NO_LLB}")
            job, outcome = self._find(identity.partition("/")[0])
            await job.evaluate(outcome)
            image = await self._linked.enter_async_context(outcome.build.imaged())
            for platform in outcome.build.platforms:
                bases.know(image.target.digest, platform)
            found[name.partition("::")[0]] = f"image:{image.target.digest}"
        return found

    async def evaluate(self, outcome: Outcome) -> None:
        """Make it, once, whoever asks first. Raises RpcError."""
        if outcome.task is None:
            outcome.task = asyncio.ensure_future(outcome.build.solve(self.trace.heard, self._told_of))
        with self._told(outcome.asked, outcome.build):
            await asyncio.wait([outcome.task])
            if outcome.task.cancelled():
                raise Unavailable("the build whose result this is was cancelled")
            outcome.task.result()

    def _told_of(self, message: dict[str, Any]) -> None:
        """What is wrong with a cache is a step that people see."""
        if str(message.get("status", "")).startswith("the cache of "):
            with self.trace.step(message["status"]):
                pass

    async def fetch(self, source: sources.Source) -> str:
        """Have a source's files to look into; what they are called for the time of the job."""
        await self._allowed(source)
        identity = f"source-{ids.new_id()[:25]}"
        scratch = self._service.scratch()
        self._scratches.append(scratch)
        with self.trace.step(f"[internal] load {sources.address(source)}"):
            await self._service.context.executors.bulk(sources.fetch, source, scratch / "tree")
        self._fetched[identity] = scratch / "tree"
        return identity

    async def _allowed(self, source: sources.Source) -> None:
        """Whether policies let a source that is no image be used. Raises Forbidden."""
        await self.policies.judge(*sources.identified(source))

    async def look(self, identity: str, how: Callable[[Path, Q], A], request: Q) -> A:
        """Look into files that were fetched. Raises NotFound, and Unsupported for results of builds."""
        if identity.partition("/")[0] in self.outcomes:
            raise Unsupported("files of a result cannot be read one by one; put the result out with type=local")
        tree = self._fetched.get(identity)
        if tree is None:
            raise NotFound(f"no such ref: {identity}")
        return await self._service.context.executors.disk(how, tree, request)

    def record(self) -> Record:
        """What is told of it among all builds."""
        error, vertices = self.error, self.trace.vertices
        told = BuildHistoryRecord(
            ref=self.ref,
            frontend="dockerfile.v0",
            frontend_attributes=dict(self.attributes),
            exporters=self.exporters,
            error=Status(code=error.code, message=error.message) if error is not None else None,
            created_at=Timestamp.of_ns(self.began_ns),
            completed_at=Timestamp.of_ns(self.ended_ns) if self.ended_ns else None,
            exporter_response=self.told,
            generation=2 if self.ended_ns else 1,
            cached_steps=self.trace.cached,
            total_steps=len(vertices),
            completed_steps=sum(each.completed is not None and not each.error for each in vertices),
            warnings=self.trace.warnings,
        )
        whole = encode(error.status) if error is not None else b""
        return Record(told, self.began_ns, self.ended_ns, self.result, whole)

    def outcome(self, identity: str) -> tuple[Outcome, Plan]:
        """What a reference means: a result, or one platform's."""
        name, _, platform = identity.partition("/")
        outcome = self.outcomes.get(name)
        if outcome is None:
            raise NotFound(f"no such ref: {identity}")
        for each, plan in zip(outcome.build.platforms, outcome.build.plans, strict=True):
            if str(each) == platform or not platform:
                return outcome, plan
        raise NotFound(f"no such ref: {identity}")

    @contextlib.contextmanager
    def _told(self, asked: Asked, build: Build) -> Iterator[None]:
        """What fails within is told as a build's failure."""
        try:
            yield
        except RpcError:
            raise
        except CoveError as error:
            raise failure(error, asked.filename, build.text, build.failed_lines()) from error

    async def close(self) -> None:
        """End what still runs and remove what passed through."""
        made = list(self.outcomes.values())
        tasks = [each.task for each in made if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._linked.aclose()
        if all(each.is_made for each in made):
            for files in self._files:
                await files.keep()
        for scratch in self._scratches:
            self._service.sweep(scratch)
        if not self.returned.done():
            self.returned.cancel()
        self.trace.end()


class _TracedBases(Bases):
    """Images, each with a step that tells of its pull."""

    def __init__(self, job: Job, pull: bool) -> None:
        super().__init__(job.service.context, credentials(job.find_session), pull=pull)
        self._trace, self._policies = job.trace, job.policies

    async def find(self, wanted: Collection[tuple[str, str]], sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        for name, platform in sorted(wanted):
            full = Reference.parse(name).full
            with self._trace.step(f"[internal] load metadata for {full}") as work:

                def tell(message: dict[str, Any], heard: Sink = work.pulled) -> None:
                    loop.call_soon_threadsafe(heard, message)

                used = await self._policies.image(full, Platform.parse(platform))
                if used == full:
                    await super().find([(name, platform)], tell)
                    continue
                await super().find([(used, platform)], tell)
                self.known[name, platform] = self.known[used, platform]
