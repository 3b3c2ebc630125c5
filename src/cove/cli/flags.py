"""A verb's flags and arguments: their description, their parsing, their values.

The syntax is the one people know from `docker`:

    --flag=value  --flag value  -f value  -fvalue  -f=value  -itd (a cluster)  --bool=false
    -- ends the flags; where a verb takes a program to run, so does its first argument

A flag of kind "list" or "map" may come again and again; of any other kind, the last counts.
This module knows no verb and prints nothing. It exists because `argparse` costs as much as
the interpreter's start and reads `-p80:80` and clusters its own way.
"""

from __future__ import annotations

from cove.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Runner = Callable[["Call"], int]

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class UsageError(InvalidArgument):
    """The command line itself is wrong; nothing was done."""


class Flag:
    """One flag. `kind` is bool, string, int, float, list or map; `hint` names its value in help."""

    __slots__ = ("default", "help", "hint", "kind", "name", "short")

    def __init__(
        self, name: str, help: str, kind: str = "string", *, short: str = "", hint: str = "", default: str = ""
    ) -> None:
        self.name = name
        self.help = help
        self.kind = kind
        self.short = short
        self.hint = hint or ("" if kind == "bool" else kind)
        self.default = default


class Verb:
    """What a verb takes and the function that does it.

    `least` and `most` bound the number of arguments (`most` None: any number). `program`
    says that the arguments end in a program with flags of its own; `verbatim`, that the verb
    reads every word itself. `failure` is the exit
    code of an error that is not a program's: 125 where a program runs, 1 elsewhere.
    """

    __slots__ = ("arguments", "failure", "flags", "least", "most", "notes", "program", "run", "summary", "verbatim")

    def __init__(
        self,
        run: Runner,
        summary: str,
        arguments: str = "",
        flags: Sequence[Flag] = (),
        *,
        least: int = 0,
        most: int | None = 0,
        program: bool = False,
        verbatim: bool = False,
        failure: int = 1,
        notes: str = "",
    ) -> None:
        self.run = run
        self.summary = summary
        self.arguments = arguments
        self.flags = flags
        self.least = least
        self.most = most
        self.program = program
        self.verbatim = verbatim
        self.failure = failure
        self.notes = notes


class Call:
    """One use of a verb: its flags' values and its arguments."""

    __slots__ = ("_flags", "_values", "arguments", "host", "name")

    def __init__(self, name: str, flags: Sequence[Flag], host: str) -> None:
        self.name = name
        self.host = host
        """The daemon's address from the global -H flag, or ""."""
        self.arguments: list[str] = []
        self._flags = {flag.name: flag for flag in flags}
        self._values: dict[str, list[str]] = {}

    def add(self, flag: Flag, text: str) -> None:
        _check(flag, text)
        self._values.setdefault(flag.name, []).append(text)

    def given(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str:
        values = self._values.get(name)
        return values[-1] if values else self._flags[name].default

    def flag(self, name: str) -> bool:
        return self.text(name) in _TRUE

    def number(self, name: str) -> int:
        return int(self.text(name) or "0")

    def decimal(self, name: str) -> float:
        return float(self.text(name) or "0")

    def list(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def map(self, name: str) -> dict[str, str]:
        """`key=value` texts as a dictionary; a bare key has the value ""."""
        pairs = (text.partition("=") for text in self._values.get(name, ()))
        return {key: value for key, _, value in pairs}


def parse(name: str, verb: Verb, words: Sequence[str], *, host: str = "") -> Call | None:
    """Read a verb's words; None when they ask for help. Raises UsageError."""
    call = Call(name, verb.flags, host)
    if verb.verbatim:
        call.arguments += words
        return call
    long = {flag.name: flag for flag in verb.flags}
    short = {flag.short: flag for flag in verb.flags if flag.short}
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            call.arguments += words[at:]
            break
        if not word.startswith("-") or word == "-":
            call.arguments.append(word)
            if verb.program:
                call.arguments += words[at:]
                break
        elif word == "--help" or (word == "-h" and "h" not in short):
            return None
        elif word.startswith("--"):
            at = _long(call, long, word, words, at)
        else:
            at = _cluster(call, short, word, words, at)
    _count(call, verb)
    return call


def _long(call: Call, flags: dict[str, Flag], word: str, words: Sequence[str], at: int) -> int:
    name, equals, value = word[2:].partition("=")
    flag = flags.get(name)
    if flag is None:
        raise UsageError(f"cove {call.name} has no flag --{name}{_unknown(name, flags)}")
    if equals:
        call.add(flag, value)
    elif flag.kind == "bool":
        call.add(flag, "true")
    else:
        if at >= len(words):
            raise UsageError(f"the flag --{name} needs a value: --{name} {flag.hint.upper()}")
        call.add(flag, words[at])
        at += 1
    return at


def _cluster(call: Call, flags: dict[str, Flag], word: str, words: Sequence[str], at: int) -> int:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = flags.get(letter)
        if flag is None:
            raise UsageError(f"cove {call.name} has no flag -{letter} (in {word}); see: cove {call.name} --help")
        if flag.kind == "bool":
            if letters.startswith("="):
                call.add(flag, letters[1:])
                return at
            call.add(flag, "true")
            continue
        if letters:
            call.add(flag, letters.removeprefix("="))
            return at
        if at >= len(words):
            raise UsageError(f"the flag -{letter} needs a value: --{flag.name} {flag.hint.upper()}")
        call.add(flag, words[at])
        return at + 1
    return at


def _check(flag: Flag, text: str) -> None:
    """Refuse a text that cannot be a value of the flag's kind."""
    try:
        if flag.kind == "int":
            int(text)
        elif flag.kind == "float":
            float(text)
        elif flag.kind == "bool" and text not in _TRUE and text not in _FALSE:
            raise ValueError
    except ValueError:
        wanted = {"int": "a whole number", "float": "a number", "bool": "true or false"}[flag.kind]
        raise UsageError(f"the value {text!r} of --{flag.name} is not {wanted}") from None


def _count(call: Call, verb: Verb) -> None:
    found = len(call.arguments)
    usage = f"usage: cove {call.name} {'[OPTIONS] ' if verb.flags else ''}{verb.arguments}".rstrip()
    if found < verb.least:
        wanted = "an argument" if verb.least == 1 else f"{verb.least} arguments"
        raise UsageError(f"cove {call.name} needs {'' if verb.least == verb.most else 'at least '}{wanted}; {usage}")
    if verb.most is not None and found > verb.most:
        wanted = ["no arguments", "one argument"][verb.most] if verb.most < 2 else f"{verb.most} arguments"
        raise UsageError(f"cove {call.name} takes {wanted}, not {found}; {usage}")


def _unknown(word: str, known: dict[str, Flag]) -> str:
    """Why there is no such flag, or which one may be meant."""
    from cove.cli.refused import why
    from cove.cli.suggest import nearest

    if reason := why(word):
        return f": {reason}"
    found = nearest(word, known)
    return f"; did you mean --{found}?" if found else "; see --help"
