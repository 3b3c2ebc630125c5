"""Builds: a context and a Dockerfile become an image; what steps left in the cache is kept, shown and pruned.

    body ─▶ context ─▶ Dockerfile read (its errors are the request's) ─▶ messages begin
        ─▶ bases found or pulled ─▶ plan ─▶ solver ─▶ image named ─▶ messages end

A build belongs to its request: when the client goes away, its steps end, unless another build waits for them too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

from cove import ids
from cove.build import context as contexts
from cove.build.annotations import read_annotations
from cove.build.cache import BuildCache
from cove.build.dockerfile.options import PROXIES
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.layers import Workshop
from cove.build.selections import Result
from cove.build.solver import Solver
from cove.build.steps import StepFailed
from cove.engine import memory
from cove.engine.bridging import Message, blocking
from cove.engine.build.bases import Bases, listed_credentials
from cove.engine.build.caches import Caches
from cove.engine.build.exchange import Directories, Exchange
from cove.engine.build.files import MAIN, SENT, RequestFiles, Upload, Uploads, remove, tree_or_image
from cove.engine.build.job import Build, Files, Tools
from cove.engine.build.listings import Listings
from cove.engine.build.mounts import BuildMounts, Given, Giver
from cove.engine.build.parcels import ParcelDirectories, Parcels
from cove.engine.build.prune import Bounds, prune_cache
from cove.engine.build.runner import ContainerRunner, StepContainers, proxies
from cove.engine.build.stream import Classic, Events, Quiet, Stream
from cove.engine.containers.launch import Launcher
from cove.engine.context import Context
from cove.engine.networks.attachments import Attachments
from cove.errors import InvalidArgument, NotFound, Unsupported
from cove.oci.platform import Platform
from cove.oci.reference import Reference
from cove.runtime.messages import Exit
from cove.wire.builds import BuildOptions, BuildPruneResponse, BuildSecrets
from cove.wire.filters import Filters

_WIDTH = max(16, 4 * (os.cpu_count() or 1))
"""How many steps run at the same time: most wait for networks, disks and each other rather than for a processor."""
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
        self._solver: Solver[Result] = Solver(width=_WIDTH)
        self._containers = StepContainers()
        self.parcels = Parcels(context)
        self.caches = Caches(context.data.build_mounts, context.executors)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._sweeps: set[asyncio.Task[None]] = set()
        self._given: dict[str, Given] = {}
        self._uploads = Uploads()
        self._listings = Listings(context.data.build_contexts, self._workshop, context.executors)
        self._listed: dict[str, Path] = {}

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

    async def rootfs(self, name: str, moment: int | None = None) -> AsyncIterator[bytes]:
        """The files of an image as an archive; with a `moment`, in seconds, every time is that."""
        image = self._context.images.get(name)
        return self._context.executors.stream(self._workshop.pack(image.top or "", moment))

    def exited(self, identity: str, exit_: Exit) -> bool:
        """The end of a step's container; False when it is none of a build's."""
        return self._containers.exited(identity, exit_)

    async def lost(self) -> None:
        """A new supervisor took over: steps whose containers it does not know have ended unseen."""
        statuses = {status.id: status for status in await self._context.runtime.list()}
        for identity in list(self._containers.waiting):
            status = statuses.get(identity)
            if status is None:
                self._containers.exited(identity, Exit(code=255, at=0.0, reason="the supervisor died meanwhile"))
            elif status.exit is not None:
                self._containers.exited(identity, status.exit)

    async def close(self) -> None:
        """End every build."""
        for task in list(self._running.values()):
            task.cancel()
        for upload in self._uploads.all():
            self._sweep(upload.remove)
        await asyncio.gather(*self._running.values(), *self._sweeps, return_exceptions=True)
        await self._containers.close()

    # ── build ─────────────────────────────────────────────────────────────────────────────────────

    async def build(
        self, options: BuildOptions, body: AsyncIterator[bytes], auth: dict[str, dict[str, str]]
    ) -> AsyncIterator[Message]:
        """The messages of a build; what is wrong with the request or the Dockerfile is raised before the first."""
        names = full_names(options.tags)
        _check(options)
        indexed = options.provenance is not None or len(set(options.platforms)) > 1
        read_annotations(options.annotations).check(indexed=indexed)
        given = self.taken(options.session)
        named = {name: tree_or_image(name, value) for name, value in options.contexts.items()}
        scratch = self.scratch()
        bases = Bases(self._context, listed_credentials(auth), pull=options.pull)
        files = self._files(options, body, scratch)
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        directories = ParcelDirectories(self.parcels, queue.put_nowait)
        build = self.job(
            options,
            files=files,
            bases=bases,
            giver=given,
            scratch=scratch,
            directories=directories,
            contexts=named,
        )
        stream = _stream(build, queue.put_nowait, self._cache)
        try:
            await build.read()
        except BaseException as error:
            self._sweep(files.remove)
            if not options.check or not isinstance(error, DockerfileError):
                raise
            return _wrong(error, stream, queue)
        identity = options.build_id or ids.new_id()
        task = asyncio.ensure_future(_run(build, names, stream, queue.put_nowait))
        self._running[identity] = task
        task.add_done_callback(lambda _: self._ended(identity, files.remove, queue))
        return self._messages(task, queue)

    def job(
        self,
        options: BuildOptions,
        *,
        files: Files,
        bases: Bases,
        giver: Giver,
        scratch: Path,
        directories: Directories,
        contexts: Mapping[str, str] | None = None,
    ) -> Build:
        """A build that somebody else takes through its steps."""
        exchange = Exchange(self._context, self._cache, bases, directories)
        tools = Tools(self._context, self._workshop, self._cache, self._solver)
        runner = self._runner(options, giver)
        return Build(
            tools,
            options,
            files=files,
            bases=bases,
            runner=runner,
            scratch=scratch,
            exchange=exchange,
            contexts=contexts,
        )

    def scratch(self) -> Path:
        """A directory of its own for what passes through a build; `sweep` it afterwards."""
        directory = self._context.data.tmp / f"build-{ids.new_id()[:16]}"
        directory.mkdir(mode=0o700)
        return directory

    def in_memory(self, scratch: Path) -> Path | None:
        """A directory in memory that goes with `scratch`, for a small context; None where there is none.

        Not with a remapped daemon: its steps would see the files through an id-mapped mount, which old kernels do
        not have for memory.
        """
        if self._context.settings.userns_remap:
            return None
        directory = memory.directory(self._context, programs=True)
        if directory is not None:
            (scratch / "memory").symlink_to(directory)
        return directory

    def _files(self, options: BuildOptions, body: AsyncIterator[bytes], scratch: Path) -> RequestFiles:
        """Where the files of a request come from; what was sent for it before waits no longer."""
        uploads = {}
        for name, value in {**options.contexts, **({MAIN: options.context} if options.context else {})}.items():
            if value.startswith(SENT):
                found = self._uploads.pop(value.removeprefix(SENT))
                if found is None:
                    raise NotFound(f"the build context {name} was not sent, or is used up already")
                uploads[name] = found
        return RequestFiles(
            options,
            body,
            uploads,
            executors=self._context.executors,
            workshop=self._workshop,
            cache=self._cache,
            scratch=scratch,
            in_memory=self.in_memory,
        )

    async def keep_context(self, body: AsyncIterator[bytes]) -> str:
        """Take a directory for the build that follows; the id that it calls it by."""
        scratch, identity = self.scratch(), ids.new_id()

        def memory() -> Path | None:
            return self.in_memory(scratch)

        try:
            files = await self._context.executors.bulk(contexts.hold, self._workshop, scratch, blocking(body), memory)
        except BaseException:
            self.sweep(scratch)
            raise
        self._keep(identity, Upload(scratch, files))
        return identity

    def _keep(self, identity: str, upload: Upload) -> None:
        for gone in self._uploads.add(identity, upload):
            self._sweep(gone.remove)
        asyncio.get_running_loop().call_later(Uploads.PATIENCE, self._forget, identity)

    async def list_context(self, key: str, body: AsyncIterator[bytes]) -> tuple[str, list[int]]:
        """Hear what a client's directory has: the id of the copy here, and what of it need not be sent."""
        scratch = self.scratch()
        try:
            identity, known = await self._listings.begin(key, body, scratch)
        except BaseException:
            self.sweep(scratch)
            raise
        self._listed[identity] = scratch
        asyncio.get_running_loop().call_later(Uploads.PATIENCE, self._unlist, identity)
        return identity, known

    async def fill_context(self, identity: str, body: AsyncIterator[bytes]) -> str:
        """Take what of it changed, for the build that follows; the id that it calls it by."""
        scratch = self._listed.pop(identity, None)
        if scratch is None:
            raise NotFound("the context's files were not listed, or were sent already")
        try:
            files, give = await self._listings.fill(identity, body)
        except BaseException:
            self.sweep(scratch)
            raise
        self._keep(identity, Upload(scratch, files, give))
        return identity

    def _unlist(self, identity: str) -> None:
        self._listings.forget(identity)
        if scratch := self._listed.pop(identity, None):
            self.sweep(scratch)

    def _forget(self, identity: str) -> None:
        if upload := self._uploads.pop(identity):
            self._sweep(upload.remove)

    def _ended(self, identity: str, gone: Callable[[], None], queue: asyncio.Queue[Message | None]) -> None:
        """A build is over, whether or not anybody still listens to it."""
        queue.put_nowait(None)
        self._running.pop(identity, None)
        self._sweep(gone)

    async def _messages(
        self, task: asyncio.Task[None], queue: asyncio.Queue[Message | None]
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

    def sweep(self, scratch: Path) -> None:
        """At a build's end: its layers go to the disk, what it left goes away, both beside everything else."""
        self._sweep(lambda: remove(scratch))

    def _sweep(self, gone: Callable[[], None]) -> None:
        self._context.store.layers.flush()
        task = asyncio.ensure_future(self._context.executors.disk(gone))
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def cancel(self, identity: str) -> None:
        """End a running build."""
        task = self._running.get(identity)
        if task is None:
            raise NotFound(f"no build {identity} is running")
        task.cancel()

    async def prune(
        self, filters: Filters, *, all_: bool, keep_bytes: int = 0, most: int = 0, free: int = 0
    ) -> BuildPruneResponse:
        """Forget steps and cache mounts; layers that nothing else needs go with them.

        In bytes: `keep_bytes` may stay whatever else is said, `most` at most, `free` is to be free on the disk.
        """
        bounds = Bounds(reserved=keep_bytes, most=most, free=free)
        return await prune_cache(self._context, self._cache, self.caches, filters, all_=all_, bounds=bounds)

    @property
    def context(self) -> Context:
        return self._context

    @property
    def workshop(self) -> Workshop:
        return self._workshop

    @property
    def cache(self) -> BuildCache:
        return self._cache

    def _runner(self, options: BuildOptions, given: Giver) -> ContainerRunner:
        """Who runs programs for one build."""
        mounts = BuildMounts(self._context, self._workshop, self.caches, given)
        around = proxies(options.arguments, PROXIES)
        return ContainerRunner(
            self._context, self._launcher, self._attachments, self._containers, options, mounts, around
        )


async def _wrong(
    error: DockerfileError, stream: Stream, queue: asyncio.Queue[Message | None]
) -> AsyncIterator[Message]:
    """What the rules say of a file that cannot be read to its end, and why it cannot."""
    stream.warned(error.warnings)
    while not queue.empty():
        if (message := queue.get_nowait()) is not None:
            yield message
    raise error


async def _run(build: Build, names: list[str], stream: Stream, sink: Sink) -> None:
    """Plan, solve, name, share; what happens goes to the stream."""
    loop = asyncio.get_running_loop()

    def pulled(message: Message) -> None:
        """What a transfer tells, in its thread."""
        loop.call_soon_threadsafe(sink, message)

    try:
        joined = await build.plan(pulled)
    except DockerfileError as error:
        if build.options.check:
            stream.warned(error.warnings)
        raise
    stream.warned(joined.warnings)
    stream.planned(joined)
    if build.options.check:
        sink({"aux": {"Warnings": len(joined.warnings)}})
        return
    await build.solve(stream.heard, pulled)
    image = await build.image(names, read_annotations(build.options.annotations))
    await build.share(pulled)
    stream.built(image.id, [Reference.parse(name).familiar for name in names], joined.epoch)


def _stream(build: Build, sink: Sink, cache: BuildCache) -> Stream:
    if build.options.events:
        return Events(sink)
    if build.options.quiet:
        return Quiet(sink)
    # The plan may turn the cache off: none of the images that it was to come from is here.
    return Classic(sink, lambda name: cache.known(name) and not build.options.no_cache)


def full_names(tags: Iterable[str]) -> list[str]:
    """The names of a result in full; InvalidArgument for a bad one."""
    found = []
    for tag in tags:
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
    if options.outputs:
        raise Unsupported("this build's outputs other than an image are not supported over this call")
