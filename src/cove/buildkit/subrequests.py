"""Questions about a Dockerfile, which are answered instead of a build.

    requestid=frontend.lint | frontend.outline | frontend.targets | frontend.subrequests.describe
        ─▶ {"result.json": …, "result.txt": …, "result.statuscode": …, "version": …}, the metadata of a result

It only words answers; `Job.answer` reads and plans. Source: frontend/subrequests of moby/buildkit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from cove.build.dockerfile.instructions import Dockerfile, Stage
from cove.build.dockerfile.outline import Outline, Wanted, described
from cove.build.dockerfile.syntax import DockerfileError, Warning
from cove.errors import CoveError
from cove.grpc import status
from cove.grpc.status import Code, RpcError

LINT = "frontend.lint"
OUTLINE = "frontend.outline"
TARGETS = "frontend.targets"
DESCRIBE = "frontend.subrequests.describe"

Answer = dict[str, bytes]

_VERSION = "1.0.0"
_KNOWN = {
    LINT: ("Lint a Dockerfile", ("result.json", "result.txt", "result.statuscode")),
    OUTLINE: ("List all parameters that the target of a build has", ("result.json", "result.txt")),
    TARGETS: ("List the targets of a Dockerfile", ("result.json", "result.txt")),
    DESCRIBE: ("List the requests that are answered", ("result.json", "result.txt")),
}
_UNSUPPORTED = "github.com/moby/buildkit/errdefs.Subrequest+json"
_AROUND = 2
_RULE = "-" * 20


def check(name: str) -> None:
    """Raises RpcError for a question that is not answered here."""
    if name in _KNOWN:
        return
    detail = status.Any(type_url=_UNSUPPORTED, value=json.dumps({"name": name}).encode())
    why = f"unsupported request {name}: this builder answers {', '.join(_KNOWN)}"
    raise RpcError(Code.UNKNOWN, why, (detail,))


def describe() -> Answer:
    """Which questions are answered."""
    listed = [
        {
            "name": name,
            "version": _VERSION,
            "type": "rpc",
            "description": description,
            "opts": [],
            "inputs": [],
            "metadata": [{"name": key, "description": ""} for key in keys],
            "refs": [],
        }
        for name, (description, keys) in _KNOWN.items()
    ]
    rows = [(name.removeprefix("frontend."), _VERSION, description) for name, (description, _) in _KNOWN.items()]
    return _answer(listed, _table(("NAME", "VERSION", "DESCRIPTION"), *rows))


def targets(dockerfile: Dockerfile, text: bytes) -> Answer:
    """Every stage, and what the comment above it says of it: `# NAME what it is`."""
    last = dockerfile.stages[-1]
    listed, rows = [], []
    for stage in dockerfile.stages:
        listed.append(
            _present(
                name=stage.name,
                default=stage is last,
                description=_comment(stage),
                base=stage.base.image,
                platform=stage.base.platform,
                location=_location(stage.base.position.line),
            )
        )
        default = f"{stage.name} (default)" if stage.name else "(default)"
        rows.append((default if stage is last else stage.name, _comment(stage)))
    sources = [base64.b64encode(text).decode()]
    return _answer({"targets": listed, "sources": sources}, _table(("TARGET", "DESCRIPTION"), *rows))


def outline(found: Outline, text: bytes) -> Answer:
    """What a target can be told: arguments, secrets, agents."""
    written = ""
    if found.name or found.description:
        about = [("DESCRIPTION:", found.description)] if found.description else []
        written += _table(("TARGET:", found.name or "(default)"), *about) + "\n"
    if found.arguments:
        rows = [(each.name, each.value, each.description) for each in found.arguments]
        written += _table(("BUILD ARG", "VALUE", "DESCRIPTION"), *rows, gap=3) + "\n"
    for title, wanted in (("SECRET", found.secrets), ("SSH", found.agents)):
        rows_ = [(each.name, "true" if each.required else "") for each in wanted]
        written += _table((title, "REQUIRED"), *rows_, gap=3) + "\n" if wanted else ""
    listed = {
        "name": found.name,
        "description": found.description,
        "args": [
            _present(name=each.name, description=each.description, value=each.value, location=_location(each.line))
            for each in found.arguments
        ],
        "secrets": [_wanted(each) for each in found.secrets],
        "ssh": [_wanted(each) for each in found.agents],
        "sources": [base64.b64encode(text).decode()],
    }
    return _answer(_present(**listed), written)


def _wanted(each: Wanted) -> dict[str, Any]:
    return _present(name=each.name, required=each.required, location=_location(each.line))


def _present(**fields: Any) -> dict[str, Any]:
    """Without what is empty."""
    return {name: value for name, value in fields.items() if value}


def lint(warnings: Sequence[Warning], error: CoveError | None, filename: str, text: bytes) -> Answer:
    """What the rules say, and what is wrong; the status code is 1 if there is anything."""
    source = {"filename": filename, "data": base64.b64encode(text).decode(), "language": "Dockerfile"}
    listed = [
        {"ruleName": each.rule, "url": each.url, "detail": each.message, "location": _location(each.line)}
        for each in warnings
    ]
    found: dict[str, Any] = {"warnings": listed, "sources": [source]}
    if error is not None:
        position = error.position if isinstance(error, DockerfileError) else None
        found["buildError"] = {"message": error.message, "location": _location(position.line if position else 0)}
    written = "".join(
        f"\nWARNING: {each.rule} - {each.url}\n{each.message}\n{_shown(filename, text, each.line)}"
        for each in warnings
    )
    return _answer(found, written) | {"result.statuscode": b"1" if warnings or error else b"0"}


def _answer(value: object, text: str) -> Answer:
    raw = json.dumps(value, indent=2, ensure_ascii=False)
    found = {"result.json": raw, "result.txt": text, "version": _VERSION}
    return {key: each.encode("utf-8", "replace") for key, each in found.items()}


def _table(*rows: tuple[str, ...], gap: int = 1) -> str:
    """Columns with a space between them; the last is as wide as it is."""
    widths = [max(len(row[column]) for row in rows) + gap for column in range(len(rows[0]) - 1)]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows]
    return "".join(f"{line}\n" for line in lines)


def _location(line: int) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}}]} if line else {}


def _comment(stage: Stage) -> str:
    return described(stage.name, stage.base.node.line.comments)


def _shown(filename: str, text: bytes, line: int) -> str:
    """A line among its neighbours."""
    lines = text.decode("utf-8", "replace").split("\n")
    if not 0 < line <= len(lines):
        return ""
    near = range(max(1, line - _AROUND), min(len(lines), line + _AROUND) + 1)
    shown = [f" {number:3} | {'>>>' if number == line else '   '} {lines[number - 1]}" for number in near]
    return "\n".join((f"{filename}:{line}", _RULE, *shown, _RULE, ""))
