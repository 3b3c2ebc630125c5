"""One pattern of `cove.patterns` as a regular expression: apart, because not every command pays for those. Pure.

Source: Go's filepath.Match, with the build documentation's "**".
"""

from __future__ import annotations

import re
from functools import lru_cache

from cove.errors import InvalidArgument


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> re.Pattern[str]:
    """A whole pattern, to be matched against a whole relative path; InvalidArgument when it is none."""
    done = ""
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            if pattern.startswith("*", position):
                position += 1
                if pattern.startswith("/", position):
                    position += 1
                    done += "(?:.*/)?"
                else:
                    done += ".*"
            else:
                done += "[^/]*"
        elif char == "?":
            done += "[^/]"
        elif char == "[":
            text, position = _class(pattern, position)
            done += text
        elif char == "\\":
            if position >= len(pattern):
                raise InvalidArgument(f"syntax error in pattern {pattern!r}: it ends with an escape")
            done += re.escape(pattern[position])
            position += 1
        else:
            done += re.escape(char)
    try:
        return re.compile(done, re.DOTALL)
    except re.error as error:
        raise InvalidArgument(f"syntax error in pattern {pattern!r}: {error}") from error


def _class(pattern: str, position: int) -> tuple[str, int]:
    end = pattern.find("]", position + 1)
    if end < 0:
        raise InvalidArgument(f"syntax error in pattern {pattern!r}: a [ is never closed")
    body = pattern[position:end]
    negated = body.startswith("^")
    inner = body[1:] if negated else body
    inner = inner.replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^").replace("&&", "&\\&")
    return f"(?!/)[{'^' if negated else ''}{inner}]", end + 1


def has_wildcard(path: str) -> bool:
    """Whether a source of COPY is a pattern."""
    return any(char in path for char in "*?[")
