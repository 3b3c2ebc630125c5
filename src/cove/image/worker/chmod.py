"""COPY's --chmod: how a source's mode becomes the copy's. Source: chmod(1), without a umask."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable

from cove.errors import InvalidArgument

_SYMBOLIC = re.compile(r"([ugoa]*)([=+-])([rwxXst]*)")


def mode_rule(text: str) -> Callable[[int], int]:
    """How a source's mode becomes the copy's."""
    if not text:
        return stat.S_IMODE
    if re.fullmatch(r"[0-7]{1,4}", text):
        mode = int(text, 8)
        return lambda _: mode
    clauses = [_SYMBOLIC.fullmatch(clause) for clause in text.split(",")]
    if not all(clauses):
        raise InvalidArgument(f"invalid --chmod {text!r}: write an octal number like 0755, or u=rwX,go=rX")

    def rule(mode: int) -> int:
        directory, mode = stat.S_ISDIR(mode), stat.S_IMODE(mode)
        for clause in clauses:
            assert clause is not None
            mode = _symbolic(mode, clause[1], clause[2], clause[3], directory)
        return mode

    return rule


def _symbolic(mode: int, who: str, sign: str, letters: str, directory: bool) -> int:
    """chmod(1)'s symbolic modes, without a umask."""
    classes = [{"u": 6, "g": 3, "o": 0}[each] for each in ("ugo" if not who or "a" in who else who)]
    bits = sum({"r": 4, "w": 2, "x": 1}.get(each, 0) for each in set(letters))
    if "X" in letters and (directory or mode & 0o111):
        bits |= 1
    changed = sum(bits << shift for shift in classes)
    if "s" in letters:
        changed |= (0o4000 if 6 in classes else 0) | (0o2000 if 3 in classes else 0)
    if "t" in letters:
        changed |= 0o1000
    if sign == "+":
        return mode | changed
    if sign == "-":
        return mode & ~changed
    return (mode & ~sum(7 << shift for shift in classes)) | changed
