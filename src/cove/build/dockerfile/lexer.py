"""A Dockerfile's bytes as logical lines: directives, comments, continuations and here-documents.

    # escape=`            parser directives, only above everything else
    RUN one \\            a trailing escape character joins the next line
    # a comment           left out, also in the middle of joined lines
        two <<EOF         here-documents follow their line
    text
    EOF

Owns positions: every offset of a logical line knows its line and column in the file (both from 1).
Source: the Dockerfile reference, "Parser directives", "Here-Documents"; what it leaves open is as BuildKit does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cove.build.dockerfile.syntax import DockerfileError, Position

_DIRECTIVE = re.compile(r"#[ \t]*([a-zA-Z][a-zA-Z0-9]*)[ \t]*=[ \t]*(.+?)[ \t]*")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]+)")
_WITH_HEREDOCS = re.compile(r"(?:ONBUILD\s+)*(?:ADD|COPY|RUN)\b", re.IGNORECASE)
_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`<<NAME … NAME`: `expand` is false when the name was quoted, `chomp` true for `<<-` (leading tabs go)."""

    name: str
    content: str
    expand: bool
    chomp: bool
    fd: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line. `starts` are (offset in `text`, line, column) of its physical pieces.

    `comments` stand above it; `blank_continuation` is its last line when blank lines are among the joined ones.
    """

    text: str
    starts: tuple[tuple[int, int, int], ...]
    end: int
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()
    blank_continuation: int = 0

    def position(self, offset: int = 0) -> Position:
        """Where the character at `offset` stands in the file."""
        at, line, column = self.starts[0]
        for start in self.starts:
            if start[0] > offset:
                break
            at, line, column = start
        return Position(line, column + max(0, offset - at))


@dataclass(frozen=True, slots=True)
class Source:
    """A whole file."""

    lines: tuple[Line, ...]
    directives: dict[str, str]
    escape: str


def read(raw: bytes) -> Source:
    """The logical lines; raises DockerfileError."""
    if len(raw) > _MAX_BYTES:
        raise DockerfileError(f"the Dockerfile has {len(raw)} bytes, more than the {_MAX_BYTES} allowed")
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    physical = text.split("\n")
    if not physical[-1]:
        physical.pop()
    directives, escape, above = _directives(physical)
    return Source(tuple(_logical(physical, escape, above)), directives, escape)


def _directives(physical: list[str]) -> tuple[dict[str, str], str, int]:
    """Those at the very top, the escape character, and how many lines they take; the first other line ends them."""
    found: dict[str, str] = {}
    last = 0
    for number, line in enumerate(physical, 1):
        if number == 1 and line.startswith("#!"):
            continue
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None or (name := match[1].lower()) not in _DIRECTIVES:
            break
        if name in found:
            raise DockerfileError(f"only one {name} parser directive can be used", Position(number, 1))
        found[name] = match[2]
        last = number
    escape = found.get("escape", "\\")
    if escape not in ("\\", "`"):
        raise DockerfileError(f"invalid escape token '{escape}' does not match ` or \\", Position(1, 1))
    return found, escape, last


def _logical(physical: list[str], escape: str, above: int) -> Iterator[Line]:
    continued = re.compile(rf"(?:^|[^{re.escape(escape)}])({re.escape(escape)})[ \t]*$")
    comments: list[str] = []
    position = 0
    while position < len(physical):
        line = physical[position].rstrip("\r")
        position += 1
        stripped = line.lstrip()
        if not stripped or position <= above:
            continue
        if stripped.startswith("#"):
            comments = [*comments, stripped[1:].strip()] if stripped[1:].strip() else []
            continue
        joined = _Joined(position, line)
        while (match := continued.search(joined.last)) is not None:
            joined.cut(match.start(1))
            position = joined.extend(physical, position)
            if joined.ended:
                break
        text = joined.text.rstrip()
        blank = position if joined.skipped else 0
        heredocs, position = _heredocs(text, physical, position, joined.first)
        yield Line(text, tuple(joined.starts), position, heredocs, tuple(comments), blank)
        comments = []


class _Joined:
    """Physical lines on their way to one logical line."""

    def __init__(self, number: int, line: str) -> None:
        stripped = line.lstrip()
        self.first = number
        self.text = stripped
        self.last = stripped
        self.starts = [(0, number, len(line) - len(stripped) + 1)]
        self.skipped = False
        self.ended = False

    def cut(self, at: int) -> None:
        """Take away the escape character at offset `at` of the last piece, and what follows it."""
        self.text = self.text[: len(self.text) - len(self.last) + at]

    def extend(self, physical: list[str], position: int) -> int:
        """Join the next line that is neither comment nor blank; the position behind it."""
        while position < len(physical):
            line = physical[position].rstrip("\r")
            position += 1
            stripped = line.strip()
            if stripped.startswith("#"):
                continue
            if not stripped:
                self.skipped = True
                continue
            self.starts.append((len(self.text), position, 1))
            self.text += line
            self.last = line
            return position
        self.ended = True
        return position


def _heredocs(text: str, physical: list[str], position: int, first: int) -> tuple[tuple[Heredoc, ...], int]:
    """The here-documents that a line announces, and the position behind the last one."""
    if "<<" not in text or not _WITH_HEREDOCS.match(text):
        return (), position
    found = []
    for word in heredoc_words(text):
        name, expand = unquoted(word[3])
        content: list[str] = []
        while True:
            if position >= len(physical):
                raise DockerfileError(f"unterminated heredoc: {name} is never closed", Position(first, 1))
            line = physical[position]
            position += 1
            plain = line.lstrip("\t") if word[2] else line
            if plain.rstrip("\r") == name:
                break
            content.append(plain + "\n")
        found.append(Heredoc(name, "".join(content), expand, bool(word[2]), word[1]))
    return tuple(found), position


def heredoc_words(text: str) -> list[re.Match[str]]:
    """The words of a line that announce here-documents: `3<<-"NAME"`, also `<< NAME`."""
    from cove.build.dockerfile.words import split

    words = split(re.sub(r"<<(-?)[ \t\r]+", r"<<\1", text))
    return [match for word in words if (match := _HEREDOC.fullmatch(word)) and unquoted(match[3])[0]]


def unquoted(word: str) -> tuple[str, bool]:
    """The closing name that `word` spells, and whether variables are expanded (it has no quotes)."""
    plain = word.replace('"', "").replace("'", "")
    if plain != word:
        return plain, False
    return word.replace("\\", ""), True
