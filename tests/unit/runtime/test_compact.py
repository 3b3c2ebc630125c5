"""JSON without the package of that name."""

from __future__ import annotations

import json

import pytest

from cove.runtime.oci import compact

VALUES = [
    {},
    {"id": "a", "pid": 12, "flags": [True, False, None], "annotations": {'é\n"\\': "\u2028 \U0001f40b \x7f"}},
    [1, -5, 2.5, "", []],
    "text",
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_comes_back_and_is_what_everybody_calls_json(value: object) -> None:
    content = compact.encode(value)
    assert compact.decode(content) == value
    assert json.loads(content) == value


@pytest.mark.parametrize("value", [*VALUES, {"a": {"b": [1, {"c": {}}], "d": []}}], ids=str)
def test_a_readable_one_looks_as_everybodys(value: object) -> None:
    assert compact.readable(value) == json.dumps(value, indent=2)


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b"{} {}", b'{"a":1}x', b"\xff"])
def test_anything_else_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        compact.decode(content)


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(TypeError):
        compact.encode({"a": object()})
