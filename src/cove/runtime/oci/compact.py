"""JSON by the interpreter's C module alone: what `json` brings along (`re`, `enum`, …) is a third of a short verb.

A document begins with its first byte and ends with its last: there is no whitespace around it.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_make_scanner: Any = make_scanner  # whose argument is whatever has these attributes


class _Context:
    """What the scanner asks for: `json.JSONDecoder`'s defaults."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is no value of JSON")


def encode(value: object) -> bytes:
    """`value` as a document without whitespace."""
    encoder = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
    return "".join(encoder(value, 0)).encode("ascii")


def readable(value: object, margin: str = "") -> str:
    """`value` as a document to be read, a member a line, two spaces a level."""
    deeper = f"{margin}  "
    if isinstance(value, dict) and value:
        members = (f"{deeper}{encode(name).decode()}: {readable(each, deeper)}" for name, each in value.items())
        return "{\n" + ",\n".join(members) + f"\n{margin}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(deeper + readable(each, deeper) for each in value) + f"\n{margin}]"
    return encode(value).decode()


def decode(content: bytes) -> Any:
    """The value of a document that `encode` made; ValueError for any other content."""
    text = content.decode()
    try:
        value, end = _make_scanner(_Context)(text, 0)
    except StopIteration:
        raise ValueError("it is no JSON") from None
    if end != len(text):
        raise ValueError(f"it goes on after its end at {end}")
    return value
