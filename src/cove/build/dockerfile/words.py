"""Words and variables, as a Dockerfile's instructions understand them.

    "${version:-1.0}-$arch"  with version unset, arch=amd64  ─▶  1.0-amd64

Not a shell: no command is run, no file name is matched. Operators (POSIX shell, 2.6.2, and two of bash):
`:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`. Patterns are the shell's: `*`, `?`, and the escape character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cove.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = frozenset("@*#?-$!0")
_OPERATORS = ("##", "%%", "//", ":-", ":+", ":?", "#", "%", "/", "-", "+", "?")


def split(text: str, escape: str = "\\") -> list[str]:
    """The words of a line with their quotes and escapes left as they are."""
    words: list[str] = []
    word = ""
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        if char == escape and quote != "'" and position + 1 < len(text):
            word += text[position : position + 2]
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if word:
                words.append(word)
            word = ""
            position += 1
            continue
        word += char
        position += 1
    return [*words, word] if word else words


def expand(
    text: str,
    variables: Mapping[str, str],
    *,
    escape: str = "\\",
    raw_quotes: bool = False,
    unset: Callable[[str], None] = lambda _: None,
) -> str:
    """The text with its variables in place and without quotes; raises InvalidArgument.

    `raw_quotes` keeps quotes and escapes, as in here-documents. `unset` hears of names without a value.
    """
    return _Expander(text, variables, escape, raw_quotes, unset).run()


def expand_words(
    text: str, variables: Mapping[str, str], *, escape: str = "\\", unset: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Each word expanded; what a variable brings without quotes around it is split again."""
    found: list[str] = []
    for word in split(text, escape):
        expanded = expand(word, variables, escape=escape, unset=unset)
        if word.startswith("$") and '"' not in word and "'" not in word:
            found += expanded.split()
        else:
            found.append(expanded)
    return found


class _Expander:
    def __init__(
        self,
        text: str,
        variables: Mapping[str, str],
        escape: str,
        raw: bool,
        unset: Callable[[str], None],
    ) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._raw = raw
        self._unset = unset
        self._at = 0

    def run(self) -> str:
        return self._until("")

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _until(self, stop: str) -> str:
        """Up to one of the characters in `stop` outside of quotes, which is not consumed."""
        done = ""
        while (char := self._peek()) and char not in stop:
            if char == "'" and not self._raw:
                done += self._single()
            elif char == '"' and not self._raw:
                done += self._double()
            elif char == "$":
                done += self._dollar()
            elif char == self._escape:
                done += self._escaped()
            else:
                done += char
                self._at += 1
        return done

    def _escaped(self) -> str:
        self._at += 1
        following = self._peek()
        if not following:
            return self._escape
        self._at += 1
        if self._raw and following not in (self._escape, "$"):
            return self._escape + following
        return following

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise InvalidArgument("unexpected end of statement while looking for matching single-quote")
        done, self._at = self._text[self._at + 1 : end], end + 1
        return done

    def _double(self) -> str:
        self._at += 1
        done = ""
        while (char := self._peek()) != '"':
            if not char:
                raise InvalidArgument("unexpected end of statement while looking for matching double-quote")
            if char == "$":
                done += self._dollar()
            elif char == self._escape:
                following = self._text[self._at + 1 : self._at + 2]
                if not following:
                    raise InvalidArgument("unexpected end of statement while looking for matching double-quote")
                done += following if following in ('"', "$", self._escape) else self._escape + following
                self._at += 2
            else:
                done += char
                self._at += 1
        self._at += 1
        return done

    def _dollar(self) -> str:
        self._at += 1
        char = self._peek()
        if char == "{":
            self._at += 1
            return self._braced()
        name = self._name()
        return self._value(name) if name else "$"

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        if match is None:
            char = self._peek()
            if char.isdigit() or (char in _SPECIAL and char):
                self._at += 1
                return char
            return ""
        self._at = match.end()
        return match[0]

    def _value(self, name: str) -> str:
        if name in self._variables:
            return self._variables[name]
        self._unset(name)
        return ""

    def _braced(self) -> str:
        begin = self._at
        name = self._name()
        if not name:
            raise InvalidArgument(f"unsupported or bad substitution in ${{{self._text[begin:][:40]}")
        if self._peek() == "}":
            self._at += 1
            return self._value(name)
        operator = next((each for each in _OPERATORS if self._text.startswith(each, self._at)), "")
        if not operator:
            if not self._peek():
                raise InvalidArgument("syntax error: missing '}'")
            raise InvalidArgument(f"unsupported modifier ({self._text[self._at : self._at + 2]}) in substitution")
        self._at += len(operator)
        if operator in ("/", "//"):
            return self._replace(name, every=operator == "//")
        word = self._pattern("}") if operator in ("#", "##", "%", "%%") else self._until("}")
        self._close()
        return self._apply(name, operator, word)

    def _close(self) -> None:
        if self._peek() != "}":
            raise InvalidArgument("syntax error: missing '}'")
        self._at += 1

    def _apply(self, name: str, operator: str, word: str) -> str:
        here = name in self._variables
        value = self._variables.get(name, "")
        filled = bool(value) if operator.startswith(":") else here
        match operator[-1]:
            case "-":
                return value if filled else word
            case "+":
                return word if filled else ""
            case "?":
                if not filled:
                    raise InvalidArgument(f"{name}: {word or 'not allowed to be unset'}")
                return value
            case "#":
                self._told(name)
                return _without_prefix(value, word, longest=operator == "##")
        self._told(name)
        return _without_suffix(value, word, longest=operator == "%%")

    def _told(self, name: str) -> None:
        if name not in self._variables:
            self._unset(name)

    def _replace(self, name: str, *, every: bool) -> str:
        pattern = self._pattern("/}")
        replacement = ""
        if self._peek() == "/":
            self._at += 1
            replacement = self._until("}")
        self._close()
        value = self._value(name)
        if not pattern:
            return value
        return re.sub(pattern, lambda _: replacement, value, count=0 if every else 1, flags=re.DOTALL)

    def _pattern(self, stop: str) -> str:
        """A shell pattern as a regular expression; `?` and `*` match greedily, the caller chooses the length."""
        done = ""
        while (char := self._peek()) and char not in stop:
            self._at += 1
            if char == self._escape and self._peek():
                done += re.escape(self._peek())
                self._at += 1
            elif char == "*":
                done += ".*"
            elif char == "?":
                done += "."
            elif char == "$":
                self._at -= 1
                done += re.escape(self._dollar())
            elif char in "'\"":
                self._at -= 1
                done += re.escape(self._single() if char == "'" else self._double())
            else:
                done += re.escape(char)
        return done


def _without_prefix(value: str, pattern: str, *, longest: bool) -> str:
    ends = range(len(value), -1, -1) if longest else range(len(value) + 1)
    compiled = re.compile(pattern, re.DOTALL)
    return next((value[end:] for end in ends if compiled.fullmatch(value, 0, end)), value)


def _without_suffix(value: str, pattern: str, *, longest: bool) -> str:
    starts = range(len(value) + 1) if longest else range(len(value), -1, -1)
    compiled = re.compile(pattern, re.DOTALL)
    return next((value[:start] for start in starts if compiled.fullmatch(value, start)), value)
