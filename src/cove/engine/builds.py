"""Builds: a context and a Dockerfile become an image; what steps left in the cache is kept, shown and pruned.

    body ─▶ context ─▶ Dockerfile read (its errors are the request's) ─▶ messages begin
        ─▶ bases found or pulled ─▶ plan ─▶ solver ─▶ image named ─▶ messages end

A build belongs to its request: when the client goes away, its steps end, unless another build waits for them too.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from cove import ids
from cove.build import context as contexts
from cove.build import emulation, exporters
from cove.build.cache import BuildCache
from cove.build.dockerfile import instructions, lint, reader
from cove.build.dockerfile.options import PROXIES, Missing, Options
from cove.build.dockerfile.plan import Plan, plan
from cove.build.layers import Workshop
from cove.build.solver import Event, Solver
from cove.build.steps import Result, StepFailed, Steps, Surroundings
from cove.engine.attachments import Attachments
from cove.engine.bridging import Message, blocking
from cove.engine.build_bases import Bases
from cove.engine.build_mounts import BuildMounts, CacheLocks, Given, sweep_memory
from cove.engine.build_prune import prune_cache
from cove.engine.build_runner import BuildExits, ContainerRunner, proxies
from cove.engine.build_stream import Classic, Events, Quiet, Stream
from cove.engine.context import Context
from cove.engine.launch import Launcher
from cove.errors import InvalidArgument, NotFound, Unsupported
from cove.image.images import Image
from cove.oci.platform import Platform, host_platform
from cove.oci.reference import Reference
from cove.runtime.messages import Exit
from cove.wire.builds import BuildOptions, BuildPruneResponse, BuildSecrets
from cove.wire.filters import Filters

_WIDTH = 2
_MAX_GIVEN = 64
Sink = Callable[[Message], None]


class BuildService:
    """The use cases of builds."""

    def __init__(self, context: Context, launcher: Launcher, attachments: Attachments, cache: BuildCache) -> None:
        self._context = context
        self._launcher = launcher
        self._attachments = attachments
        self._cache = cache
        self._workshop = Workshop(context.data, context.store)
        self._solver: Solver[Result] = Solver(width=(os.cpu_count() or 1) * _WIDTH + 2)
        self._exits = BuildExits()
        self._locks = CacheLocks()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._sweeps: set[asyncio.Task[None]] = set()
        self._given: dict[str, Given] = {}
        sweep_memory(context)

    def give(self, secrets: BuildSecrets) -> str:
        """Keep secrets in memory for the one build that asks for them by this name."""
        if len(self._given) >= _MAX_GIVEN:
            self._given.pop(next(iter(self._given)))
        identity = ids.new_id()
        self._given[identity] = Given.of(secrets)
        return identity

    def taken(self, session: str) -> Given:
        """What was given under that name, which nobody has any more."""
        if not session:
            return Given()
        found = self._given.pop(session, None)
        if found is None:
            raise NotFound("the build's secrets were not given, or are used up already")
        return found

    async def rootfs(self, name: str) -> AsyncIterator[bytes]:
        """The files of an image as an archive."""
        image = self._context.images.get(name)
        return self._context.executors.stream(self._workshop.pack(image.top or ""))

    def exited(self, identity: str, exit_: Exit) -> bool:
        """The end of a step's container; False when it is none of a build's."""
        return self._exits.exited(identity, exit_)

    async def lost(self) -> None:
        """A new supervisor took over: steps whose containers it does not know have ended unseen."""
        statuses = {status.id: status for status in await self._context.runtime.list()}
        for identity in list(self._exits.waiting):
            status = statuses.get(identity)
            if status is None:
                self._exits.exited(identity, Exit(code=255, at=0.0, reason="the supervisor died meanwhile"))
            elif status.exit is not None:
                self._exits.exited(identity, status.exit)

    async def close(self) -> None:
        """End every build."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), *self._sweeps, return_exceptions=True)

    # ── build ─────────────────────────────────────────────────────────────────────────────────────

    async def build(
        self, options: BuildOptions, body: AsyncIterator[bytes], auth: dict[str, dict[str, str]]
    ) -> AsyncIterator[Message]:
        """The messages of a build; what is wrong with the request or the Dockerfile is raised before the first."""
        names = _names(options)
        _check(options)
        one = _Build(self, options, names, auth)
        try:
            await one.prepare(body)
        except BaseException:
            self._sweep(one.scratch)
            raise
        identity = options.build_id or ids.new_id()
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        task = asyncio.ensure_future(one.run(queue.put_nowait))
        self._running[identity] = task
        task.add_done_callback(lambda _: queue.put_nowait(None))
        return self._messages(identity, task, queue, one.scratch)

    async def _messages(
        self, identity: str, task: asyncio.Task[None], queue: asyncio.Queue[Message | None], scratch: Path
    ) -> AsyncIterator[Message]:
        try:
            while (message := await queue.get()) is not None:
                yield message
            if task.cancelled():
                raise InvalidArgument("the build was cancelled")
            error = task.exception()
            if isinstance(error, StepFailed):
                yield {"errorDetail": {"code": error.code, "message": error.message}, "error": error.message}
            elif error is not None:
                raise error
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._running.pop(identity, None)
            self._context.store.layers.flush()
            self._sweep(scratch)

    def _sweep(self, scratch: Path) -> None:
        """Remove what a build left, beside everything else."""
        work = self._context.executors.disk(shutil.rmtree, scratch, ignore_errors=True)
        task = asyncio.ensure_future(work)
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def cancel(self, identity: str) -> None:
        """End a running build."""
        task = self._running.get(identity)
        if task is None:
            raise NotFound(f"no build {identity} is running")
        task.cancel()

    async def prune(self, filters: Filters, *, all_: bool, keep_bytes: int) -> BuildPruneResponse:
        """Forget steps and cache mounts; layers that nothing else needs go with them."""
        return await prune_cache(self._context, self._cache, filters, all_=all_, keep_bytes=keep_bytes)

    @property
    def context(self) -> Context:
        return self._context

    @property
    def workshop(self) -> Workshop:
        return self._workshop

    @property
    def cache(self) -> BuildCache:
        return self._cache

    @property
    def solver(self) -> Solver[Result]:
        return self._solver

    def runner(self, options: BuildOptions, given: Given) -> ContainerRunner:
        """Who runs programs for one build."""
        mounts = BuildMounts(self._context, self._workshop, self._locks, given)
        around = proxies(options.arguments, PROXIES)
        return ContainerRunner(self._context, self._launcher, self._attachments, self._exits, options, mounts, around)


class _Build:
    """One build from its request to its image."""

    def __init__(
        self, service: BuildService, options: BuildOptions, names: list[str], auth: dict[str, dict[str, str]]
    ) -> None:
        self._service = service
        self._options = options
        self._names = names
        self._given = service.taken(options.session)
        self._bases = Bases(service.context, auth, pull=options.pull)
        self.scratch = service.context.data.tmp / f"build-{ids.new_id()[:16]}"
        self._received: contexts.Context | None = None
        self._dockerfile: instructions.Dockerfile | None = None
        self._results: dict[str, Result] = {}

    async def prepare(self, body: AsyncIterator[bytes]) -> None:
        """The context on disk and the Dockerfile read."""
        service, options = self._service, self._options
        executors = service.context.executors
        self.scratch.mkdir(mode=0o700)
        if options.remote:
            self._received = await executors.bulk(
                contexts.fetch, service.workshop, self.scratch, options.remote, options.dockerfile
            )
        else:
            self._received = await executors.bulk(
                contexts.receive, service.workshop, self.scratch, blocking(body), options.dockerfile
            )
        self._dockerfile = reader.parse(self._received.dockerfile)

    async def run(self, sink: Sink) -> None:
        """Plan, solve, name."""
        assert self._received is not None and self._dockerfile is not None
        if self._options.cache_only and not self._bases.any_here(self._options.cache_only):
            self._options = msgspec.structs.replace(self._options, no_cache=True)
        options = self._options
        stream = _stream(options, sink, self._service.cache)
        plans = [await self._plan(platform, sink) for platform in _platforms(options)]
        joined = _joined(plans)
        _refuse_warnings(self._dockerfile, joined)
        stream.planned(joined)
        if options.check:
            sink({"aux": {"Warnings": len(joined.warnings)}})
            return
        for each in plans:
            emulation.check(each.made.vertex, self._bases.known.values())
        offered = await self._bases.cached(options.cache_from, _platforms(options)[0], sink)

        async def imported(key: str) -> tuple[str, int] | None:
            return offered.get(key)

        around = Surroundings(
            workshop=self._service.workshop,
            cache=self._service.cache,
            runner=self._service.runner(options, self._given),
            blocking=self._service.context.executors.bulk,
            contexts={"context": self._received.directory},
            scratch=self.scratch,
            ignore=self._received.ignore,
            imported=imported,
        )

        def heard(event: Event) -> None:
            if isinstance(event.result, Result):
                self._results[event.vertex.key] = event.result
            stream.heard(event)

        steps = Steps(around)
        await self._service.solver.solve(tuple(each.made.vertex for each in plans), steps, heard)
        image = await self._export(plans, steps.keys)
        stream.built(image.id, [Reference.parse(name).familiar for name in self._names])

    async def _plan(self, platform: Platform, sink: Sink) -> Plan:
        """The plan for a platform, as soon as every image that it needs is known."""
        assert self._dockerfile is not None and self._received is not None
        asked = _plan_options(self._options, platform, self._received.ignore)
        while True:
            try:
                return plan(self._dockerfile, asked, self._bases.known)
            except Missing as missing:
                await self._bases.find(missing.images, sink)

    async def _export(self, plans: list[Plan], keys: dict[str, str]) -> Image:
        context, options = self._service.context, self._options

        def work() -> Image:
            parts = [
                exporters.assemble(context.store, self._service.cache, each.made, self._results, keys, each.epoch)
                for each in plans
            ]
            return exporters.name_image(context.store, parts, self._names, cached="inline" in options.cache_to)

        image = await context.executors.bulk(work)
        for name in self._names:
            context.events.emit("image", "tag", image.id, {"name": Reference.parse(name).familiar})
        return image


def _platforms(options: BuildOptions) -> list[Platform]:
    return [Platform.parse(text) for text in dict.fromkeys(options.platforms)] or [host_platform()]


def _joined(plans: list[Plan]) -> Plan:
    """What is told of builds for several platforms: the steps of each, one after the other."""
    warnings = tuple(dict.fromkeys(warning for each in plans for warning in each.warnings))
    return Plan(plans[0].made, warnings, tuple(line for each in plans for line in each.lines))


def _stream(options: BuildOptions, sink: Sink, cache: BuildCache) -> Stream:
    if options.events:
        return Events(sink)
    return Quiet(sink) if options.quiet else Classic(sink, lambda name: cache.known(name) and not options.no_cache)


def _names(options: BuildOptions) -> list[str]:
    """The names of the result in full; InvalidArgument for a bad one."""
    found = []
    for tag in options.tags:
        reference = Reference.parse(tag)
        if reference.digest:
            raise InvalidArgument(f"refusing to create a tag with a digest reference: {tag}")
        found.append(reference.full)
    return list(dict.fromkeys(found))


def _check(options: BuildOptions) -> None:
    """What cannot be honoured is refused before anything is read."""
    if options.isolation not in ("", "default"):
        raise InvalidArgument(f'Unsupported isolation: "{options.isolation}"; only "default" is possible on Linux')
    for platform in options.platforms:
        parsed = Platform.parse(platform)
        if parsed.os != "linux":
            raise InvalidArgument(f'"{platform}": unknown operating system or architecture: invalid argument')
    if unknown := set(options.cache_to) - {"inline"}:
        raise InvalidArgument(f"the cache cannot be put to {sorted(unknown)[0]!r} over this call; inline is known")
    if options.outputs:
        raise Unsupported("this build's outputs other than an image are not supported over this call")


def _refuse_warnings(dockerfile: instructions.Dockerfile, planned: Plan) -> None:
    if planned.warnings and lint.Checks.parse(dockerfile.directives.get("check", "")).errors:
        first = planned.warnings[0]
        raise InvalidArgument(
            "the Dockerfile's check directive makes warnings errors: "
            f"{first.rule}: {first.message} (line {first.line})"
        )


def _plan_options(options: BuildOptions, platform: Platform, ignore: tuple[str, ...]) -> Options:
    host = host_platform()
    entitled = set(options.allow)
    if options.network == "host":
        entitled.add("network.host")
    return Options(
        target=options.target,
        arguments=options.arguments,
        labels=options.labels,
        platform=platform,
        build_platform=host,
        no_cache=options.no_cache,
        no_cache_filter=frozenset(options.no_cache_filter),
        epoch=options.epoch,
        network=options.network if options.network != "default" else "",
        extra_hosts=options.extra_hosts,
        shm_size=options.shm_size,
        entitlements=frozenset(entitled),
        ignore=ignore,
        place=f"{options.tags[0] if options.tags else options.target}:{platform}",
    )
