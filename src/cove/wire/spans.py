"""Spans of time in people's words. Pure, and without any import: the commands load it on their way."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A span of time: `2 minutes`, `About an hour`, `3 weeks`."""
    whole = int(seconds)
    minutes, hours = whole // 60, round(seconds / 3600)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for limit, unit, name in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if hours < 24 * limit:
            return f"{hours // 24 // unit} {name}"
    return f"{hours // 24 // 365} years"
