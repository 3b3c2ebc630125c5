"""The rules that people know by name: what works, but probably is not what was meant.

    # check=skip=A,B;error=true        at the top of a file: for all of it
    # check=skip=C                     above an instruction: for that one

`file` looks at the text alone; the planner calls the others where it knows the values, for stages that are needed.
Source: the reference "Build checks"; when exactly a rule speaks is as BuildKit does it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile.parser import Node
from cove.build.dockerfile.syntax import DockerfileError, Warning
from cove.patterns import Ignore

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_OPEN = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_CHECK = re.compile(r"check\s*=\s*(\S+)", re.IGNORECASE)
_RESERVED = frozenset({"scratch", "context"})
_EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
_NEAR = 3
_ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"
"""The argument that takes the place of the file's directive."""


@dataclass(frozen=True, slots=True)
class Checks:
    """Which rules speak. `errors`: a warning is an error."""

    skipped: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    errors: bool = False

    @classmethod
    def parse(cls, text: str) -> Checks:
        """The value of a check directive; raises DockerfileError."""
        found: dict[str, frozenset[str]] = {}
        errors = False
        for part in text.split(";") if text.strip() else ():
            key, equals, value = part.strip().partition("=")
            key, value = key.strip(), value.strip()
            if not equals or key not in ("skip", "experimental", "error"):
                raise DockerfileError(f"invalid check option {part.strip()!r}: known are skip, experimental, error")
            if key != "error":
                found[key] = frozenset(rule.strip() for rule in value.split(","))
            elif value.lower() not in ("true", "false", "1", "0", "t", "f"):
                raise DockerfileError(f"the check option error is either true or false, not {value!r}")
            else:
                errors = value.lower() in ("true", "1", "t")
        return cls(found.get("skip", frozenset()), found.get("experimental", frozenset()), errors)

    @classmethod
    def of(cls, dockerfile: ins.Dockerfile, arguments: Mapping[str, str]) -> Checks:
        """Those of a file, or of a build's argument instead. Raises DockerfileError."""
        return cls.parse(arguments.get(_ARGUMENT) or dockerfile.directives.get("check", ""))

    def at(self, node: Node) -> Checks:
        """With what the comments above an instruction say."""
        for comment in node.line.comments:
            match = _CHECK.match(comment)
            if match is None:
                continue
            try:
                own = Checks.parse(match[1])
            except DockerfileError:
                return self
            return Checks(self.skipped | own.skipped, self.experimental | own.experimental, self.errors)
        return self

    def wants(self, rule: str) -> bool:
        """Whether a rule speaks."""
        if rule in _EXPERIMENTAL:
            return bool(self.experimental & {rule, "all"})
        return not self.skipped & {rule, "all"}


# ── what the text alone shows ─────────────────────────────────────────────────────────────────────


def before(error: DockerfileError, arguments: Mapping[str, str]) -> tuple[Warning, ...]:
    """What is said of the part of a file that could be read. Raises DockerfileError for a wrong check directive."""
    if error.read is None:
        return ()
    found = file(error.read, Checks.of(error.read, arguments), whole=False)
    return tuple(sorted(set(found), key=lambda each: (each.line, each.rule)))


def file(dockerfile: ins.Dockerfile, checks: Checks, *, whole: bool = True) -> Iterator[Warning]:
    """The warnings of rules that need no values; of a part of a file, without those that compare all of it."""
    for warning in (*(_casing(dockerfile) if whole else ()), *_stage_names(dockerfile), *_blank(dockerfile)):
        if checks.wants(warning.rule):
            yield warning
    for instruction in _all(dockerfile):
        own = checks.at(instruction.node)
        yield from (each for each in _alone(instruction) if own.wants(each.rule))


def _all(dockerfile: ins.Dockerfile) -> Iterator[ins.Instruction]:
    yield from dockerfile.arguments
    for stage in dockerfile.stages:
        yield stage.base
        yield from stage.body


def _casing(dockerfile: ins.Dockerfile) -> Iterator[Warning]:
    nodes = [each.node for stage in dockerfile.stages for each in (stage.base, *stage.body)]
    lower = sum(node.written.islower() for node in nodes)
    upper = sum(node.written.isupper() for node in nodes)
    majority = "lowercase" if lower > upper else "uppercase"
    for node in nodes:
        if not (node.written.islower() if lower > upper else node.written.isupper()):
            message = f"Command '{node.written}' should match the case of the command majority ({majority})"
            yield Warning("ConsistentInstructionCasing", message, node.position.line)


def _stage_names(dockerfile: ins.Dockerfile) -> Iterator[Warning]:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        name, line = stage.name, stage.base.position.line
        if name in _RESERVED:
            message = f'Stage name should not use the same name as reserved stage "{name}"'
            yield Warning("ReservedStageName", message, line)
        if name and name in seen:
            message = f'Duplicate stage name "{name}", stage names should be unique'
            yield Warning("DuplicateStageName", message, line)
        seen.add(name)


def _blank(dockerfile: ins.Dockerfile) -> Iterator[Warning]:
    for line in dockerfile.source.lines:
        if line.blank_continuation:
            yield Warning("NoEmptyContinuation", "Empty continuation line", line.blank_continuation)


def _alone(instruction: ins.Instruction) -> Iterator[Warning]:
    line = instruction.position.line
    if isinstance(instruction, ins.Maintainer):
        message = "Maintainer instruction is deprecated in favor of using label"
        yield Warning("MaintainerDeprecated", message, line)
    elif isinstance(instruction, ins.Arg):
        yield from _described("ARG", [name for name, _ in instruction.pairs], instruction.node)
    elif isinstance(instruction, ins.From) and instruction.alias:
        _, word, written = instruction.node.rest.split()
        if written != written.lower():
            yield Warning("StageNameCasing", f"Stage name '{written}' should be lowercase", line)
        command = instruction.node.written
        if (command.islower() and not word.islower()) or (command.isupper() and not word.isupper()):
            yield Warning("FromAsCasing", f"'{word}' and '{command}' keywords' casing do not match", line)
        yield from _described("FROM", [instruction.alias], instruction.node)


def _described(name: str, keys: list[str], node: Node) -> Iterator[Warning]:
    """A comment right above a definition describes it: it begins with what it defines."""
    comments = node.line.comments
    if comments and comments[-1].split(" ")[0] not in keys:
        shown = keys[0] if len(keys) == 1 else "<arg_key>"
        message = f"Comment for {name} should follow the format: `# {shown} <description>`"
        yield Warning("InvalidDefinitionDescription", message, node.position.line)


# ── what values show: the message, None when there is nothing to say ───────────────────────────────


def undefined(rule: str, name: str, known: Iterable[str]) -> str:
    """The words for a variable without a value."""
    near = nearest(name, known)
    if rule == "UndefinedArgInFrom":
        return f"FROM argument '{name}' is not declared" + (f" (did you mean {near}?)" if near else "")
    return f"Usage of undefined variable '${name}'" + (f" (did you mean ${near}?)" if near else "")


def secret(name: str, instruction: str) -> str | None:
    """A variable whose name says that it is a secret: it stays in the image."""
    if not _SECRET.search(name) or _OPEN.search(name):
        return None
    return f'Do not use ARG or ENV instructions for sensitive data ({instruction} "{name}")'


def constant_platform(stage: ins.Stage) -> str | None:
    """A platform that no argument changes, in a stage whose name does not tell of it."""
    platform = stage.base.platform
    if not platform or "$" in platform or any(part and part in stage.name for part in platform.split("/")[:2]):
        return None
    return f'FROM --platform flag should not use constant value "{platform}"'


def redundant_platform(stage: ins.Stage) -> str | None:
    """The platform that a stage has anyway."""
    platform = stage.base.platform
    if platform not in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        return None
    return f"Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"


def ignored(source: str, ignore: tuple[str, ...], *, add: bool) -> str | None:
    """A source that the ignore file leaves out; exceptions make that undecidable."""
    if not ignore or any(pattern.startswith("!") for pattern in ignore):
        return None
    path = posixpath.normpath(source)
    if path in (".", "/") and not {"*", "**", "**/*"} & set(ignore):
        return None
    if not Ignore(ignore).excludes(path.lstrip("/") or "."):
        return None
    return f'Attempting to {"Add" if add else "Copy"} file "{path}" that is excluded by .dockerignore'


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that takes the fewest changes, "" when even that takes many."""
    best, least = "", _NEAR
    for each in known:
        if each == word:
            return ""
        distance = _distance(word, each) if abs(len(word) - len(each)) < _NEAR else _NEAR
        if distance < least:
            best, least = each, distance
    return best


def _distance(one: str, other: str) -> int:
    """How many letters are to be changed, added or taken away (Levenshtein)."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        before, row[0] = row[0], number
        for column, against in enumerate(other, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (letter != against))
    return row[-1]
