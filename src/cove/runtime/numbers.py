"""Words and lists of numbers as a configuration writes them."""

from __future__ import annotations

from collections.abc import Mapping

from cove.runtime.child.common import Failure

_MOST = 1 << 16


def known(table: Mapping[str, int], name: str, what: str) -> int:
    """The number that `name` stands for; Failure lists those that there are."""
    if name not in table:
        raise Failure(f"invalid {what} {name!r}: it is one of {', '.join(table)}")
    return table[name]


def numbers(text: str, what: str) -> frozenset[int]:
    """A list like "0-3,7" (cpuset(7), "List format"); Failure when it is none."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdecimal() and (not dash or (last.isascii() and last.isdecimal()))):
            raise Failure(f"invalid {what} {text!r}: it is no list of numbers like 0-3,7")
        low, high = int(first), int(last or first)
        if not low <= high < _MOST:
            raise Failure(f"invalid {what} {text!r}: it is no list of numbers like 0-3,7")
        found.update(range(low, high + 1))
    return frozenset(found)
