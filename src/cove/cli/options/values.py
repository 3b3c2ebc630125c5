"""Values that flags carry: sizes, times, pairs, lines of a file. Pure but for the files read."""

from __future__ import annotations

import os

from cove.cli.flags import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_POWERS = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def size(text: str, flag: str) -> int:
    """Bytes of `512`, `64k`, `1.5g`, `2GiB`: powers of 1024, as docker reads them. `-1` stays -1."""
    if text == "-1":
        return -1
    word = text.strip().lower().removesuffix("ib")
    if len(word) > 1 and word.endswith("b") and not word[-2].isdigit():
        word = word[:-1]
    power = _POWERS.get(word[-1:], 0)
    number = word[:-1] if word[-1:] in _POWERS else word
    try:
        count = float(number)
        if count < 0:
            raise ValueError
        return int(count * 1024**power)
    except (ValueError, OverflowError):
        raise UsageError(f"the value {text!r} of --{flag} is not a size such as 512m or 2g") from None


def nanoseconds(text: str, flag: str) -> int:
    """Nanoseconds of `30s`, `1m30s`, `500ms`."""
    total, rest = 0.0, text.strip()
    if rest == "0":
        return 0
    try:
        while rest:
            digits = len(rest) - len(rest.lstrip("0123456789."))
            number, rest = float(rest[:digits]), rest[digits:]
            unit = rest[:2] if rest[:2] in _SECONDS else rest[:1]
            total += number * _SECONDS[unit]
            rest = rest[len(unit) :]
        return round(total * 1e9)
    except (ValueError, KeyError):
        raise UsageError(f"the value {text!r} of --{flag} is not a time such as 30s or 1m30s") from None


def seconds(text: str, flag: str) -> float:
    return nanoseconds(text, flag) / 1e9


def pairs(texts: Iterable[str], flag: str, separator: str = "=") -> dict[str, str]:
    """`key=value` texts; a key is needed, a value is not."""
    found = {}
    for text in texts:
        key, _, value = text.partition(separator)
        if not key:
            raise UsageError(f"the value {text!r} of --{flag} has no name before the {separator!r}")
        found[key] = value
    return found


def environment(texts: Iterable[str], files: Iterable[str]) -> list[str]:
    """NAME=value from files, then from flags. A bare NAME takes the caller's own value.

    Where the caller has none either, a NAME in a file says nothing, and one in a flag takes the
    variable away that the image may set.
    """
    from_files = [line for path in files for line in lines(path, "env-file")]
    kept = [line for line in from_files if "=" in line or line in os.environ]
    result = []
    for entry in [*kept, *texts]:
        name, equals, _ = entry.partition("=")
        if not name or (name != name.strip() and not equals):
            raise UsageError(f"{entry!r} is no environment variable; write NAME=value or NAME")
        if equals:
            result.append(entry)
        elif name in os.environ:
            result.append(f"{name}={os.environ[name]}")
        else:
            result.append(name)
    return result


def lines(path: str, flag: str) -> list[str]:
    """The lines of a file of NAME=value, without comments and blank ones."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            found = [line.rstrip("\r\n").lstrip() for line in file]
    except UnicodeDecodeError:
        raise UsageError(f"the file {path} of --{flag} is not UTF-8 text") from None
    found = [line for line in found if line and not line.startswith("#")]
    for line in found:
        name = line.partition("=")[0]
        if not name or " " in name or "\t" in name:
            raise UsageError(f"the file {path} of --{flag} has a line whose name is empty or has blanks: {line!r}")
    return found


def comma_fields(text: str, flag: str) -> dict[str, str]:
    """`a=1,b,"c=x,y"` as {a: 1, b: "", c: "x,y"}: a line of comma-separated values, as in --mount."""
    fields: list[str] = []
    field, quoted = "", False
    for letter in text:
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            fields.append(field)
            field = ""
        else:
            field += letter
    fields.append(field)
    if quoted:
        raise UsageError(f"the value {text!r} of --{flag} has a quote that is never closed")
    return pairs(fields, flag)


def truth(text: str, flag: str) -> bool:
    """A field that is on when it is bare: `readonly`, `readonly=true`."""
    if text.lower() in {"", "1", "t", "true"}:
        return True
    if text.lower() in {"0", "f", "false"}:
        return False
    raise UsageError(f"the value {text!r} in --{flag} is neither true nor false")
