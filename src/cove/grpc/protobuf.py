"""Protocol buffers' wire format for frozen values: a field's number stands in its type.

    class Stat(Message, frozen=True):
        path: Annotated[str, 1] = ""
        xattrs: Annotated[dict[str, bytes], 10] = {}

int (varint, signed where it is negative) · bool · str · bytes · a Message · tuple[…, ...] repeated · dict a map.
Fields that nobody declared are skipped; what has its default is not written (proto3). A field of a oneof, and one
that may be missing, is `X | None`. Text that is no UTF-8 keeps its bytes (surrogateescape): file names have them.
Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from cove.errors import InvalidArgument

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIGN, _WHOLE = 1 << 63, 1 << 64
_DEEPEST = 40


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages."""


M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class _Field:
    """One field: `shape` is "one", "many" or "map"; `kind` the type of a value, `key` of a map's keys."""

    name: str
    number: int
    shape: str
    kind: type
    key: type = str
    default: Any = None

    @property
    def wire(self) -> int:
        return _VARINT if self.kind in (int, bool) else _BYTES


@cache
def _fields(kind: type[Message]) -> dict[int, _Field]:
    hints = get_type_hints(kind, include_extras=True)
    defaults = dict(zip(kind.__struct_fields__[::-1], kind.__struct_defaults__[::-1], strict=False))
    found: dict[int, _Field] = {}
    for name, hint in hints.items():
        if get_origin(hint) is not Annotated:
            continue
        inner, number = get_args(hint)[:2]
        found[number] = _field(name, number, inner, defaults.get(name))
    return found


def _field(name: str, number: int, hint: Any, default: Any) -> _Field:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        hint = next(each for each in inside if each is not type(None))
        return _Field(name, number, "one", hint, default=default)
    if origin is tuple:
        return _Field(name, number, "many", inside[0])
    if origin is dict:
        return _Field(name, number, "map", inside[1], inside[0])
    return _Field(name, number, "one", hint, default=default)


# ── bytes to values ───────────────────────────────────────────────────────────────────────────────


def decode(kind: type[M], data: bytes, _depth: int = 0) -> M:
    """A message out of its bytes. Raises InvalidArgument for what is none."""
    if _depth > _DEEPEST:
        raise InvalidArgument(f"the message {kind.__name__} is nested too deeply")
    fields = _fields(kind)
    values: dict[str, Any] = {}
    position, end = 0, len(data)
    try:
        while position < end:
            tag, position = _varint(data, position)
            wire = tag & 7
            raw: Any = None
            if wire == _VARINT:
                raw, position = _varint(data, position)
            elif wire == _BYTES:
                length, position = _varint(data, position)
                raw = data[position : position + length]
                position += length
            elif wire in (_FIXED64, _FIXED32):
                position += 8 if wire == _FIXED64 else 4
            else:
                raise InvalidArgument(f"the message {kind.__name__} has the unknown wire type {wire}")
            if position > end:
                raise InvalidArgument(f"the message {kind.__name__} is cut off")
            field = fields.get(tag >> 3)
            if field is not None:
                _take(values, field, wire, raw, _depth)
    except IndexError:
        raise InvalidArgument(f"the message {kind.__name__} is cut off") from None
    for name, value in values.items():
        if type(value) is list:
            values[name] = tuple(value)
    return kind(**values)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    number, shift = byte & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (_WHOLE - 1), position
        shift += 7
        if shift > 63:
            raise InvalidArgument("a number of the message has too many bytes")


def _take(values: dict[str, Any], field: _Field, wire: int, raw: Any, depth: int) -> None:
    if field.shape == "map":
        values.setdefault(field.name, {}).update((_entry(field, raw, depth),))
    elif field.shape == "many":
        into = values.setdefault(field.name, [])
        if field.wire == _VARINT and wire == _BYTES:
            into.extend(_packed(field.kind, raw))
        else:
            into.append(_value(field.kind, wire, raw, depth))
    else:
        values[field.name] = _value(field.kind, wire, raw, depth)


def _value(kind: type, wire: int, raw: Any, depth: int) -> Any:
    if kind is int or kind is bool:
        if wire != _VARINT:
            raise InvalidArgument("a number of the message has another wire type")
        return bool(raw) if kind is bool else raw - _WHOLE if raw >= _SIGN else raw
    if wire != _BYTES:
        raise InvalidArgument("a text of the message has another wire type")
    if kind is bytes:
        return raw
    if kind is str:
        return raw.decode("utf-8", "surrogateescape")
    return decode(kind, raw, depth + 1)


def _packed(kind: type, raw: bytes) -> list[Any]:
    found, position = [], 0
    while position < len(raw):
        number, position = _varint(raw, position)
        found.append(_value(kind, _VARINT, number, 0))
    return found


def _entry(field: _Field, raw: bytes, depth: int) -> tuple[Any, Any]:
    """One pair of a map: a message of its own, key 1 and value 2."""
    parts: dict[int, tuple[int, Any]] = {}
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        if tag & 7 == _VARINT:
            value, position = _varint(raw, position)
            parts[tag >> 3] = (_VARINT, value)
        elif tag & 7 == _BYTES:
            length, position = _varint(raw, position)
            parts[tag >> 3] = (_BYTES, raw[position : position + length])
            position += length
        else:
            raise InvalidArgument("a map of the message has an unknown wire type")
    number = field.key is int
    key = _value(field.key, *parts.get(1, (_VARINT, 0) if number else (_BYTES, b"")), depth)
    return key, _value(field.kind, *parts.get(2, (field.wire, 0 if field.wire == _VARINT else b"")), depth)


# ── values to bytes ───────────────────────────────────────────────────────────────────────────────


def encode(message: Message) -> bytes:
    """The bytes of a message; maps in the order of their keys, so that equal values give equal bytes."""
    out = bytearray()
    for number, field in _fields(type(message)).items():
        value = getattr(message, field.name)
        if field.shape == "one":
            if value is None or value == field.default:
                continue
            _write(out, number, field, value)
        elif field.shape == "many":
            for each in value:
                _write(out, number, field, each)
        else:
            for key in sorted(value):
                pair = bytearray()
                _write(pair, 1, _Field("", 1, "one", field.key), key)
                _write(pair, 2, field, value[key])
                _length(out, number, pair)
    return bytes(out)


def _write(out: bytearray, number: int, field: _Field, value: Any) -> None:
    if field.wire == _VARINT:
        _put(out, number << 3 | _VARINT)
        _put(out, int(value) % _WHOLE)
    else:
        _length(out, number, _WRITERS.get(field.kind, encode)(value))


def _length(out: bytearray, number: int, data: bytes | bytearray) -> None:
    _put(out, number << 3 | _BYTES)
    _put(out, len(data))
    out += data


def _put(out: bytearray, number: int) -> None:
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    bytes: bytes,
    str: lambda text: text.encode("utf-8", "surrogateescape"),
}
