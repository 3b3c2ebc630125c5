"""The Engine API's own description, as a judge of replies.

Reads the OpenAPI 2.0 file that continuous integration has beside the repository, and says where a value differs from
the schema that the file gives for a path, a method and a status. It never sends a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

_SPEC_NAME = "docker-engine-api-1.56.yaml"
_UNSET = ("MemorySwappiness", "OomKillDisable", "ExitCode")
"""Fields that Docker's own server sends as null while they have no value; the specification does not say so."""
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "array": (list,), "object": (dict,),
}  # fmt: skip


@cache
def specification() -> dict[str, Any]:
    """The whole file; the test is skipped where it is not."""
    for directory in Path(__file__).resolve().parents:
        path = directory / "shared/spec" / _SPEC_NAME
        if path.is_file():
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            found: dict[str, Any] = yaml.load(path.read_text(), loader)
            return found
    pytest.skip(f"{_SPEC_NAME} is not beside the repository (../shared/spec): there is nothing to judge replies by")


def _operation(method: str, path: str) -> tuple[str, dict[str, Any]]:
    for template, methods in specification()["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(template))
        if method in methods and re.fullmatch(pattern, path):
            return template, methods[method]
    raise LookupError(f"the specification has no {method.upper()} {path}")


def differences(method: str, path: str, status: int, value: Any) -> list[str]:
    """Where a reply's body is not what the specification says for this status."""
    template, operation = _operation(method.lower(), path)
    reply = operation["responses"].get(status)
    if reply is None:
        return [f"{template}: the status {status} is not one of {sorted(operation['responses'])}"]
    schema = reply.get("schema")
    if schema is None:
        return []
    return [f"{template} {where}: {what}" for where, what in _check(schema, value, "$")]


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        found: Any = specification()
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        schema = found
    return schema


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with all of its parts in one: properties and required names united."""
    schema = _resolved(schema)
    parts = [_flat(part) for part in schema.get("allOf", ())]
    if not parts:
        return schema
    whole: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
    for part in parts:
        for key, value in part.items():
            if key == "properties":
                whole["properties"] = {**value, **whole.get("properties", {})}
            elif key == "required":
                whole["required"] = [*whole.get("required", []), *value]
            else:
                whole.setdefault(key, value)
    return whole


def _check(schema: dict[str, Any], value: Any, where: str) -> Iterator[tuple[str, str]]:
    schema = _flat(schema)
    kind = schema.get("type") or ("object" if "properties" in schema else None)
    if value is None:
        # Docker's server is written in Go, where an absent list or map is null.
        said = schema.get("x-nullable") or kind in ("array", "object") or where.rpartition(".")[2] in _UNSET
        if not said:
            yield where, f"is null, not {kind}"
        return
    if kind in _TYPES and (not isinstance(value, _TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        yield where, f"is {value!r}, not {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield where, f"is {value!r}, not one of {schema['enum']}"
    if kind == "array":
        for number, item in enumerate(value):
            yield from _check(schema.get("items", {}), item, f"{where}[{number}]")
    elif kind == "object":
        yield from _members(schema, value, where)
    elif schema.get("format") in ("dateTime", "date-time") and not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", value):
        yield where, f"is {value!r}, not a time"


def _members(schema: dict[str, Any], value: dict[str, Any], where: str) -> Iterator[tuple[str, str]]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value and name in properties:
            yield where, f"lacks {name}"
    for name, item in value.items():
        if name in properties:
            yield from _check(properties[name], item, f"{where}.{name}")
        elif isinstance(others, dict):
            yield from _check(others, item, f"{where}.{name}")
