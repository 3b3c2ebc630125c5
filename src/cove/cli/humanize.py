"""Sizes, ages and dates in the words that people know from `docker`."""

from __future__ import annotations

import time

from cove.wire.spans import duration

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(count: float, *, digits: int = 3) -> str:
    """Bytes in powers of 1000: `187MB`."""
    return _scaled(count, 1000.0, _DECIMAL, digits)


def binary_size(count: float, *, digits: int = 4) -> str:
    """Bytes in powers of 1024: `23.54GiB`."""
    return _scaled(count, 1024.0, _BINARY, digits)


def _scaled(count: float, base: float, units: tuple[str, ...], digits: int) -> str:
    step = 0
    while abs(count) >= base and step < len(units) - 1:
        count /= base
        step += 1
    return f"{count:.{digits}g}{units[step]}"


def ago(moment: float) -> str:
    """How long ago a Unix time was: `2 minutes ago`; "N/A" for no time at all."""
    return f"{duration(max(0.0, time.time() - moment))} ago" if moment > 0 else "N/A"


def unix(text: str) -> float:
    """The Unix time of an RFC 3339 text with any number of decimals; 0 for none or year 1."""
    if not text or text.startswith("0001-"):
        return 0.0
    from calendar import timegm

    fraction, offset, body = 0.0, 0, text[:19]
    rest = text[19:]
    if rest.startswith("."):
        digits = len(rest[1:]) - len(rest[1:].lstrip("0123456789"))
        fraction, rest = float("0." + (rest[1 : 1 + digits] or "0")), rest[1 + digits :]
    if rest and rest[0] in "+-":
        hours, _, minutes = rest[1:].partition(":")
        offset = (int(hours) * 3600 + int(minutes or 0) * 60) * (1 if rest[0] == "+" else -1)
    return timegm(time.strptime(body, "%Y-%m-%dT%H:%M:%S")) - offset + fraction


def local(moment: float) -> str:
    """A Unix time as docker's lists write it: `2026-11-24 00:46:36 +0000 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(moment))


def nanosecond_time(seconds: int, nanoseconds: int) -> str:
    """Local time with nine decimals and the zone's offset, as event lines begin."""
    moment = time.localtime(seconds)
    zone = time.strftime("%z", moment)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{nanoseconds:09d}{zone}"
