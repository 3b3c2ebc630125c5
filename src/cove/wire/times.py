"""Times as the API writes them: RFC 3339 with nanoseconds, and the forms of `since` and `until`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from cove.errors import InvalidArgument

ZERO = "0001-01-01T00:00:00Z"
"""What never happened, in the words of the API."""

_NS = 1_000_000_000
_UNIX = re.compile(r"(-?\d+)(?:\.(\d{1,9}))?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": _NS, "m": 60 * _NS, "h": 3600 * _NS}
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d)?))?(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)?")


def stamp(time_ns: int) -> str:
    """Nanoseconds of Unix time as RFC 3339 text, with nine digits; 0 or less never happened."""
    if time_ns <= 0:
        return ZERO
    seconds, fraction = divmod(time_ns, _NS)
    moment = time.gmtime(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{fraction:09d}Z"


def duration(length_ns: int) -> str:
    """A length of time as Go writes it: "50ms", "1.5s", "1m30s", "2h0m0s"."""
    if length_ns < _NS:
        unit, size = next(((word, _UNITS[word]) for word in ("ms", "µs") if length_ns >= _UNITS[word]), ("ns", 1))
        return f"{length_ns / size:g}{unit}" if length_ns else "0s"
    minutes, rest = divmod(length_ns, 60 * _NS)
    hours, minutes = divmod(minutes, 60)
    words = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{words}{rest / _NS:.9f}".rstrip("0").rstrip(".") + "s"


def moment(text: str, *, now_ns: int) -> int:
    """Nanoseconds of Unix time from "1700000000.5", RFC 3339, a date, or a duration before now."""
    if number := _UNIX.fullmatch(text):
        return int(number[1]) * _NS + int((number[2] or "").ljust(9, "0"))
    if written := _RFC3339.fullmatch(text):
        date, clock, fraction, zone = written.groups()
        clock = clock or "00:00:00"
        clock = clock if clock.count(":") == 2 else f"{clock}:00"
        zone = "+00:00" if zone in (None, "Z", "z") else zone
        try:
            whole = datetime.fromisoformat(f"{date}T{clock}{zone}").astimezone(UTC)
        except ValueError as error:
            raise InvalidArgument(f"{text!r} is not a time: {error}") from None
        return int(whole.timestamp()) * _NS + int((fraction or "").ljust(9, "0"))
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return now_ns - sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
    raise InvalidArgument(f"{text!r} is not a time; write Unix seconds, 2026-01-31T12:00:00Z or a duration like 10m")
