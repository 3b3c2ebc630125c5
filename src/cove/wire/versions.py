"""The versions of the Engine API that are spoken."""

from __future__ import annotations

Version = tuple[int, int]

CURRENT: Version = (1, 56)
MINIMUM: Version = (1, 24)


def dotted(version: Version) -> str:
    """(1, 56) as "1.56"."""
    return f"{version[0]}.{version[1]}"
