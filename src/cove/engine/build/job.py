"""One build, step by step, for whichever door it came through.

    read ─▶ the Dockerfile and what to ignore   (its errors are the request's)
    plan ─▶ bases found or pulled, a plan for each platform
    solve ─▶ the files that the plans need, then every step
    image ─▶ configuration and layers, named
    share ─▶ the finished steps, where other daemons find them

Where its files, secrets and credentials come from, and where its progress goes, belongs to the door.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cove.build import emulation, exporters, forms, ops, portable, provenance
from cove.build.annotations import Annotations
from cove.build.arrived import Arrived
from cove.build.cache import BuildCache
from cove.build.dockerfile import instructions, lint, reader
from cove.build.dockerfile.devices import Device
from cove.build.dockerfile.options import Missing, Options
from cove.build.dockerfile.plan import Plan, plan
from cove.build.dockerfile.syntax import DockerfileError, Warning
from cove.build.forms import Form
from cove.build.graph import Vertex, ordered, uses_stages
from cove.build.layers import Workshop
from cove.build.selections import Result
from cove.build.solver import Event, Solver
from cove.build.steps import Runner, Steps, Surroundings
from cove.engine.build.bases import Bases
from cove.engine.build.exchange import Exchange
from cove.engine.context import Context
from cove.engine.isolation import cdi_files
from cove.engine.telling import tell_image
from cove.errors import CoveError, InvalidArgument
from cove.image.images import Image
from cove.image.store import ImageStore
from cove.image.travel.saving import save_as
from cove.oci.image import Descriptor
from cove.oci.platform import Platform, host_platform
from cove.oci.reference import Reference
from cove.wire.builds import BuildOptions

Sink = Callable[[dict[str, Any]], None]
Hear = Callable[[Event], None]

_NO_ANNOTATIONS = Annotations()


class Recipe(msgspec.Struct, frozen=True):
    """What is to be done: the Dockerfile, and the patterns of what COPY leaves out of the main context.

    `moment`: the time of that context's source in seconds, if it tells one.
    """

    dockerfile: bytes
    ignore: tuple[str, ...]
    moment: int | None = None


class Files(Protocol):
    """Where a build's files come from."""

    async def read(self) -> Recipe:
        """The Dockerfile and the patterns."""
        ...

    async def trees(self, wanted: Mapping[str, tuple[str, ...]]) -> Mapping[str, Path | Arrived]:
        """The trees of these contexts, whole or at least the paths that are named; () for all."""
        ...


class Tools(msgspec.Struct, frozen=True):
    """What all builds of a daemon share."""

    context: Context
    workshop: Workshop
    cache: BuildCache
    solver: Solver[Result]


class Build:
    """One build. `contexts`: named ones, NAME to "image:REF" or "tree"; `scratch` is its owner's to remove."""

    def __init__(
        self,
        tools: Tools,
        options: BuildOptions,
        *,
        files: Files,
        bases: Bases,
        runner: Runner,
        scratch: Path,
        exchange: Exchange,
        contexts: Mapping[str, str] | None = None,
    ) -> None:
        self._tools = tools
        self.exchange = exchange
        self.options = options
        self.bases = bases
        self._files = files
        self._runner = runner
        self._scratch = scratch
        self._contexts = dict(contexts or {})
        self._recipe = Recipe(b"", ())
        self.dockerfile: instructions.Dockerfile | None = None
        self.plans: list[Plan] = []
        self.warnings: tuple[Warning, ...] = ()
        self._results: dict[str, Result] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self._moments: dict[str, int] = {}
        self._failed_at = 0
        self._began_ns = time.time_ns()

    async def read(self) -> None:
        """The Dockerfile, read and understood."""
        self._recipe = await self._files.read()
        try:
            self.dockerfile = reader.parse(self._recipe.dockerfile)
        except DockerfileError as error:
            error.warnings = lint.before(error, self.options.arguments)
            raise

    @property
    def text(self) -> bytes:
        """The Dockerfile as it is written, as far as it is known."""
        return self._recipe.dockerfile

    def failed_lines(self) -> tuple[int, ...]:
        """The lines of the Dockerfile that a failure is about; none before it is understood."""
        return self.dockerfile.lines(self._failed_at) if self.dockerfile is not None and self._failed_at else ()

    async def plan(self, sink: Sink) -> Plan:
        """A plan for each platform; what is told of all together is returned. `sink` hears of pulls."""
        assert self.dockerfile is not None
        if self.options.cache_only and not self.bases.any_here(self.options.cache_only):
            self.options = msgspec.structs.replace(self.options, no_cache=True)
        self.plans = [await self._plan(platform, sink) for platform in self.platforms]
        joined = _joined(self.plans)
        self.warnings = joined.warnings
        if not self.options.check and lint.Checks.of(self.dockerfile, self.options.arguments).errors:
            self._failed_at = self.warnings[0].line if self.warnings else 0
            _refuse_warnings(self.warnings)
        return joined

    @property
    def platforms(self) -> list[Platform]:
        return [Platform.parse(text) for text in dict.fromkeys(self.options.platforms)] or [host_platform()]

    async def _plan(self, platform: Platform, sink: Sink) -> Plan:
        """The plan for a platform, as soon as every image that it needs is known."""
        assert self.dockerfile is not None
        known_devices = _devices(self._tools.context.settings.cdi_directories)
        asked = _plan_options(self.options, platform, self._recipe, self._contexts, known_devices)
        while True:
            try:
                return plan(self.dockerfile, asked, self.bases.known)
            except Missing as missing:
                for wanted, line in sorted(missing.images.items()):
                    self._failed_at = line
                    await self.bases.find([wanted], sink)
                self._failed_at = 0

    async def solve(self, hear: Hear, sink: Sink) -> None:
        """Every step of every plan, or the first failure."""
        for each in self.plans:
            emulation.check(each.made.vertex, self.bases.known.values())
        await self.exchange.open(self.options.cache_from, self.platforms, sink)
        around = Surroundings(
            workshop=self._tools.workshop,
            cache=self._tools.cache,
            runner=self._runner,
            blocking=self._tools.context.executors.bulk,
            contexts=await self._files.trees(wanted_files(self.plans)),
            scratch=self._scratch,
            ignore=self._recipe.ignore,
            imported=self.exchange.take if self.exchange.offers else None,
            foretelling=not any(place.everything for place in self.options.cache_to),
        )

        def heard(event: Event) -> None:
            if isinstance(event.result, Result):
                self._results[event.vertex.key] = event.result
            elif event.kind == "failed":
                self._failed_at = self._failed_at or event.vertex.line
            hear(event)

        steps = Steps(around)
        try:
            await self._tools.solver.solve(tuple(each.made.vertex for each in self.plans), steps, heard)
            self._keys = await self._known_by(steps) if self.options.cache_to else {}
        finally:
            await steps.close()

    async def _known_by(self, steps: Steps) -> dict[str, tuple[str, ...]]:
        """What others may ask for each step by: its key by content, and where it uses other stages its recipe."""

        async def find(vertex: Vertex) -> Result:
            return self._results[vertex.key]

        found: dict[str, tuple[str, ...]] = {}
        for vertex in ordered(tuple(each.made.vertex for each in self.plans)):
            if not vertex.inputs or vertex.key not in self._results:
                continue
            names = [steps.keys.get(vertex.key, "")]
            if uses_stages(vertex):
                names.append(await steps.recipe(vertex, find))
            found[vertex.key] = tuple(filter(None, names))
        return found

    def chain(self, made: Plan) -> str:
        """The chain id of a plan's result; "" for an empty file system."""
        return str(self._results[made.made.vertex.key].source)

    async def image(
        self, names: list[str], annotations: Annotations = _NO_ANNOTATIONS, form: Form = forms.PLAIN
    ) -> Image:
        """The image, under its names; without any it is a dangling one."""
        context = self._tools.context

        def work() -> Image:
            parts = [
                exporters.assemble(
                    context.store,
                    self._tools.cache,
                    each.made,
                    self._results,
                    self._keys,
                    each.epoch,
                    self.exchange.moment,
                    form,
                )
                for each in self.plans
            ]
            self._moments.update(part.moment for part in parts)
            cached = any(place.kind == "inline" for place in self.options.cache_to)
            attest = partial(self._attested, tuple(names)) if self.options.provenance is not None else None
            return exporters.name_image(
                context.store, parts, names, cached=cached, attest=attest, annotations=annotations, form=form
            )

        image = await context.executors.bulk(work)
        tell_image(context.events, "create", image)
        for name in names:
            tell_image(context.events, "tag", image, Reference.parse(name).familiar)
        return image

    def _attested(self, names: tuple[str, ...], place: int, manifest: Descriptor) -> Descriptor:
        """The statement about one platform's image."""
        assert self.options.provenance is not None
        facts = provenance.Facts(
            options=msgspec.structs.replace(self.options, tags=names),
            dockerfile=self.text,
            target=self.plans[place].made.vertex,
            platform=self.platforms[place],
            results=self._results,
            began_ns=self._began_ns,
            ended_ns=time.time_ns(),
        )
        wish = self.options.provenance
        facts = provenance.settled(manifest.digest, wish, facts, self._tools.cache.moment)
        return provenance.attach(self._tools.context.store, manifest, wish, facts)

    async def share(self, sink: Sink) -> Descriptor | None:
        """Put the finished steps where they are to go; the artifact that was sent to the last place."""

        def gather(everything: bool) -> tuple[portable.Document, tuple[Descriptor, ...]]:
            tops = [each.made for each in self.plans]
            own = ordered(tuple(made.vertex for made in tops)) if everything else exporters.own_steps(tops)
            return portable.gathered(self._tools.context.store, own, self._results, self._keys, self._moments)

        return await self.exchange.give(self.options.cache_to, gather, sink)

    @asynccontextmanager
    async def archived(
        self, names: list[str], annotations: Annotations = _NO_ANNOTATIONS, form: Form = forms.PLAIN
    ) -> AsyncIterator[tuple[Image, AsyncIterator[bytes]]]:
        """The image and its archive under these names, for the time of a `with`; the store is as before."""
        store, executors = self._tools.context.store, self._tools.context.executors
        async with self.imaged(annotations, form) as image:
            references = [Reference.parse(name) for name in names]
            yield image, executors.stream(save_as(store.content, image, references))

    @asynccontextmanager
    async def imaged(
        self, annotations: Annotations = _NO_ANNOTATIONS, form: Form = forms.PLAIN
    ) -> AsyncIterator[Image]:
        """The image for the time of a `with`; the store is as before."""
        store, executors = self._tools.context.store, self._tools.context.executors
        before = {image.target.digest for image in store.images.list()}
        image = await self.image([], annotations, form)
        try:
            yield image
        finally:
            if image.target.digest not in before:
                await executors.disk(forget_unnamed, store, image)


def forget_unnamed(store: ImageStore, image: Image) -> None:
    """Remove an image that only passed through, unless it has a name by now."""
    with suppress(CoveError):
        if not store.images.get(image.target.digest).names:
            store.images.delete(image.target.digest)


def wanted_files(plans: list[Plan]) -> dict[str, tuple[str, ...]]:
    """Which paths of which contexts the plans' steps look at; () where one looks at everything."""
    found: dict[str, set[str]] = {}
    for vertex in ordered(tuple(each.made.vertex for each in plans)):
        step = vertex.step
        if isinstance(step, ops.Transfer):
            for selection, source in zip(step.copies, vertex.inputs[1:], strict=False):
                if isinstance(source.step, ops.Context):
                    found.setdefault(source.step.name, set()).update(selection.sources)
        elif isinstance(step, ops.Run):
            for mount in step.mounts:
                if mount.input > 0 and isinstance(origin := vertex.inputs[mount.input].step, ops.Context):
                    found.setdefault(origin.name, set()).add(mount.source or "/")
        elif isinstance(step, ops.Context):
            found.setdefault(step.name, set())
    whole = {"", ".", "/", "./"}
    return {name: () if not paths or paths & whole else tuple(sorted(paths)) for name, paths in found.items()}


def _joined(plans: list[Plan]) -> Plan:
    """What is told of builds for several platforms: the steps of each, one after the other."""
    warnings = tuple(dict.fromkeys(warning for each in plans for warning in each.warnings))
    lines = tuple(line for each in plans for line in each.lines)
    return Plan(plans[0].made, warnings, lines, plans[0].epoch, plans[0].outline)


def _refuse_warnings(warnings: tuple[Warning, ...]) -> None:
    if warnings:
        rules = ", ".join(dict.fromkeys(each.rule for each in warnings))
        lines = "; ".join(f"{each.message} (line {each.line})" for each in warnings)
        raise InvalidArgument(f"lint violation found for rules: {rules}: {lines}")


def _devices(directories: tuple[str, ...]) -> tuple[Device, ...]:
    """The host's devices, as their files describe them now."""
    catalogue = cdi_files.load(directories)
    return tuple(Device.of(name, catalogue.annotations(name)) for name in sorted(catalogue.devices))


def _plan_options(
    options: BuildOptions,
    platform: Platform,
    recipe: Recipe,
    contexts: Mapping[str, str],
    known_devices: tuple[Device, ...],
) -> Options:
    host = host_platform()
    entitled = set(options.allow)
    if options.network == "host":
        entitled.add("network.host")
    return Options(
        target=options.target,
        every_stage=options.check and not options.target,
        arguments=options.arguments,
        labels=options.labels,
        platform=platform,
        build_platform=host,
        no_cache=options.no_cache,
        no_cache_filter=frozenset(options.no_cache_filter),
        epoch=options.epoch,
        network=options.network if options.network != "default" else "",
        extra_hosts=options.extra_hosts,
        hostname=options.hostname,
        shm_size=options.shm_size,
        entitlements=frozenset(entitled),
        devices=known_devices,
        contexts=contexts,
        ignore=recipe.ignore,
        moment=recipe.moment,
        place=f"{options.tags[0] if options.tags else options.target}:{platform}",
    )
