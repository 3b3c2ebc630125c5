"""What every type of the Docker Engine API shares: names, nulls and leniency.

Owns the rule by which Python's names become Docker's (`host_config` ↔ "HostConfig") and the one
way in and out of JSON. It never knows a resource.

    bytes ── decode ──▶ objects ── tidy ──▶ a frozen value of a request type
    a frozen value of a response type ── encode ──▶ bytes

Requests are read as Docker's own server reads them: null means absent, unknown fields are
ignored, a number may come as a string or with a fractional zero, a command may be one string.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from cove.errors import InvalidArgument

T = TypeVar("T")

_NO_KEY = re.compile(r"JSON is malformed: object keys must be strings \(byte (\d+)\)")

_MAPS = frozenset({
    "EndpointsConfig", "PortBindings", "ExposedPorts", "Volumes", "Labels", "DriverOpts", "Options", "Sysctls",
    "Tmpfs", "StorageOpt", "Annotations", "AuxiliaryAddresses", "Config",
})  # fmt: skip
"""Fields whose keys are the user's, where a null value still says that the key is there."""

_WORDS = frozenset({"Cmd", "Entrypoint", "Shell"})
"""Fields that hold a list of words, or one word."""


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of every value of the API: immutable, and named in JSON as Docker names it."""


def _tidy(value: Any, field: str = "") -> Any:
    """Drop nulls (but keep a map's keys) and make a lone word a list."""
    if isinstance(value, dict):
        if field in _MAPS and "Subnet" not in value:
            return {key: _tidy(item) for key, item in value.items()}
        return {key: _tidy(item, key) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if field in _WORDS and isinstance(value, str):
        return [value]
    return value


def _spelt(value: Any, kind: type[T]) -> Any:
    """Docker's server takes a field's name in any case; some clients count on it."""
    names = getattr(kind, "__struct_encode_fields__", None)
    if names is None or not isinstance(value, dict) or value.keys() <= set(names):
        return value
    exact = {name.lower(): name for name in names}
    return {key if key in names else exact.get(key.lower(), key): item for key, item in value.items()}


def decode(kind: type[T], body: bytes) -> T:
    """Read a request's body; an empty one counts as {}. Raises InvalidArgument."""
    try:
        return msgspec.convert(_spelt(_tidy(msgspec.json.decode(body or b"{}")), kind), kind, strict=False)
    except RecursionError as error:
        raise InvalidArgument("The request's JSON body is nested too deeply for this call") from error
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"invalid JSON: {_plain(error, body)}") from error


def _plain(error: Exception, body: bytes) -> str:
    """What is wrong with a body; the commonest in the words that clients of other engines know."""
    words = str(error)
    if (found := _NO_KEY.fullmatch(words)) is not None:
        at = int(found[1])
        return f"invalid character {chr(body[at])!r} looking for beginning of object key string"
    return words.replace("JSON is malformed: trailing characters", "unexpected content after JSON")


def encode(value: object) -> bytes:
    """A response as JSON, with a line's end as Docker sends it."""
    return msgspec.json.encode(value) + b"\n"
