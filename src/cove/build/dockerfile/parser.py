"""Logical lines as instructions' parts: word, flags, arguments; still without any meaning.

COPY --from=build ["a b", "/c"]  ─▶  Node("COPY", flags=(from=build,), rest='["a b", "/c"]', listed=("a b", "/c"))
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cove.build.dockerfile.lexer import Heredoc, Line, Source
from cove.build.dockerfile.syntax import DockerfileError, Position

_WORD = re.compile(r"\S+")
_JSON = frozenset({"ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME"})
KNOWN = frozenset(
    (
        "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER "
        "VOLUME WORKDIR"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Flag:
    """`--name=value`; `value` None without an equals sign."""

    name: str
    value: str | None
    position: Position


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction, taken apart. `listed`: the JSON form, None for any other."""

    name: str
    written: str
    flags: tuple[Flag, ...]
    rest: str
    listed: tuple[str, ...] | None
    line: Line
    rest_at: int
    escape: str

    @property
    def position(self) -> Position:
        return self.line.position()

    @property
    def heredocs(self) -> tuple[Heredoc, ...]:
        return self.line.heredocs

    def at(self, offset: int = 0) -> Position:
        """Where in the file the character of `rest` is."""
        return self.line.position(self.rest_at + offset)


def parse(source: Source) -> Iterator[Node]:
    """Every instruction, one after the other; raises DockerfileError at the first unknown one."""
    for line in source.lines:
        yield node(line, source.escape)


def node(line: Line, escape: str) -> Node:
    """One line taken apart."""
    word = _WORD.match(line.text)
    assert word is not None
    name = word[0].upper()
    if name not in KNOWN:
        raise DockerfileError(f"unknown instruction: {word[0]}{_meant(name)}", line.position())
    offset = word.end()
    flags, offset = _flags(line, offset, escape)
    rest = line.text[offset:]
    if not rest and name not in ("CMD", "ENTRYPOINT", "RUN"):
        raise DockerfileError(f"{name} requires arguments, but none are there", line.position())
    if not rest and name == "RUN":
        raise DockerfileError("RUN requires a command", line.position())
    listed = json_list(rest, line.position(offset)) if name in _JSON else None
    return Node(name, word[0], flags, rest, listed, line, offset, escape)


def json_list(text: str, position: Position) -> tuple[str, ...] | None:
    """The words of the JSON form; None when it is none. A list of anything but strings is an error."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in found):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only", position)
    return tuple(found)


def _flags(line: Line, offset: int, escape: str) -> tuple[tuple[Flag, ...], int]:
    """The `--flags` in front of the arguments, and where those begin."""
    found: list[Flag] = []
    text = line.text
    while True:
        while offset < len(text) and text[offset].isspace():
            offset += 1
        if not text.startswith("--", offset):
            return tuple(found), offset
        begin = offset
        word, offset = _flag_word(text, offset, escape)
        if word == "--":
            while offset < len(text) and text[offset].isspace():
                offset += 1
            return tuple(found), offset
        name, equals, value = word[2:].partition("=")
        found.append(Flag(name, value if equals else None, line.position(begin)))


def _flag_word(text: str, offset: int, escape: str) -> tuple[str, int]:
    """A word whose quotes and escapes are resolved, but not its variables."""
    word = ""
    quote = ""
    while offset < len(text):
        char = text[offset]
        if char == escape and offset + 1 < len(text) and quote != "'":
            word += text[offset + 1]
            offset += 2
            continue
        if quote:
            if char == quote:
                quote = ""
            else:
                word += char
        elif char in "'\"":
            quote = char
        elif char.isspace():
            break
        else:
            word += char
        offset += 1
    return word, offset


def nearest(word: str, known: frozenset[str] | tuple[str, ...]) -> str:
    """The known word that was probably meant, "" when none is near."""
    import difflib

    found = difflib.get_close_matches(word, sorted(known), 1, 0.7)
    return found[0] if found else ""


def _meant(name: str) -> str:
    found = nearest(name, KNOWN)
    return f" (did you mean {found}?)" if found else ""
