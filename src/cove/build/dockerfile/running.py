"""RUN: its program, what it sees of other places, and what it must be granted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cove.build import ops
from cove.build.dockerfile import devices, mounts, spelling
from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile.outline import Wanted
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.graph import Vertex

if TYPE_CHECKING:
    from cove.build.dockerfile.stage import StageState

SHELL = ("/bin/sh", "-c")
_HOSTNAME = "BUILDKIT_SANDBOX_HOSTNAME"
"""The argument that names the host of every RUN."""


@dataclass(frozen=True, slots=True)
class Running:
    """The step, what it takes from, and the words of the history."""

    step: ops.Run
    inputs: tuple[Vertex, ...]
    shown: str


def run(state: StageState, run: ins.Run) -> Running:
    """What a RUN does; raises DockerfileError."""
    options = state.planner.options
    for needed, asked in (("security.insecure", run.security == "insecure"), ("network.host", run.network == "host")):
        if asked and needed not in options.entitlements:
            raise DockerfileError(
                f"{needed} is not allowed for this build; grant it with --allow {needed}", run.position
            )
    inputs: list[Vertex] = []
    found: list[ops.RunMount] = []
    for text, position in run.mounts:
        asked_mount = mounts.parse(text, position, state.config.working_dir, lambda value: state.expand(value, run))
        source = -1
        if asked_mount.type in ("bind", "cache"):
            vertex = _mount_source(state, run, asked_mount)
            if vertex is not None:
                inputs.append(vertex)
                source = len(inputs)
        _outline(state, asked_mount, position.line)
        found.append(_run_mount(asked_mount, source))
    args, script = _program(state, run)
    asked_devices = [state.expand(device, run) for device in run.devices]
    env = {**state.arguments, **state.env}
    step = ops.Run(
        args=args,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        user=state.config.user,
        cwd=state.config.working_dir or "/",
        mounts=tuple(found),
        network=run.network if run.network not in ("", "default") else options.network,
        security=run.security if run.security == "insecure" else "",
        devices=devices.granted(asked_devices, options.devices, options.entitlements, run.position),
        extra_hosts=options.extra_hosts,
        hostname=options.arguments.get(_HOSTNAME) or options.hostname,
        shm_size=options.shm_size,
        script=script,
        epoch=options.epoch,
    )
    declared = {name: env.get(name, "") for name in state.declared}
    return Running(step, tuple(inputs), spelling.run(args, declared))


def _outline(state: StageState, asked: mounts.Asked, line: int) -> None:
    """A secret or an agent is something that a build has to be given."""
    scope = state.planner.scopes[state.stage.index]
    kinds = {"secret": scope.secrets, "ssh": scope.agents}
    if asked.type in kinds:
        kinds[asked.type].setdefault(asked.id, Wanted(asked.id, asked.required, line))


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
        command = run.command
        words = (*(state.config.shell or SHELL), *command.words) if command.shell else command.words
        return words, None
    if not run.command.shell:
        raise DockerfileError("RUN with a here-document takes no list of words", run.position)
    line = run.command.words[0]
    if len(heredocs) == 1 and re.fullmatch(r"\d*<<-?\s*[^\s<]+", line):
        content = heredocs[0].content
        if content.startswith("#!"):
            name = heredocs[0].name
            return (*(state.config.shell or SHELL), f"/dev/pipes/{name}"), ops.Script(name=name, content=content)
        return (*(state.config.shell or SHELL), content), None
    bodies = "".join(f"\n{each.content}{each.name}" for each in heredocs)
    return (*(state.config.shell or SHELL), f"{line}{bodies}"), None
