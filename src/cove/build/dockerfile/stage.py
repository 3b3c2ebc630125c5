"""One stage, instruction by instruction: its file system's vertex, its configuration, its history.

    base ─▶ ONBUILD triggers of the base image ─▶ the body ─▶ Made

The state is mutable while the stage is planned and never seen outside; what comes out is frozen.
"""

from __future__ import annotations

import posixpath
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from cove.build import ops
from cove.build.dockerfile import files, lint, reader, running, spelling
from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile.expose import exposed
from cove.build.dockerfile.options import UNLISTED, Base, platform_arguments
from cove.build.dockerfile.outline import Argument, described
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.dockerfile.words import expand_words
from cove.build.graph import Vertex
from cove.errors import InvalidArgument
from cove.oci.image import ContainerConfig, Healthcheck, History, ImageConfig
from cove.oci.platform import Platform

if TYPE_CHECKING:
    from cove.build.dockerfile.plan import _Planner

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COUNTED = (ins.Copy, ins.Run, ins.Workdir)
_COUNTED_WORDS = frozenset({"ADD", "COPY", "RUN", "WORKDIR"})
_MASK = "****"
"""Stands for a secret that a RUN has in a variable."""

_COMMENT = "buildkit.dockerfile.v0"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the history; `vertex` made its layer, None for none."""

    created_by: str
    vertex: Vertex | None = None
    author: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """A planned stage. `base` is the image below, None on scratch; `history` is what this build adds."""

    vertex: Vertex
    config: ImageConfig
    base: Base | None
    history: tuple[Line, ...]
    arguments: dict[str, str]
    declared: tuple[str, ...] = ()
    workdir_set: bool = False
    triggers: tuple[str, ...] = ()
    shown: tuple[tuple[str, Vertex | None], ...] = ()


@dataclass
class StageState:
    """A stage under way."""

    planner: _Planner
    stage: ins.Stage
    vertex: Vertex
    base: Base | None
    image: ImageConfig
    config: ContainerConfig
    env: dict[str, str]
    history: list[Line] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    declared: dict[str, None] = field(default_factory=dict)
    workdir_set: bool = False
    once: dict[str, ins.Instruction] = field(default_factory=dict)
    shown: list[tuple[str, Vertex | None]] = field(default_factory=list)
    step: int = 0
    steps: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """How many steps of each kind there are: the third RUN stays the third when an ENV comes before it."""

    # ── beginnings ────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def on_scratch(cls, planner: _Planner, stage: ins.Stage, platform: Platform) -> StageState:
        image = ImageConfig(architecture=platform.architecture, os=platform.os, variant=platform.variant)
        config = ContainerConfig(env=(_PATH,), working_dir="/")
        vertex = Vertex(ops.Scratch(), title="FROM scratch")
        state = cls(planner, stage, vertex, None, image, config, _variables(config.env))
        state.steps = _count(stage)
        state.shown.append((stage.base.text, vertex))
        return state

    @classmethod
    def on_image(cls, planner: _Planner, stage: ins.Stage, base: Base, platform: Platform) -> StageState:
        config = base.config.config
        if not any(entry.startswith("PATH=") for entry in config.env):
            config = msgspec.structs.replace(config, env=(*config.env, _PATH))
        step = ops.Image(reference=base.reference, digest=base.digest, chain=base.chain)
        steps = 1 + _count(stage, config.on_build)
        title = f"{_label(stage, 1, steps)} {spelling.progress(stage.base, planner.globals)}"
        vertex = Vertex(step, title=title, line=stage.base.position.line)
        state = cls(planner, stage, vertex, base, base.config, config, _variables(config.env))
        state.step, state.steps = 1, steps
        state.shown.append((stage.base.text, vertex))
        state._run_triggers(config.on_build)
        return state

    @classmethod
    def on_stage(cls, planner: _Planner, stage: ins.Stage, made: Made) -> StageState:
        config = made.config.config
        state = cls(planner, stage, made.vertex, made.base, made.config, config, _variables(config.env))
        state.history = list(made.history)
        state.arguments = dict(made.arguments)
        state.declared = dict.fromkeys(made.declared)
        state.workdir_set = made.workdir_set
        state.steps = _count(stage, made.triggers)
        state.shown.append((stage.base.text, None))
        state._run_triggers(made.triggers)
        return state

    def _run_triggers(self, triggers: tuple[str, ...]) -> None:
        self.config = msgspec.structs.replace(self.config, on_build=())
        for text in triggers:
            try:
                self.apply(reader.trigger(text, self.stage.base.position))
            except DockerfileError as error:
                reason = f"in the base image's ONBUILD trigger {text[:80]!r}: {error.reason}"
                raise DockerfileError(reason, self.stage.base.position) from error

    # ── the body ──────────────────────────────────────────────────────────────────────────────────

    def run(self) -> Made:
        """Every instruction, then the labels that the user gives the result."""
        for instruction in self.stage.body:
            self.apply(instruction)
        config = msgspec.structs.replace(self.config, env=tuple(f"{k}={v}" for k, v in self.env.items()))
        return Made(
            self.vertex,
            msgspec.structs.replace(self.image, config=config),
            self.base,
            tuple(self.history),
            self.arguments,
            tuple(self.declared),
            self.workdir_set,
            self.config.on_build,
            tuple(self.shown),
        )

    def apply(self, instruction: ins.Instruction) -> None:
        """One instruction."""
        before = self.vertex
        self.step += isinstance(instruction, _COUNTED)
        _APPLY[type(instruction)](self, instruction)
        self.shown.append((instruction.text, self.vertex if self.vertex is not before else None))

    @property
    def scope(self) -> dict[str, str]:
        """Variables in force: arguments, and over them the environment."""
        return {**self.arguments, **self.env}

    def expand(self, text: str, at: ins.Instruction, *, quotes: bool = True) -> str:
        """The text with its variables; a here-document's has no `quotes`, and always the backslash as escape."""
        return self.planner.expand(
            text, self.scope, at, declared=(*self.declared, *UNLISTED), quotes=quotes, escape="" if quotes else "\\"
        )

    def words(self, texts: tuple[str, ...], at: ins.Instruction) -> list[str]:
        """Each text expanded and, where a variable brought several words, split."""
        found: list[str] = []
        for text in texts:
            try:
                found += expand_words(text, self.scope, escape=self.planner.escape)
            except InvalidArgument as error:
                raise DockerfileError(f"failed to process {text!r}: {error.message}", at.position) from error
        return found

    def add(self, step: ops._Step, at: ins.Instruction, inputs: tuple[Vertex, ...] = (), title: str = "") -> None:
        """A step on top of what is there."""
        self.vertex = self.step_on(self.vertex, step, at, inputs, title)

    def step_on(
        self, below: Vertex, step: ops._Step, at: ins.Instruction, inputs: tuple[Vertex, ...], title: str = ""
    ) -> Vertex:
        """A step of this stage on top of anything. `title` is put before the instruction where people see it."""
        options = self.planner.options
        fresh = options.no_cache or bool(options.no_cache_filter & {self.stage.name, str(self.stage.index)} - {""})
        label = _label(self.stage, self.step, self.steps)
        self.kinds[step.kind] += 1
        masked = {mount.env: _MASK for mount in step.mounts if mount.env} if isinstance(step, ops.Run) else {}
        return Vertex(
            step,
            (below, *inputs),
            title=f"{label} {title}{spelling.progress(at, self.scope | masked)}",
            place=f"{options.place}:{self.stage.name or self.stage.index}:{step.kind} {self.kinds[step.kind]}",
            fresh=fresh,
            line=at.position.line,
        )

    def note(self, created_by: str, *, layer: bool = False) -> None:
        """A line of the history."""
        self.history.append(Line(created_by, self.vertex if layer else None, self.image.author))

    def change(self, **changes: object) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)


def _label(stage: ins.Stage, step: int, steps: int) -> str:
    name = stage.name or (f"stage-{stage.index}")
    return f"[{name} {step}/{steps}]"


def _count(stage: ins.Stage, triggers: tuple[str, ...] = ()) -> int:
    """How many instructions do something to files, as people see them counted."""
    words = [text.split(maxsplit=1)[0].upper() for text in triggers if text.split()]
    return sum(isinstance(each, _COUNTED) for each in stage.body) + sum(word in _COUNTED_WORDS for word in words)


def _variables(env: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, _, value in (entry.partition("=") for entry in env)}


# ── one function for each instruction ─────────────────────────────────────────────────────────────


def _arg(state: StageState, arg: ins.Arg) -> None:
    planner = state.planner
    shown = []
    for name, default in arg.pairs:
        planner.warn(arg, "SecretsUsedInArgOrEnv", lint.secret(name, "ARG"))
        if name in planner.options.arguments:
            value: str | None = planner.options.arguments[name]
        elif default is not None:
            value = state.expand(default, arg)
        else:
            value = {**platform_arguments(planner.options, planner.last_stage), **planner.globals}.get(name)
        state.declared[name] = None
        if value is not None:
            state.arguments[name] = value
        scope = planner.scopes[state.stage.index]
        scope.used.add(name)
        if default is not None or name in planner.options.arguments or value is None:
            about = described(name, arg.node.line.comments)
            scope.define(Argument(name, value or "", about, arg.position.line))
        shown.append(name if value is None else f"{name}={value}")
    state.note(f"ARG {' '.join(shown)}")


def _env(state: StageState, env: ins.Env) -> None:
    pairs = _pairs(state, env)
    for name, value in pairs:
        state.planner.warn(env, "SecretsUsedInArgOrEnv", lint.secret(name, "ENV"))
        state.env[name] = value
    state.note("ENV " + " ".join(f"{name}={value}" for name, value in pairs))


def _labels(state: StageState, label: ins.Label) -> None:
    pairs = _pairs(state, label)
    state.change(labels={**state.config.labels, **dict(pairs)})
    state.note("LABEL " + " ".join(f"{name}={value}" for name, value in pairs))


def _pairs(state: StageState, at: ins.Env | ins.Label) -> list[tuple[str, str]]:
    """Names and values, all as they were before the line."""
    if at.legacy:
        written = at.node.written
        message = f'"{written} key=value" should be used instead of legacy "{written} key value" format'
        state.planner.warn(at, "LegacyKeyValueFormat", message)
    return [(state.expand(name, at), state.expand(value, at)) for name, value in at.pairs]


def _shell_words(state: StageState, at: ins.Cmd | ins.Entrypoint) -> tuple[str, ...]:
    command, written = at.command, at.node.written
    if not command.shell:
        return command.words
    if not state.config.shell:
        message = f"JSON arguments recommended for {written} to prevent unintended behavior related to OS signals"
        state.planner.warn(at, "JSONArgsRecommended", message)
    return (*(state.config.shell or running.SHELL), *command.words)


def _once(state: StageState, at: ins.Instruction) -> None:
    """Of several in a stage only the last one counts: the one before is told of."""
    name, written = at.node.name, at.node.written
    if name in state.once:
        message = (
            f"Multiple {written} instructions should not be used in the same stage because only the last one "
            "will be used"
        )
        state.planner.warn(at, "MultipleInstructionsDisallowed", message, line=state.once[name].position.line)
    state.once[name] = at


def _cmd(state: StageState, cmd: ins.Cmd) -> None:
    _once(state, cmd)
    words = _shell_words(state, cmd)
    state.change(cmd=words, args_escaped=True)
    state.note(f"CMD {spelling.words(words)}")


def _entrypoint(state: StageState, entrypoint: ins.Entrypoint) -> None:
    _once(state, entrypoint)
    words = _shell_words(state, entrypoint)
    state.change(entrypoint=words, **({} if "CMD" in state.once else {"cmd": ()}))
    state.note(f"ENTRYPOINT {spelling.words(words)}")


def _expose(state: StageState, expose: ins.Expose) -> None:
    ports = exposed(state.planner, expose, state.words(expose.ports, expose))
    state.change(exposed_ports={**state.config.exposed_ports, **{port: {} for port in ports}})
    state.note(f"EXPOSE [{' '.join(ports)}]")


def _healthcheck(state: StageState, health: ins.Healthcheck) -> None:
    _once(state, health)
    check = Healthcheck(test=("NONE",))
    if health.command is not None:
        kind = "CMD-SHELL" if health.command.shell else "CMD"
        check = Healthcheck(
            test=(kind, *health.command.words),
            interval=health.interval,
            timeout=health.timeout,
            start_period=health.start_period,
            start_interval=health.start_interval,
            retries=health.retries,
        )
    state.change(healthcheck=check)
    state.note(spelling.healthcheck(check))


def _maintainer(state: StageState, maintainer: ins.Maintainer) -> None:
    state.image = msgspec.structs.replace(state.image, author=maintainer.name)
    state.note(f"MAINTAINER {maintainer.name}")


def _onbuild(state: StageState, onbuild: ins.Onbuild) -> None:
    state.change(on_build=(*state.config.on_build, onbuild.trigger))


def _shell(state: StageState, shell: ins.Shell) -> None:
    state.change(shell=shell.words)
    state.note(f"SHELL [{' '.join(shell.words)}]")


def _stopsignal(state: StageState, stop: ins.Stopsignal) -> None:
    name = state.expand(stop.signal, stop)
    if not _is_signal(name):
        raise DockerfileError(f"Invalid signal: {name}", stop.position)
    state.change(stop_signal=name)
    state.note(f"STOPSIGNAL {name}")


def _is_signal(text: str) -> bool:
    """A number, or a name with or without SIG; real-time ones count from RTMIN or RTMAX."""
    if text.isdecimal():
        return 0 < int(text) <= signal.SIGRTMAX
    name = text.upper().removeprefix("SIG")
    return f"SIG{name}" in signal.Signals.__members__ or re.fullmatch(r"RTMIN\+\d+|RTMAX-\d+", name) is not None


def _user(state: StageState, user: ins.User) -> None:
    name = state.expand(user.user, user)
    state.change(user=name)
    state.note(f"USER {name}")


def _volume(state: StageState, volume: ins.Volume) -> None:
    paths = [state.expand(path, volume) for path in volume.paths]
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string", volume.position)
    state.change(volumes={**state.config.volumes, **{path: {} for path in paths}})
    state.note(f"VOLUME [{' '.join(paths)}]")


def _workdir(state: StageState, workdir: ins.Workdir) -> None:
    path = state.expand(workdir.path, workdir)
    if not path.startswith("/") and not state.workdir_set:
        message = f'Relative workdir "{path}" can have unexpected results if the base image changes'
        state.planner.warn(workdir, "WorkdirRelativePath", message)
    state.workdir_set = True
    whole = posixpath.normpath(posixpath.join("/", state.config.working_dir or "/", path))
    whole = "/" + whole.lstrip("/")
    state.change(working_dir=whole)
    if whole == "/":
        state.note("WORKDIR /")
        return
    step = ops.Directory(path=whole, owner=state.config.user, epoch=state.planner.options.epoch)
    state.add(step, workdir)
    state.note(f"WORKDIR {whole}", layer=True)


def _copy(state: StageState, copy: ins.Copy) -> None:
    made = files.transfer(state, copy)
    if made.independent:
        linked = state.step_on(Vertex(ops.Scratch(), title="[scratch]"), made.step, copy, made.inputs)
        state.add(ops.Link(), copy, (linked,), title="LINK ")
    else:
        state.add(made.step, copy, made.inputs)
    state.note(f"{made.shown} # buildkit", layer=True)


def _run(state: StageState, run: ins.Run) -> None:
    made = running.run(state, run)
    state.add(made.step, run, made.inputs)
    state.note(f"{made.shown} # buildkit", layer=True)


_APPLY: dict[type, Callable[..., None]] = {
    ins.Arg: _arg,
    ins.Cmd: _cmd,
    ins.Copy: _copy,
    ins.Entrypoint: _entrypoint,
    ins.Env: _env,
    ins.Expose: _expose,
    ins.Healthcheck: _healthcheck,
    ins.Label: _labels,
    ins.Maintainer: _maintainer,
    ins.Onbuild: _onbuild,
    ins.Run: _run,
    ins.Shell: _shell,
    ins.Stopsignal: _stopsignal,
    ins.User: _user,
    ins.Volume: _volume,
    ins.Workdir: _workdir,
}


def history(made: Made, layered: Callable[[Vertex], bool], created: str) -> tuple[History, ...]:
    """The lines as an image records them; `layered` says whether a vertex made a layer in the end."""
    return tuple(
        History(
            created=created,
            created_by=line.created_by,
            author=line.author,
            comment=_COMMENT,
            empty_layer=not (line.vertex is not None and layered(line.vertex)),
        )
        for line in made.history
    )


def with_labels(made: Made, labels: dict[str, str]) -> Made:
    """The result with the labels that the user gave the build."""
    if not labels:
        return made
    config = msgspec.structs.replace(made.config.config, labels={**made.config.config.labels, **labels})
    shown = " ".join(f"{name}={value}" for name, value in labels.items())
    lines = (*made.history, Line(f"LABEL {shown}", None, made.config.author))
    return replace(made, config=msgspec.structs.replace(made.config, config=config), history=lines)
