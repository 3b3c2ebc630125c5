"""The rules that people know by name: what works, but probably is not what was meant.

`file` looks at the text alone; the planner calls the others where it knows the values. `# check=skip=A,B` skips
rules, `# check=skip=all` all of them; `error=true` makes them errors.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile.syntax import Warning

if TYPE_CHECKING:
    from cove.build.dockerfile.plan import _Planner

_SECRET = re.compile(
    r"(?i)(?:^|[_-])(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:$|[_-])"
)
_PUBLIC = re.compile(r"(?i)(?:^|[_-])(?:public)(?:$|[_-])")
_RESERVED = frozenset({"scratch", "context"})


def file(dockerfile: ins.Dockerfile) -> Iterator[Warning]:
    """What the text alone shows."""
    yield from _casing(dockerfile)
    seen: set[str] = set()
    for stage in dockerfile.stages:
        base = stage.base
        line = base.position.line
        words = base.node.rest.split()
        if len(words) == 3:
            written = words[2]
            if written != written.lower():
                yield Warning("StageNameCasing", f"Stage name '{written}' should be lowercase", line)
            if words[1].isupper() != base.node.written.isupper():
                yield Warning(
                    "FromAsCasing", f"'{words[1]}' and '{base.node.written}' keywords' casing do not match", line
                )
        if stage.name in seen:
            yield Warning(
                "DuplicateStageName", f'Duplicate stage name "{stage.name}", stage names should be unique', line
            )
        if stage.name in _RESERVED:
            yield Warning(
                "ReservedStageName", f'Stage name should not use the same name as reserved stage "{stage.name}"', line
            )
        seen.add(stage.name or str(stage.index))
        if base.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            message = (
                f"Setting platform to predefined {base.platform} in FROM is redundant as this is the default behavior"
            )
            yield Warning("RedundantTargetPlatform", message, line)
        elif base.platform and "$" not in base.platform:
            message = f'FROM --platform flag should not use constant value "{base.platform}"'
            yield Warning("FromPlatformFlagConstDisallowed", message, line)
        yield from _body(stage)
    for logical in dockerfile.source.lines:
        if logical.blank_continuation:
            message = "Empty continuation line found in: " + logical.text[:60]
            yield Warning("NoEmptyContinuation", message, logical.blank_continuation)


def _casing(dockerfile: ins.Dockerfile) -> Iterator[Warning]:
    nodes = [each.node for each in dockerfile.arguments]
    for stage in dockerfile.stages:
        nodes += [stage.base.node, *(each.node for each in stage.body)]
    upper = sum(node.written.isupper() for node in nodes)
    majority = "uppercase" if upper * 2 >= len(nodes) else "lowercase"
    for node in nodes:
        right = node.written.isupper() if majority == "uppercase" else node.written.islower()
        if not right:
            message = f"Command '{node.written}' should match the case of the command majority ({majority})"
            yield Warning("ConsistentInstructionCasing", message, node.position.line)


def _body(stage: ins.Stage) -> Iterator[Warning]:
    last: dict[str, int] = {}
    for instruction in stage.body:
        line = instruction.position.line
        if isinstance(instruction, ins.Maintainer):
            message = "Maintainer instruction is deprecated in favor of using label"
            yield Warning("MaintainerDeprecated", message, line)
        if isinstance(instruction, ins.Cmd | ins.Entrypoint):
            name = instruction.node.name
            if instruction.command.shell:
                message = (
                    f"JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
                )
                yield Warning("JSONArgsRecommended", message, line)
        if isinstance(instruction, ins.Cmd | ins.Entrypoint | ins.Healthcheck):
            name = instruction.node.name
            if name in last:
                message = (
                    f"Multiple {name} instructions should not be used in the same stage because only the last one "
                    "will be used"
                )
                yield Warning("MultipleInstructionsDisallowed", message, last[name])
            last[name] = line
        if isinstance(instruction, ins.Env | ins.Label) and instruction.legacy:
            name = instruction.node.name
            message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
            yield Warning("LegacyKeyValueFormat", message, line)


def undefined(rule: str, name: str, scope: Mapping[str, str]) -> str:
    """The words for a variable without a value."""
    near = difflib.get_close_matches(name, scope, 1, 0.8)
    hint = f" (did you mean ${near[0]}?)" if near else ""
    if rule == "UndefinedArgInFrom":
        return f"FROM argument '{name}' is not declared{hint}"
    return f"Usage of undefined variable '${name}'{hint}"


def secret(planner: _Planner, at: ins.Instruction, name: str, instruction: str) -> None:
    """A variable whose name says that it is a secret: it stays in the image."""
    if _SECRET.search(name) and not _PUBLIC.search(name):
        message = f'Do not use ARG or ENV instructions for sensitive data ({instruction} "{name}")'
        planner.warn(at, "SecretsUsedInArgOrEnv", message)


def relative_workdir(planner: _Planner, at: ins.Instruction, path: str) -> None:
    """A relative WORKDIR on a base that may change its own."""
    if not any(isinstance(each, ins.Workdir) and each.path.startswith("/") for each in _before(planner, at)):
        message = (
            f'Relative workdir "{posixpath.normpath(path)}" can have unexpected results if the base image changes'
        )
        planner.warn(at, "WorkdirRelativePath", message)


def _before(planner: _Planner, at: ins.Instruction) -> Iterator[ins.Instruction]:
    for stage in planner.dockerfile.stages:
        if at in stage.body:
            yield from stage.body[: stage.body.index(at)]


def checks(directive: str) -> tuple[frozenset[str], bool]:
    """The rules that `# check=` skips, and whether warnings are errors."""
    skipped: set[str] = set()
    errors = False
    for part in directive.split(";"):
        key, _, value = part.strip().partition("=")
        if key == "skip":
            skipped |= {rule.strip() for rule in value.split(",")}
        elif key == "error":
            errors = value.strip().lower() == "true"
    return frozenset(skipped), errors


def kept(warnings: tuple[Warning, ...], directive: str) -> tuple[Warning, ...]:
    """The warnings that the file does not skip."""
    skipped, _ = checks(directive)
    if "all" in skipped:
        return ()
    return tuple(each for each in warnings if each.rule not in skipped)
