"""File name patterns as `.dockerignore` and COPY write them. Pure; client and daemon share it.

    *      any characters but "/"            **    any number of directories
    ?      one character but "/"             [a-z] one of a class
    !p     (ignore files) what an earlier pattern left out comes back

Source: the build documentation, ".dockerignore files"; Go's filepath.Match.
"""

from __future__ import annotations

import posixpath

from cove.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterable


def parse_ignore(text: str) -> tuple[str, ...]:
    """The patterns of an ignore file, cleaned."""
    found = []
    for line in text.removeprefix("\ufeff").splitlines():
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        negated = pattern.startswith("!")
        body = pattern[1:].strip() if negated else pattern
        if body:
            body = posixpath.normpath(body)
            if len(body) > 1 and body.startswith("/"):
                body = body.lstrip("/")
        found.append(f"!{body}" if negated else body)
    return tuple(found)


class Ignore:
    """Decides what a context leaves out; the last pattern that fits decides."""

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = tuple(patterns)
        if "!" in patterns:
            raise InvalidArgument('illegal exclusion pattern: "!"')
        self._rules = [(p.startswith("!"), _compiled(p.removeprefix("!")), p) for p in patterns if p]
        self._exceptions = [p[1:] for negated, _, p in self._rules if negated]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excludes(self, path: str) -> bool:
        """Whether `path` (relative, "/" between names) is left out."""
        excluded = False
        for negated, pattern, _ in self._rules:
            if negated != excluded:
                continue
            if _matches(pattern, path):
                excluded = not negated
        return excluded

    def prunes(self, directory: str) -> bool:
        """Whether nothing below an excluded directory can come back, so that it need not be entered."""
        return not any(_may_lie_below(exception, directory) for exception in self._exceptions)


def _matches(pattern: re.Pattern[str], path: str) -> bool:
    """The path itself, or a directory that it lies in."""
    parts = path.split("/")
    return any(pattern.fullmatch("/".join(parts[:count])) for count in range(len(parts), 0, -1))


def _may_lie_below(exception: str, directory: str) -> bool:
    names, above = exception.split("/"), directory.split("/")
    for name, there in zip(names, above, strict=False):
        if name == "**":
            return True
        if not _compiled(name).fullmatch(there):
            return False
    return True


def _compiled(pattern: str) -> re.Pattern[str]:
    from cove.wildcards import matcher

    return matcher(pattern)
