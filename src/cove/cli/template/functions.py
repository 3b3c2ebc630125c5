"""The functions that a template may call, and how values are written, compared and judged."""

from __future__ import annotations

from cove.cli.template.lexer import TemplateError
from cove.client.codec import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def text(value: Any) -> str:
    """A value as Go prints it: `true`, `[a b]`, `map[k:v]`, `<no value>`."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        pairs = (f"{key}:{text(value[key])}" for key in sorted(value) if not callable(value[key]))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(text(one) for one in value)}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def true(value: Any) -> bool:
    """Whether `if` takes a value as true: not false, 0, empty or nothing."""
    return bool(value)


def json(value: Any) -> str:
    return encode(plain(value)).decode()


def plain(value: Any) -> Any:
    """A value without the methods that only templates can call, its keys in alphabetical order."""
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value) if not callable(value[key])}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        try:
            value = value.get(key) if isinstance(value, dict) else value[key]
        except (IndexError, TypeError, KeyError, AttributeError):
            raise TemplateError(f"the template's index {key!r} does not fit {text(value)}") from None
    return value


_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"}
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}
_JS |= {"\n": "\\u000A", "\t": "\\u0009", "\r": "\\u000D"}


def _escaped(values: tuple[Any, ...], how: dict[str, str]) -> str:
    return "".join(how.get(letter, letter) for value in values for letter in text(value))


def _urlquery(value: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(value)


def _printf(form: str, *values: Any) -> str:
    """Go's verbs as Python's: %v and %s write a value, %q quotes it, %d %x %f %t %% are as expected."""
    import re

    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match.group(1), match.group(2)
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        if verb in "vst":
            return str(f"%{flags}s" % text(value))
        if verb == "q":
            return '"' + text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
        return str(f"%{flags}{verb}" % value)

    try:
        return re.sub(r"%([-+# 0]*\d*(?:\.\d+)?)([a-zA-Z%])", one, form)
    except (TypeError, ValueError) as error:
        raise TemplateError(f"the template's printf {form!r} does not fit its values: {error}") from None


def _println(*values: Any) -> str:
    return " ".join(text(value) for value in values) + "\n"


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def checked(first: Any, second: Any) -> bool:
        try:
            return compare(first, second)
        except TypeError:
            raise TemplateError(f"the template compares {text(first)} with {text(second)}") from None

    return checked


def _and(*values: Any) -> Any:
    return next((value for value in values if not true(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if true(value)), values[-1])


def _slice(value: Any, *bounds: int) -> Any:
    return value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] if bounds else 0 :]


def _truncate(value: str, length: int) -> str:
    return value[:length]


def _pad(value: str, before: int, after: int) -> str:
    return " " * before + value + " " * after if value else value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": json,
    "index": _index,
    "len": len,
    "join": lambda values, separator: separator.join(text(value) for value in values or ()),
    "split": lambda value, separator: value.split(separator),
    "lower": lambda value: text(value).lower(),
    "upper": lambda value: text(value).upper(),
    "title": lambda value: text(value).title(),
    "pad": _pad,
    "truncate": _truncate,
    "slice": _slice,
    "print": lambda *values: "".join(text(value) for value in values),
    "printf": _printf,
    "println": _println,
    "eq": _equal,
    "ne": lambda first, second: first != second,
    "lt": _ordered(lambda first, second: bool(first < second)),
    "le": _ordered(lambda first, second: bool(first <= second)),
    "gt": _ordered(lambda first, second: bool(first > second)),
    "ge": _ordered(lambda first, second: bool(first >= second)),
    "and": _and,
    "or": _or,
    "not": lambda value: not true(value),
    "html": lambda *values: _escaped(values, _HTML),
    "js": lambda *values: _escaped(values, _JS),
    "urlquery": lambda *values: _urlquery("".join(map(text, values))),
}
