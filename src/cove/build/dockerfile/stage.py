"""One stage, instruction by instruction: its file system's vertex, its configuration, its history.

    base ─▶ ONBUILD triggers of the base image ─▶ the body ─▶ Made

The state is mutable while the stage is planned and never seen outside; what comes out is frozen.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from cove.build import ops
from cove.build.dockerfile import files, lint, mounts, reader
from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile.options import Base, platform_arguments
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.dockerfile.words import expand_words
from cove.build.graph import Vertex
from cove.errors import InvalidArgument
from cove.oci.image import ContainerConfig, Healthcheck, History, ImageConfig
from cove.oci.platform import Platform

if TYPE_CHECKING:
    from cove.build.dockerfile.plan import _Planner

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/([a-zA-Z]+))?")
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
    shown: list[tuple[str, Vertex | None]] = field(default_factory=list)
    step: int = 1
    cmd_set: bool = False

    # ── beginnings ────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def on_scratch(cls, planner: _Planner, stage: ins.Stage, platform: Platform) -> StageState:
        image = ImageConfig(architecture=platform.architecture, os=platform.os, variant=platform.variant)
        config = ContainerConfig(env=(_PATH,), working_dir="/")
        vertex = Vertex(ops.Scratch(), title="FROM scratch")
        state = cls(planner, stage, vertex, None, image, config, _variables(config.env))
        state.shown.append((stage.base.text, vertex))
        return state

    @classmethod
    def on_image(cls, planner: _Planner, stage: ins.Stage, base: Base, platform: Platform) -> StageState:
        config = base.config.config
        if not any(entry.startswith("PATH=") for entry in config.env):
            config = msgspec.structs.replace(config, env=(*config.env, _PATH))
        step = ops.Image(reference=base.reference, digest=base.digest, chain=base.chain)
        vertex = Vertex(step, title=f"{_label(stage)} {stage.base.text}", line=stage.base.position.line)
        state = cls(planner, stage, vertex, base, base.config, config, _variables(config.env))
        state.shown.append((stage.base.text, vertex))
        state._run_triggers(config.on_build)
        return state

    @classmethod
    def on_stage(cls, planner: _Planner, stage: ins.Stage, made: Made) -> StageState:
        config = made.config.config
        state = cls(planner, stage, made.vertex, made.base, made.config, config, _variables(config.env))
        state.history = list(made.history)
        state.arguments = dict(made.arguments)
        state.shown.append((stage.base.text, None))
        return state

    def _run_triggers(self, triggers: tuple[str, ...]) -> None:
        self.config = msgspec.structs.replace(self.config, on_build=())
        for text in triggers:
            try:
                self.apply(reader.trigger(text, "\\"))
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
            tuple(self.shown),
        )

    def apply(self, instruction: ins.Instruction) -> None:
        """One instruction."""
        before = self.vertex
        self.step += 1
        _APPLY[type(instruction)](self, instruction)
        self.shown.append((instruction.text, self.vertex if self.vertex is not before else None))

    @property
    def scope(self) -> dict[str, str]:
        """Variables in force: arguments, and over them the environment."""
        return {**self.arguments, **self.env}

    def expand(self, text: str, at: ins.Instruction) -> str:
        return self.planner.expand(text, self.scope, at)

    def words(self, texts: tuple[str, ...], at: ins.Instruction) -> list[str]:
        """Each text expanded and, where a variable brought several words, split."""
        found: list[str] = []
        for text in texts:
            try:
                found += expand_words(text, self.scope, escape=self.planner.dockerfile.escape)
            except InvalidArgument as error:
                raise DockerfileError(f"failed to process {text!r}: {error.message}", at.position) from error
        return found

    def add(self, step: ops._Step, at: ins.Instruction, inputs: tuple[Vertex, ...] = (), title: str = "") -> None:
        """A step on top of what is there."""
        options = self.planner.options
        fresh = options.no_cache or bool(options.no_cache_filter & {self.stage.name, str(self.stage.index)} - {""})
        label = _label(self.stage, self.step, len(self.stage.body) + 1)
        self.vertex = Vertex(
            step,
            (self.vertex, *inputs),
            title=f"{label} {title or at.text}",
            place=f"{options.place}:{self.stage.name or self.stage.index}:{self.step}",
            fresh=fresh,
            line=at.position.line,
        )

    def note(self, created_by: str, *, layer: bool = False) -> None:
        """A line of the history."""
        self.history.append(Line(created_by, self.vertex if layer else None, self.image.author))

    def change(self, **changes: object) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)


def _label(stage: ins.Stage, step: int = 1, steps: int = 0) -> str:
    name = stage.name or (f"stage-{stage.index}")
    return f"[{name} {step}/{steps or len(stage.body) + 1}]"


def _variables(env: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, _, value in (entry.partition("=") for entry in env)}


# ── one function for each instruction ─────────────────────────────────────────────────────────────


def _arg(state: StageState, arg: ins.Arg) -> None:
    planner = state.planner
    for name, default in arg.pairs:
        if name in planner.options.arguments:
            value: str | None = planner.options.arguments[name]
        elif default is not None:
            value = state.expand(default, arg)
        else:
            value = {**platform_arguments(planner.options), **planner.globals}.get(name)
        if value is None:
            state.arguments.pop(name, None)
        else:
            state.arguments[name] = value
        lint.secret(planner, arg, name, "ARG")
        state.note(f"ARG {name}" if value is None else f"ARG {name}={value}")


def _env(state: StageState, env: ins.Env) -> None:
    scope = state.scope
    pairs = [(state.planner.expand(k, scope, env), state.planner.expand(v, scope, env)) for k, v in env.pairs]
    for name, value in pairs:
        lint.secret(state.planner, env, name, "ENV")
        state.env[name] = value
    state.note("ENV " + " ".join(f"{name}={value}" for name, value in pairs))


def _labels(state: StageState, label: ins.Label) -> None:
    pairs = {state.expand(k, label): state.expand(v, label) for k, v in label.pairs}
    state.change(labels={**state.config.labels, **pairs})
    state.note("LABEL " + " ".join(f"{name}={value}" for name, value in pairs.items()))


def _shell_words(state: StageState, command: ins.Command) -> tuple[str, ...]:
    return (*(state.config.shell or _SHELL), *command.words) if command.shell else command.words


def _cmd(state: StageState, cmd: ins.Cmd) -> None:
    words = _shell_words(state, cmd.command)
    state.change(cmd=words, args_escaped=False)
    state.cmd_set = True
    state.note(f"CMD {json.dumps(list(words), ensure_ascii=False)}")


def _entrypoint(state: StageState, entrypoint: ins.Entrypoint) -> None:
    words = _shell_words(state, entrypoint.command)
    state.change(entrypoint=words, **({} if state.cmd_set else {"cmd": ()}))
    state.note(f"ENTRYPOINT {json.dumps(list(words), ensure_ascii=False)}")


def _expose(state: StageState, expose: ins.Expose) -> None:
    ports: list[str] = []
    for word in state.words(expose.ports, expose):
        found = _PORT.fullmatch(word)
        protocol = (found[3] or "tcp") if found else ""
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if protocol != protocol.lower():
            state.planner.warn(
                expose, "ExposeProtoCasing", f"Defined protocol '{word}' in EXPOSE should be lowercase"
            )
        if not 0 < first <= last <= 65535 or protocol.lower() not in ("tcp", "udp", "sctp"):
            raise DockerfileError(f"invalid containerPort: {word}", expose.position)
        ports += [f"{port}/{protocol.lower()}" for port in range(first, last + 1)]
    state.change(exposed_ports={**state.config.exposed_ports, **{port: {} for port in sorted(ports)}})
    state.note(f"EXPOSE [{' '.join(ports)}]")


def _healthcheck(state: StageState, health: ins.Healthcheck) -> None:
    if health.command is None:
        check = Healthcheck(test=("NONE",))
    else:
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
    state.note(health.text)


def _maintainer(state: StageState, maintainer: ins.Maintainer) -> None:
    state.image = msgspec.structs.replace(state.image, author=maintainer.name)
    state.note(f"MAINTAINER {maintainer.name}")


def _onbuild(state: StageState, onbuild: ins.Onbuild) -> None:
    state.change(on_build=(*state.config.on_build, onbuild.trigger))
    state.note(f"ONBUILD {onbuild.trigger}")


def _shell(state: StageState, shell: ins.Shell) -> None:
    state.change(shell=shell.words)
    state.note(f"SHELL [{' '.join(shell.words)}]")


def _stopsignal(state: StageState, stop: ins.Stopsignal) -> None:
    signal = state.expand(stop.signal, stop)
    if not re.fullmatch(r"(?:SIG)?[A-Z0-9+-]+", signal.upper()):
        raise DockerfileError(f"Invalid signal: {signal}", stop.position)
    state.change(stop_signal=signal)
    state.note(f"STOPSIGNAL {signal}")


def _user(state: StageState, user: ins.User) -> None:
    name = state.expand(user.user, user)
    state.change(user=name)
    state.note(f"USER {name}")


def _volume(state: StageState, volume: ins.Volume) -> None:
    paths = (
        state.words(volume.paths, volume)
        if volume.node.listed is None
        else [state.expand(path, volume) for path in volume.paths]
    )
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string", volume.position)
    state.change(volumes={**state.config.volumes, **{path: {} for path in paths}})
    state.note(f"VOLUME [{' '.join(paths)}]")


def _workdir(state: StageState, workdir: ins.Workdir) -> None:
    path = state.expand(workdir.path, workdir)
    if not path:
        raise DockerfileError("WORKDIR requires exactly one argument, but it is blank", workdir.position)
    if not path.startswith("/") and state.config.working_dir in ("", "/"):
        lint.relative_workdir(state.planner, workdir, path)
    whole = posixpath.normpath(posixpath.join("/", state.config.working_dir or "/", path))
    whole = "/" + whole.lstrip("/")
    state.change(working_dir=whole)
    if whole == "/":
        state.note("WORKDIR /")
        return
    state.add(ops.Directory(path=whole, epoch=state.planner.options.epoch), workdir)
    state.note(f"WORKDIR {whole}", layer=True)


def _run(state: StageState, run: ins.Run) -> None:
    options = state.planner.options
    for needed, asked in (("security.insecure", run.security == "insecure"), ("network.host", run.network == "host")):
        if asked and needed not in options.entitlements:
            raise DockerfileError(
                f"{needed} is not allowed for this build; grant it with --allow {needed}", run.position
            )
    if run.devices and "device" not in options.entitlements:
        raise DockerfileError(
            "RUN --device is not allowed for this build; grant it with --allow device", run.position
        )
    inputs: list[Vertex] = []
    found: list[ops.RunMount] = []
    for text, position in run.mounts:
        asked_mount = mounts.parse(state.expand(text, run), position, state.config.working_dir)
        source = -1
        if asked_mount.type in ("bind", "cache"):
            vertex = _mount_source(state, run, asked_mount)
            if vertex is not None:
                inputs.append(vertex)
                source = len(inputs)
        found.append(_run_mount(asked_mount, source))
    args, script = _program(state, run)
    env = {**state.arguments, **state.env}
    step = ops.Run(
        args=args,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        user=state.config.user,
        cwd=state.config.working_dir or "/",
        mounts=tuple(found),
        network=run.network if run.network not in ("", "default") else options.network,
        security=run.security if run.security == "insecure" else "",
        devices=tuple(state.expand(device, run) for device in run.devices),
        extra_hosts=options.extra_hosts,
        shm_size=options.shm_size,
        script=script,
        epoch=options.epoch,
    )
    state.add(step, run, tuple(inputs))
    declared = [f"{name}={value}" for name, value in state.arguments.items() if name not in state.env]
    counted = f"|{len(declared)} {' '.join(declared)} " if declared else ""
    shown = script.content.split("\n", 1)[0] if script else " ".join(args)
    state.note(f"RUN {counted}{shown} # buildkit", layer=True)


def _mount_source(state: StageState, run: ins.Run, asked: mounts.Asked) -> Vertex | None:
    if not asked.from_:
        return Vertex(ops.Context(), title="[internal] load build context") if asked.type == "bind" else None
    found = state.planner.source(asked.from_, state.stage.index, run)
    # While an image is missing the plan is made again later; until then anything stands in its place.
    return found or Vertex(ops.Scratch(), title="[missing]")


def _run_mount(asked: mounts.Asked, source: int) -> ops.RunMount:
    return ops.RunMount(
        type=asked.type,
        target=asked.target,
        source=asked.source,
        input=source,
        readonly=asked.readonly,
        id=asked.id,
        sharing=asked.sharing,
        required=asked.required,
        mode=asked.mode,
        uid=asked.uid,
        gid=asked.gid,
        size=asked.size,
        env=asked.env,
    )


def _program(state: StageState, run: ins.Run) -> tuple[tuple[str, ...], ops.Script | None]:
    """The words that run, with the here-documents of the line."""
    heredocs = run.node.heredocs
    if not heredocs:
        return _shell_words(state, run.command), None
    line = run.command.words[0]
    if len(heredocs) == 1 and re.fullmatch(r"\d*<<-?\S+", line):
        content = heredocs[0].content
        if content.startswith("#!"):
            name = heredocs[0].name
            return (f"/dev/pipes/{name}",), ops.Script(name=name, content=content)
        return (*(state.config.shell or _SHELL), content), None
    bodies = "".join(f"\n{each.content}{each.name}" for each in heredocs)
    return (*(state.config.shell or _SHELL), f"{line}{bodies}"), None


def _copy(state: StageState, copy: ins.Copy) -> None:
    made = files.transfer(state, copy)
    state.add(made.step, copy, made.inputs)
    state.note(f"{'ADD' if copy.add else 'COPY'} {made.shown} # buildkit", layer=True)


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
