"""Templates cut into text and the tokens between `{{` and `}}`.

`{{-` and `-}}` trim the white space beside them; `{{/* */}}` is a comment.
"""

from __future__ import annotations

import re

from cove.cli.flags import UsageError


class TemplateError(UsageError):
    """The template cannot be read, or does not fit the value."""


class Token:
    """`kind` is text, open (the start of an action), close, or the class of a word inside one."""

    __slots__ = ("kind", "text")

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text


_WORD = re.compile(
    r"""\s*(?:
      (?P<string>"(?:\\.|[^"\\])*")
    | (?P<raw>`[^`]*`)
    | (?P<char>'(?:\\.|[^'\\])')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?))
    | (?P<assign>:=|=)
    | (?P<variable>\$\w*)
    | (?P<field>\.\w+)
    | (?P<dot>\.)
    | (?P<name>\w+)
    | (?P<punctuation>[|(),])
    )""",
    re.VERBOSE,
)


def tokens(source: str) -> list[Token]:
    """All tokens of a template; raises TemplateError with the place."""
    found: list[Token] = []
    at, trim = 0, False
    while (start := source.find("{{", at)) >= 0:
        text = source[at:start]
        found.append(Token("text", text.lstrip() if trim else text))
        end = _end(source, start)
        inside = source[start + 2 : end]
        if inside.startswith("-") and inside[1:2].isspace():
            found[-1].text = found[-1].text.rstrip()
            inside = inside[1:]
        trim = inside.endswith("-") and inside[-2:-1].isspace()
        inside = inside[:-1] if trim else inside
        at = end + 2
        if inside.strip().startswith("/*"):
            continue
        found += [Token("open", ""), *_words(inside), Token("close", "")]
    text = source[at:]
    found.append(Token("text", text.lstrip() if trim else text))
    return found


def _end(source: str, start: int) -> int:
    """Where the action's `}}` is, quotes respected."""
    at, quote = start + 2, ""
    while at < len(source):
        letter = source[at]
        if quote:
            if letter == "\\" and quote != "`":
                at += 1
            elif letter == quote:
                quote = ""
        elif letter in '"`':
            quote = letter
        elif source.startswith("}}", at):
            return at
        at += 1
    raise TemplateError(f"the template {source!r} has a {{{{ without its }}}}")


def _words(inside: str) -> list[Token]:
    found, at = [], 0
    while inside[at:].strip():
        match = _WORD.match(inside, at)
        if match is None:
            raise TemplateError(f"the template has something unreadable at {inside[at:].strip()!r}")
        kind = match.lastgroup or ""
        text = match.group(kind)
        # `.a.b` is one path; `x .a` is two words: white space tells them apart.
        if kind == "field" and match.start(kind) == at and at > 0:
            kind = "chained"
        found.append(Token(kind, text))
        at = match.end()
    return found
