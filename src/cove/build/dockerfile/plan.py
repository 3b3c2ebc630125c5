"""From stages to a graph of steps and an image's configuration: what a Dockerfile means.

    Dockerfile + Options + Bases ─▶ Plan(vertices, configuration, history, warnings)

Pure. Only stages that the target needs are looked at, unless all are asked for. An image that is not known yet is
asked for by raising Missing; the caller finds it and plans again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from cove.build import ops
from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile import lint
from cove.build.dockerfile.options import Base, Missing, Options, platform_arguments
from cove.build.dockerfile.outline import Argument, Outline, Scope, Watched, described, outline
from cove.build.dockerfile.stage import Made, StageState, with_labels
from cove.build.dockerfile.syntax import DockerfileError, Warning
from cove.build.dockerfile.words import expand
from cove.build.graph import Vertex
from cove.errors import InvalidArgument
from cove.oci.platform import Platform
from cove.oci.reference import Reference

_EPOCH = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True, slots=True)
class Plan:
    """The target stage as a graph and a configuration; `lines` are the instructions of all stages that it needs."""

    made: Made
    warnings: tuple[Warning, ...]
    lines: tuple[tuple[str, Vertex | None], ...]
    epoch: int | None = None
    outline: Outline | None = None


def plan(dockerfile: ins.Dockerfile, options: Options, known: Mapping[tuple[str, str], Base]) -> Plan:
    """The plan; raises DockerfileError, InvalidArgument or Missing."""
    planner = _Planner(dockerfile, options, known)
    try:
        made = planner.stage(planner.target())
        for stage in dockerfile.stages if options.every_stage else ():
            planner.stage(stage)
    except DockerfileError as error:
        error.warnings = planner.told()
        raise
    if planner.missing:
        raise Missing(planner.missing)
    assert made is not None
    lines = [line for _, each in sorted(planner.done.items()) if each is not None for line in each.shown]
    made = with_labels(made, dict(options.labels))
    return Plan(made, planner.told(), tuple(lines), planner.options.epoch, planner.outline())


class _Planner:
    def __init__(self, dockerfile: ins.Dockerfile, options: Options, known: Mapping[tuple[str, str], Base]) -> None:
        self.dockerfile = dockerfile
        self.escape = dockerfile.escape
        self.options = options
        self.checks = lint.Checks.of(dockerfile, options.arguments)
        self.last_stage = dockerfile.stages[-1].name
        self.known = known
        self.missing: dict[tuple[str, str], int] = {}
        self.warnings: list[Warning] = []
        self.done: dict[int, Made | None] = {}
        self.declared = [name for arg in dockerfile.arguments for name, _ in arg.pairs]
        self.scopes: dict[int, Scope] = {}
        self.above = Scope()
        self._check_defaults()
        self.above = Scope()
        self.globals = self._global_arguments(self.options.arguments)
        self._epoch()

    def _global_arguments(self, given: Mapping[str, str]) -> dict[str, str]:
        """What ARGs above the first FROM say; the platform's are there without being asked for."""
        scope = platform_arguments(self.options, self.last_stage)
        scope.update({name: value for name, value in given.items() if name in scope})
        for arg in self.dockerfile.arguments:
            for name, default in arg.pairs:
                watched = Watched(scope)
                if name in given:
                    scope[name] = given[name]
                elif default is not None:
                    scope[name] = self.expand(default, watched, arg, "")
                about = described(name, arg.node.line.comments)
                line = arg.position.line
                self.above.define(Argument(name, scope.get(name, ""), about, line, frozenset(watched.used)))
        return scope

    def _epoch(self) -> None:
        """The moment of the result may stand in the file, as the default of an argument, or be the context's."""
        text = self.globals.get(_EPOCH) or self.options.arguments.get(_EPOCH, "")
        if text == "context":
            told = {} if self.options.moment is None else {_EPOCH: str(self.options.moment)}
            self.globals = {**_without(self.globals, _EPOCH), **told}
            given = told if _EPOCH in self.options.arguments else {}
            arguments = {**_without(self.options.arguments, _EPOCH), **given}
            self.options = replace(self.options, arguments=arguments, epoch=self.options.moment)
        elif self.options.epoch is None and text:
            if not text.isdecimal():
                raise DockerfileError(
                    f"invalid SOURCE_DATE_EPOCH: {text}: give seconds since 1970, or context for the time of the "
                    "context's source"
                )
            self.options = replace(self.options, epoch=int(text))

    def _check_defaults(self) -> None:
        """Whether the file is whole without any argument of the user."""
        try:
            scope = self._global_arguments({})
            names = [expand(stage.base.image, scope, escape=self.escape) for stage in self.dockerfile.stages]
        except InvalidArgument:
            return
        for stage, name in zip(self.dockerfile.stages, names, strict=True):
            try:
                Reference.parse(name)
            except InvalidArgument:
                message = f"Default value for ARG {stage.base.image} results in empty or invalid base image name"
                self.warn(stage.base, "InvalidDefaultArgInFrom", message, own=False)

    def expand(
        self,
        text: str,
        scope: Mapping[str, str],
        at: ins.Instruction,
        rule: str = "UndefinedVar",
        *,
        declared: Collection[str] = (),
        quotes: bool = True,
        escape: str = "",
    ) -> str:
        """The text with its variables; an error or a warning has the instruction's line.

        `rule` is told of names that have no value, unless they are `declared`; "" for none.
        """

        def unset(name: str) -> None:
            if rule and name not in declared:
                self.warn(at, rule, lint.undefined(rule, name, scope))

        try:
            return expand(text, scope, escape=escape or self.escape, quotes=quotes, unset=unset)
        except DockerfileError:
            raise
        except InvalidArgument as error:
            raise DockerfileError(f"failed to process {text!r}: {error.message}", at.position) from error

    def warn(self, at: ins.Instruction, rule: str, message: str | None, *, line: int = 0, own: bool = True) -> None:
        """Remember a warning, if the file, or with `own` the comments above the instruction, want the rule."""
        checks = self.checks.at(at.node) if own else self.checks
        if message is not None and checks.wants(rule):
            self.warnings.append(Warning(rule, message, line or at.position.line))

    def told(self) -> tuple[Warning, ...]:
        """Every warning so far, once, in the order of the file."""
        found = {*lint.file(self.dockerfile, self.checks), *self.warnings}
        return tuple(sorted(found, key=lambda each: (each.line, each.rule)))

    # ── which stage ───────────────────────────────────────────────────────────────────────────────

    def target(self) -> ins.Stage:
        """The stage that is asked for: by name, by number, or the last one."""
        wanted = self.options.target
        if not wanted:
            return self.dockerfile.stages[-1]
        found = self.find(wanted)
        if found is None:
            near = lint.nearest(wanted.lower(), [stage.name for stage in self.dockerfile.stages if stage.name])
            hint = f" (did you mean {near}?)" if near else ": the Dockerfile has no stage of that name"
            raise InvalidArgument(f'target stage "{wanted}" could not be found{hint}')
        return found

    def find(self, name: str, before: int | None = None) -> ins.Stage | None:
        """The stage called `name`, or numbered so; of those before a position, the last."""
        stages = self.dockerfile.stages[:before]
        for stage in reversed(stages):
            if stage.name and stage.name == name.lower():
                return stage
        if name.isdecimal() and int(name) < len(stages):
            return stages[int(name)]
        return None

    def stage(self, stage: ins.Stage) -> Made | None:
        """A stage planned once; None when an image is missing."""
        if stage.index not in self.done:
            self.done[stage.index] = None
            self.done[stage.index] = self._plan_stage(stage)
        return self.done[stage.index]

    def _plan_stage(self, stage: ins.Stage) -> Made | None:
        base = stage.base
        scope = self.scopes[stage.index] = self.above.copy()
        name = self._from(base.image, base, scope)
        self.warn(base, "FromPlatformFlagConstDisallowed", lint.constant_platform(stage))
        self.warn(base, "RedundantTargetPlatform", lint.redundant_platform(stage))
        if not name:
            raise DockerfileError(f"base name ({base.image}) should not be blank", base.position)
        platform = self._platform(base)
        below = None if name in self.options.contexts else self._stage_below(name, stage.index)
        state: StageState | None
        if below is not None:
            made = self.stage(below)
            used = scope.used
            scope = self.scopes[stage.index] = self.scopes[below.index].copy()
            scope.used |= used
            state = StageState.on_stage(self, stage, made) if made else None
        elif self._is_scratch(name):
            state = StageState.on_scratch(self, stage, platform)
        elif self.options.contexts.get(name) == "tree":
            raise DockerfileError(
                f"FROM {name}: the build context {name} is no image; COPY --from={name} takes its files",
                base.position,
            )
        else:
            self._named_rightly(name, base)
            image = self.image(name, platform, base)
            if image is not None:
                self.warn(base, "InvalidBaseImagePlatform", _other_platform(name, platform, image), own=False)
            state = StageState.on_image(self, stage, image, platform) if image else None
        if state is None:
            self._look_ahead(stage)
            return None
        return state.run()

    def _is_scratch(self, name: str) -> bool:
        return self.options.contexts.get(name, f"image:{name}") == "image:scratch"

    def _platform(self, base: ins.From) -> Platform:
        if not base.platform:
            return self.options.platform
        text = self._from(base.platform, base)
        if not text:
            names = re.findall(r"\w+", base.platform)
            near = next(filter(None, (lint.nearest(name, self.globals) for name in names)), "")
            hint = f" (did you mean {near}?)" if near else ""
            raise DockerfileError(f"empty platform value from expression {base.platform}{hint}", base.position)
        return Platform.parse(text)

    def _from(self, text: str, base: ins.From, scope: Scope | None = None) -> str:
        watched = Watched(self.globals)
        found = self.expand(text, watched, base, "UndefinedArgInFrom", declared=self.declared)
        if scope is not None:
            scope.used |= watched.used
        return found

    def outline(self) -> Outline:
        """Of the target, with the stages that it needs."""
        target = self.target()
        others = (scope for index, scope in sorted(self.scopes.items(), reverse=True) if index != target.index)
        about = described(target.name, target.base.node.line.comments)
        return outline(target.name, about, (self.scopes[target.index], *others))

    def _named_rightly(self, name: str, at: ins.Instruction) -> None:
        if name in self.options.contexts:
            return
        try:
            Reference.parse(name)
        except InvalidArgument as error:
            raise DockerfileError(f"failed to parse stage name {name!r}: {error.message}", at.position) from error

    def _stage_below(self, name: str, index: int) -> ins.Stage | None:
        for stage in reversed(self.dockerfile.stages[:index]):
            if stage.name and stage.name == name.lower():
                return stage
        return None

    def _look_ahead(self, stage: ins.Stage) -> None:
        """While the base is missing, ask at once for what the stage copies from."""
        for instruction in stage.body:
            if isinstance(instruction, ins.Copy) and instruction.from_ and "$" not in instruction.from_:
                self.source(instruction.from_, stage.index, instruction)

    # ── what stages take from others ──────────────────────────────────────────────────────────────

    def image(self, name: str, platform: Platform, at: ins.Instruction) -> Base | None:
        """A base image, if it is known by now."""
        context = self.options.contexts.get(name, "")
        wanted = (context.removeprefix("image:") if context.startswith("image:") else name, str(platform))
        found = self.known.get(wanted)
        if found is None:
            self.missing.setdefault(wanted, at.position.line)
        return found

    def source(self, name: str, index: int, at: ins.Instruction) -> Vertex | None:
        """Where --from=NAME leads: a named context, an earlier stage, or an image."""
        if self.options.contexts.get(name) == "tree":
            return Vertex(ops.Context(name=name), title=f"[context {name}]")
        if name not in self.options.contexts:
            stage = self.find(name, index)
            if stage is not None:
                made = self.stage(stage)
                return made.vertex if made else None
            later = self.find(name)
            if name.isdecimal() or later is not None:
                raise DockerfileError(
                    f"cannot copy from stage {name!r}, it needs to be defined before current stage"
                    if later is not None
                    else f"--from={name} is out of bounds: only earlier stages can be copied from",
                    at.position,
                )
        if self._is_scratch(name):
            return Vertex(ops.Scratch(), title="[scratch]")
        self._named_rightly(name, at)
        image = self.image(name, self.options.platform, at)
        return image_vertex(image, name) if image else None


def _without(values: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in values.items() if key != name}


def _other_platform(name: str, wanted: Platform, image: Base) -> str | None:
    actual = image.config.platform
    if not actual.architecture or (actual.os, actual.architecture) == (wanted.os, wanted.architecture):
        return None
    return f'Base image {name} was pulled with platform "{actual}", expected "{wanted}" for current build'


def image_vertex(image: Base, name: str) -> Vertex:
    """The source step of an image."""
    step = ops.Image(reference=image.reference, digest=image.digest, chain=image.chain)
    return Vertex(step, title=f"[{name}] {image.reference}")
