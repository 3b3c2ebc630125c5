"""Words and variables, as a Dockerfile's instructions understand them.

    "${version:-1.0}-$arch"  with version unset, arch=amd64  ─▶  1.0-amd64

Not a shell: no command is run, no file name is matched. Operators (POSIX shell, 2.6.2, and two of bash):
`:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`. Patterns are the shell's `*` and `?`, after a backslash plain.
What the reference leaves open is as BuildKit does it: an escape at the very end is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cove.errors import InvalidArgument

_NAME = re.compile(r"\d+|[@*#?$!-]|\w+")
_OPERATORS = ("//", ":-", ":+", ":?", "#", "%", "/", "-", "+", "?")
_Piece = tuple[str, bool]
"""Some text, and whether its white space divides words."""


def split(text: str, escape: str = "\\") -> list[str]:
    """The words of a line with their quotes and escapes left as they are, but for an escape at the very end."""
    words: list[str] = []
    word = ""
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        if char == escape and quote != "'":
            word += text[position : position + 2] if position + 1 < len(text) else ""
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
    quotes: bool = True,
    unset: Callable[[str], None] = lambda _: None,
) -> str:
    """The text with its variables in place and without quotes; raises InvalidArgument.

    Without `quotes`, as in here-documents, they are characters like others. `unset` hears of names without a value.
    """
    pieces = _Expander(text, variables, escape, quotes, unset).pieces("", keep=False)
    return "".join(piece for piece, _ in pieces)


def expand_words(
    text: str, variables: Mapping[str, str], *, escape: str = "\\", unset: Callable[[str], None] = lambda _: None
) -> list[str]:
    """The words of the expanded text; what a variable brings without quotes around it is split too."""
    words = [""]
    for piece, divides in _Expander(text, variables, escape, True, unset).pieces("", keep=False):
        first, *others = re.split(r"\s+", piece) if divides else (piece,)
        words[-1] += first
        words += others
    return [word for word in words if word]


class _Expander:
    def __init__(
        self,
        text: str,
        variables: Mapping[str, str],
        escape: str,
        quotes: bool,
        unset: Callable[[str], None],
    ) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._quotes = quotes
        self._unset = unset
        self._at = 0

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def pieces(self, stop: str, *, keep: bool) -> list[_Piece]:
        """Up to the character `stop` outside of quotes, which is consumed; "" for the end. `keep` keeps escapes."""
        done: list[_Piece] = []
        while char := self._peek():
            if char == stop:
                self._at += 1
                return done
            if char == "'" and self._quotes:
                done.append((self._single(), False))
            elif char == '"' and self._quotes:
                done.append((self._double(keep=keep), False))
            elif char == "$":
                done.append((self._dollar(), True))
            elif char == self._escape:
                following = self._text[self._at + 1 : self._at + 2]
                done.append(((char if keep else "") + following, False))
                self._at += 2
            else:
                done.append((char, True))
                self._at += 1
        if stop:
            raise InvalidArgument(f"syntax error: missing '{stop}'")
        return done

    def _word(self, stop: str, *, keep: bool) -> str:
        return "".join(piece for piece, _ in self.pieces(stop, keep=keep))

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise InvalidArgument("unexpected end of statement while looking for matching single-quote")
        done, self._at = self._text[self._at + 1 : end], end + 1
        return done

    def _double(self, *, keep: bool) -> str:
        self._at += 1
        done = ""
        while (char := self._peek()) != '"':
            if not char:
                raise InvalidArgument("unexpected end of statement while looking for matching double-quote")
            if char == "$":
                done += self._dollar()
                continue
            following = self._text[self._at + 1 : self._at + 2]
            if char == self._escape and following in ('"', "$", self._escape):
                done += (char if keep else "") + following
                self._at += 2
            else:
                done += char
                self._at += 1
        self._at += 1
        return done

    # ── variables ─────────────────────────────────────────────────────────────────────────────────

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() == "{":
            self._at += 1
            return self._braced()
        name = self._name()
        return self._value(name) if name else "$"

    def _name(self) -> str:
        """A number, one of the shell's special parameters, or a word; "" for none of them."""
        match = _NAME.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _value(self, name: str) -> str:
        if name in self._variables:
            return self._variables[name]
        self._unset(name)
        return ""

    def _braced(self) -> str:
        if not self._peek():
            raise InvalidArgument("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise InvalidArgument(f"syntax error: bad substitution in ${{{self._text[self._at :][:40]}")
        name = self._name()
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
        if operator in ("#", "%"):
            return self._trim(name, operator)
        return self._choose(name, operator, self._word("}", keep=False))

    def _choose(self, name: str, operator: str, word: str) -> str:
        here = name in self._variables
        value = self._value(name)
        filled = bool(value) if operator.startswith(":") else here
        match operator[-1]:
            case "-":
                return value if filled else word
            case "+":
                return word if filled else ""
        if not filled:
            raise InvalidArgument(f"{name}: {word or 'is not allowed to be ' + ('empty' if here else 'unset')}")
        return value

    def _trim(self, name: str, operator: str) -> str:
        pattern = self._word("}", keep=True)
        longest = pattern.startswith(operator)
        value = self._value(name)
        compiled = re.compile(_pattern(pattern[longest:]), re.DOTALL)
        lengths = range(len(value), -1, -1) if longest else range(len(value) + 1)
        if operator == "#":
            return next((value[cut:] for cut in lengths if compiled.fullmatch(value, 0, cut)), value)
        whole = len(value)
        return next((value[: whole - cut] for cut in lengths if compiled.fullmatch(value, whole - cut)), value)

    def _replace(self, name: str, *, every: bool) -> str:
        pattern = _pattern(self._word("/", keep=True))
        replacement = self._word("}", keep=True)
        value = self._value(name)
        return re.sub(pattern, lambda _: replacement, value, count=0 if every else 1, flags=re.DOTALL)


def _pattern(text: str) -> str:
    """A shell pattern as a regular expression whose `*` are greedy; the caller chooses the length."""
    done = ""
    characters = iter(text)
    for char in characters:
        if char == "\\":
            char = next(characters, "")
            if not char or char not in "}/*?\\":
                raise InvalidArgument(f"invalid pattern ({text}) in substitution: invalid escape '\\{char}'")
            done += re.escape(char)
        else:
            done += {"*": ".*", "?": "."}.get(char) or re.escape(char)
    return done
