"""Every member that the runtime specification's own schemas describe is known, and read by somebody."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cove
from cove.oci import spec

_OTHER_PLATFORMS = ("windows", "vm", "solaris", "zos", "freebsd")
_UNREAD = {"User.username": "names a user of Windows; the numbers say all"}


@cache
def _schemas() -> Path:
    for directory in Path(__file__).resolve().parents:
        found = directory / "shared/spec/oci-runtime"
        if found.is_dir():
            return found
    pytest.skip("the specification's schemas are not beside the repository (../shared/spec/oci-runtime)")


@cache
def _document(name: str) -> Any:
    path = _schemas() / name
    return json.loads(path.read_text()) if path.exists() else {}


def _referred(document: str, reference: str) -> tuple[str, Any]:
    name, _, pointer = reference.partition("#")
    node = _document(name or document)
    for word in pointer.strip("/").split("/"):
        node = node.get(word, {}) if word else node
    return name or document, node


def _described(document: str, node: dict[str, Any], path: str) -> Iterator[str]:
    """The paths of all members below `node`; items of a list are "[]", those of a map with any keys "*"."""
    if "$ref" in node:
        yield from _described(*_referred(document, node["$ref"]), path)
    for key in ("allOf", "anyOf", "oneOf"):
        for each in node.get(key, ()):
            yield from _described(document, each, path)
    for name, each in node.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from _described(document, each, f"{path}.{name}")
    if isinstance(node.get("items"), dict):
        yield from _described(document, node["items"], f"{path}[]")
    for each in (*node.get("patternProperties", {}).values(), node.get("additionalProperties")):
        if isinstance(each, dict):
            yield from _described(document, each, f"{path}.*")


def _known(kind: msgspec.inspect.Type, path: str) -> Iterator[str]:
    match kind:
        case msgspec.inspect.UnionType():
            for each in kind.types:
                yield from _known(each, path)
        case msgspec.inspect.StructType():
            for member in kind.fields:
                yield f"{path}.{member.encode_name}"
                yield from _known(member.type, f"{path}.{member.encode_name}")
        case msgspec.inspect.VarTupleType():
            yield from _known(kind.item_type, f"{path}[]")
        case msgspec.inspect.DictType():
            yield from _known(kind.value_type, f"{path}.*")
        case _:
            return


def test_every_member_of_the_schemas_is_known() -> None:
    described = set(_described("config-schema.json", _document("config-schema.json"), ""))
    assert ".linux.resources.memory.limit" in described, "the schemas were not understood"
    known = set(_known(msgspec.inspect.type_info(spec.Spec), ""))
    clocks = (".linux.timeOffsets.boottime", ".linux.timeOffsets.monotonic")
    missing = {
        each
        for each in described - known
        if not each.startswith(clocks) and each.split(".")[1] not in _OTHER_PLATFORMS
    }
    assert missing == set()
    assert {f".{name}" for name in _OTHER_PLATFORMS} <= known


def test_no_member_is_read_by_nobody() -> None:
    top = Path(cove.__file__).parent
    read = {
        node.attr
        for room in ("runtime", "kernel")
        for file in (top / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
    }
    members = {
        f"{name}.{member}"
        for name, kind in inspect.getmembers(spec, inspect.isclass)
        if issubclass(kind, msgspec.Struct) and kind.__module__ == spec.__name__
        for member in kind.__struct_fields__
    }
    assert {each for each in members if each.partition(".")[2] not in read} == set(_UNREAD)
