"""Nodes become instructions: what may be written, and how.

    Node ─▶ Instruction ─▶ Dockerfile(global arguments, stages)

Owns flags, numbers of arguments and forms, and the errors about them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from cove.build.dockerfile import lexer, parser
from cove.build.dockerfile.instructions import (
    Arg,
    Cmd,
    Command,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stage,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from cove.build.dockerfile.parser import Flag, Node, json_list
from cove.build.dockerfile.syntax import DockerfileError, Position
from cove.build.dockerfile.words import split

_SPACE = re.compile(r"[\t\v\f\r ]+")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:h|ms|m|us|µs|ns|s))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(h|ms|m|us|µs|ns|s)")
_UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "µs": 1000, "ns": 1}


def parse(raw: bytes) -> Dockerfile:
    """The file's stages; raises DockerfileError with line and column, and with what was read before it."""
    source = lexer.read(raw)
    arguments: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    try:
        _gather(source, arguments, stages)
    except DockerfileError as error:
        error.read = _whole(source, arguments, stages)
        raise
    if not stages:
        what = "dockerfile contains no stages to build" if arguments else "file with no instructions"
        raise DockerfileError(f"{what}: a Dockerfile cannot be empty, it needs at least one FROM")
    return _whole(source, arguments, stages)


def _whole(source: lexer.Source, arguments: list[Arg], stages: list[tuple[From, list[Instruction]]]) -> Dockerfile:
    done = tuple(Stage(index, base, tuple(body)) for index, (base, body) in enumerate(stages))
    return Dockerfile(tuple(arguments), done, source.directives, source.escape, source)


def _gather(source: lexer.Source, arguments: list[Arg], stages: list[tuple[From, list[Instruction]]]) -> None:
    """The instructions one after the other, as far as they can be read."""
    for node in parser.parse(source):
        instruction = read(node)
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise DockerfileError(
                "no build stage in current context: the first instruction must be FROM (only ARG may stand before)",
                node.position,
            )


def read(node: Node) -> Instruction:
    """The instruction that a node spells."""
    return _READERS[node.name](node)


def trigger(text: str, position: Position) -> Instruction:
    """What an ONBUILD of a base image says; it stands where the FROM is that brings it."""
    lines = lexer.read(text.encode("utf-8", "surrogateescape")).lines
    if len(lines) != 1:
        raise DockerfileError(f"the base image has an ONBUILD trigger that is not one instruction: {text[:80]!r}")
    line = replace(lines[0], starts=((0, position.line, position.column),))
    return read(parser.node(line, "\\"))


# ── flags ─────────────────────────────────────────────────────────────────────────────────────────


def _flags(
    node: Node, *allowed: str, several: tuple[str, ...] = (), switches: tuple[str, ...] = ()
) -> dict[str, Flag]:
    """Those given by name, each allowed and, but for `several`, once."""
    found: dict[str, Flag] = {}
    known = (*allowed, *several, *switches)
    for flag in node.flags:
        if flag.name not in known:
            meant = parser.nearest(flag.name, known)
            hint = f" (did you mean {meant}?)" if meant else ""
            raise DockerfileError(f"{node.name} has an unknown flag: --{flag.name}{hint}", flag.position)
        if flag.value is None and flag.name not in switches:
            raise DockerfileError(f"the flag --{flag.name} needs a value", flag.position)
        if flag.name in found and flag.name not in several:
            raise DockerfileError(f"the flag --{flag.name} is given twice", flag.position)
        found[flag.name] = flag
    return found


def _text(flags: dict[str, Flag], name: str) -> str:
    flag = flags.get(name)
    return (flag.value or "") if flag else ""


def _switch(flags: dict[str, Flag], name: str) -> bool:
    flag = flags.get(name)
    if flag is None:
        return False
    if flag.value is None or flag.value.lower() == "true":
        return True
    if flag.value.lower() == "false":
        return False
    raise DockerfileError(f"expecting true or false for the flag --{name}, not: {flag.value}", flag.position)


def _none(node: Node) -> None:
    _flags(node)


# ── one reader for each ───────────────────────────────────────────────────────────────────────────


def _from(node: Node) -> From:
    flags = _flags(node, "platform")
    words = node.rest.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        raise DockerfileError("FROM requires either one or three arguments: FROM IMAGE [AS NAME]", node.position)
    alias = words[2].lower() if len(words) == 3 else ""
    if alias and not _STAGE_NAME.fullmatch(alias):
        raise DockerfileError(
            f'invalid name for build stage: "{words[2]}", name can\'t start with a number or contain symbols',
            node.at(node.rest.rindex(words[2])),
        )
    return From(node=node, image=words[0], platform=_text(flags, "platform"), alias=alias)


def _arg(node: Node) -> Arg:
    _none(node)
    pairs: list[tuple[str, str | None]] = []
    for word in split(node.rest, node.escape):
        name, equals, value = word.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank", node.at())
        pairs.append((name, value if equals else None))
    return Arg(node=node, pairs=tuple(pairs))


def _pairs(node: Node) -> tuple[tuple[tuple[str, str], ...], bool]:
    """NAME=VALUE …, or the old NAME VALUE; whether it was the old one."""
    _none(node)
    words = split(node.rest, node.escape)
    if "=" not in words[0]:
        name, _, value = node.rest.partition(words[0])[2].partition(" ")
        value = node.rest[len(words[0]) :].strip()
        if not value:
            raise DockerfileError(f"{node.name} must have two arguments", node.at())
        return ((words[0], value),), True
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"Syntax error - can't find = in {word!r}. Must be of the form: name=value", node.at()
            )
        if not name:
            raise DockerfileError(f"{node.name} names can not be blank", node.at())
        pairs.append((name, value))
    return tuple(pairs), False


def _env(node: Node) -> Env:
    pairs, legacy = _pairs(node)
    return Env(node=node, pairs=pairs, legacy=legacy)


def _label(node: Node) -> Label:
    pairs, legacy = _pairs(node)
    return Label(node=node, pairs=pairs, legacy=legacy)


def _command(node: Node) -> Command:
    if node.listed is not None:
        return Command(node.listed, shell=False)
    return Command((node.rest,), shell=True)


def _run(node: Node) -> Run:
    flags = _flags(node, "network", "security", several=("mount", "device"))
    network, security = _text(flags, "network"), _text(flags, "security")
    if network not in ("", "default", "none", "host"):
        raise DockerfileError(
            f'invalid network mode: "{network}"; default, none and host are known', flags["network"].position
        )
    if security not in ("", "sandbox", "insecure"):
        raise DockerfileError(
            f'invalid security mode: "{security}"; sandbox and insecure are known', flags["security"].position
        )
    if node.listed == ():
        raise DockerfileError("RUN requires a command", node.at())
    return Run(
        node=node,
        command=_command(node),
        mounts=tuple((flag.value or "", flag.position) for flag in node.flags if flag.name == "mount"),
        network=network,
        security=security,
        devices=tuple(flag.value or "" for flag in node.flags if flag.name == "device"),
    )


def _copy(node: Node) -> Copy:
    add = node.name == "ADD"
    names = ("chown", "chmod", "checksum") if add else ("chown", "chmod", "from")
    switches = ("link", "keep-git-dir", "unpack") if add else ("link", "parents")
    flags = _flags(node, *names, several=("exclude",), switches=switches)
    words = list(node.listed) if node.listed is not None else _SPACE.split(node.rest)
    heredocs = list(node.heredocs)
    if len(words) < 2:
        raise DockerfileError(
            f"{node.name} requires at least two arguments, but only one was provided", node.position
        )
    *sources, destination = words
    if "$" in _text(flags, "from")[:-1]:
        raise DockerfileError(
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global "
            "scope as a workaround",
            flags["from"].position,
        )
    if heredocs:
        words = _SPACE.split(re.sub(r"<<(-?)[ \t\r]+", r"<<\1", node.rest)) if node.listed is None else words
        *sources, destination = words
        announced = {match[0] for match in lexer.heredoc_words(node.line.text)}
        if destination in announced:
            raise DockerfileError(f"{node.name} cannot accept a heredoc as a destination", node.position)
        sources = [word for word in sources if word not in announced]
    return Copy(
        node=node,
        sources=tuple(sources),
        destination=destination,
        add=add,
        from_=_text(flags, "from"),
        chown=_text(flags, "chown"),
        chmod=_text(flags, "chmod"),
        link=_switch(flags, "link"),
        parents=_switch(flags, "parents"),
        excludes=tuple(flag.value or "" for flag in node.flags if flag.name == "exclude"),
        checksum=_text(flags, "checksum"),
        keep_git_dir=_switch(flags, "keep-git-dir") if "keep-git-dir" in flags else None,
        unpack=_switch(flags, "unpack") if "unpack" in flags else None,
        heredocs=tuple(heredocs),
    )


def _cmd(node: Node) -> Cmd:
    _none(node)
    return Cmd(node=node, command=_command(node))


def _entrypoint(node: Node) -> Entrypoint:
    _none(node)
    return Entrypoint(node=node, command=_command(node))


def _expose(node: Node) -> Expose:
    _none(node)
    return Expose(node=node, ports=tuple(sorted(_SPACE.split(node.rest))))


def _healthcheck(node: Node) -> Healthcheck:
    flags = _flags(node, "interval", "timeout", "start-period", "start-interval", "retries")
    kind, _, rest = node.rest.partition(" ")
    if kind.upper() == "NONE":
        if rest.strip():
            raise DockerfileError("HEALTHCHECK NONE takes no arguments", node.at())
        return Healthcheck(node=node, command=None)
    if kind.upper() != "CMD":
        raise DockerfileError(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)', node.at())
    rest = rest.strip()
    if not rest:
        raise DockerfileError("Missing command after HEALTHCHECK CMD", node.at())
    listed = json_list(rest, node.at())
    retries = _text(flags, "retries")
    if retries and not retries.isdecimal():
        raise DockerfileError(f"--retries must be a whole number, not {retries!r}", flags["retries"].position)
    return Healthcheck(
        node=node,
        command=Command(listed, shell=False) if listed else Command((rest,), shell=True),
        interval=_duration(flags, "interval"),
        timeout=_duration(flags, "timeout"),
        start_period=_duration(flags, "start-period"),
        start_interval=_duration(flags, "start-interval"),
        retries=int(retries or 0),
    )


def _duration(flags: dict[str, Flag], name: str) -> int:
    """Go's durations ("1m30s") in nanoseconds; at least a millisecond, or 0."""
    flag = flags.get(name)
    if flag is None or flag.value == "0":
        return 0
    text = flag.value or ""
    if not _DURATION.fullmatch(text):
        raise DockerfileError(
            f"--{name} has the invalid duration {text!r}; write for example 30s or 1m30s", flag.position
        )
    total = round(sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text)))
    if 0 < total < 10**6:
        raise DockerfileError(f"--{name} cannot be less than 1ms", flag.position)
    return total


def _maintainer(node: Node) -> Maintainer:
    _none(node)
    return Maintainer(node=node, name=node.rest)


def _onbuild(node: Node) -> Onbuild:
    _none(node)
    word = node.rest.split()[0].upper()
    if word == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", node.at())
    if word in ("FROM", "MAINTAINER"):
        raise DockerfileError(f"{word} isn't allowed as an ONBUILD trigger", node.at())
    if word not in parser.KNOWN:
        raise DockerfileError(f"unknown instruction: {node.rest.split()[0]}", node.at())
    bodies = "".join(f"\n{each.content}{each.name}" for each in node.heredocs)
    read(
        parser.node(
            lexer.Line(node.rest, ((0, node.position.line, node.position.column),), 1, node.heredocs), node.escape
        )
    )
    return Onbuild(node=node, trigger=node.rest + bodies)


def _shell(node: Node) -> Shell:
    _none(node)
    if not node.listed:
        raise DockerfileError("SHELL requires the arguments to be in JSON form", node.at())
    return Shell(node=node, words=node.listed)


def _stopsignal(node: Node) -> Stopsignal:
    _none(node)
    return Stopsignal(node=node, signal=node.rest)


def _user(node: Node) -> User:
    _none(node)
    return User(node=node, user=node.rest)


def _volume(node: Node) -> Volume:
    _none(node)
    paths = node.listed if node.listed is not None else tuple(_SPACE.split(node.rest))
    if not paths or any(not path.strip() for path in paths):
        raise DockerfileError("VOLUME specified can not be an empty string", node.at())
    return Volume(node=node, paths=paths)


def _workdir(node: Node) -> Workdir:
    _none(node)
    return Workdir(node=node, path=node.rest)


_READERS: dict[str, Callable[[Node], Instruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
