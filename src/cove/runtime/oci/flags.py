"""The command line: global flags, a verb, its flags and arguments, as runc takes them and as crun spells them.

A flag is described by one word: "bundle|b=" takes a value, "env|e=*" may come several times, "detach|d" is a
switch. Both --flag=value and --flag value are understood, with one dash or two. argparse is not used: it costs
more than the rest of a short command.
"""

from __future__ import annotations

from cove.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Options:
    """The flags that were given."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        self._values.setdefault(name, []).append(value)

    def text(self, name: str, default: str = "") -> str:
        """The value given last."""
        values = self._values.get(name)
        return values[-1] if values else default

    def all(self, name: str) -> list[str]:
        """Every value, in order."""
        return self._values.get(name, [])

    def switch(self, name: str) -> bool:
        """Whether it was switched on."""
        return self.text(name, "false") == "true"

    def given(self, name: str) -> bool:
        return name in self._values

    def number(self, name: str, default: int = 0) -> int:
        """A whole number; InvalidArgument for anything else."""
        text = self.text(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise InvalidArgument(f'invalid value "{text}" for flag -{name}: it takes a whole number') from None


class _Flag:
    __slots__ = ("name", "valued")

    def __init__(self, name: str, *, valued: bool) -> None:
        self.name, self.valued = name, valued


def _table(descriptions: Iterable[str]) -> dict[str, _Flag]:
    table: dict[str, _Flag] = {}
    for text in descriptions:
        names = text.rstrip("*").rstrip("=").split("|")
        flag = _Flag(names[0], valued="=" in text)
        for name in names:
            table[name] = flag
    return table


_SWITCH_VALUES = {"": "true", "true": "true", "1": "true", "t": "true", "false": "false", "0": "false", "f": "false"}


def parse(descriptions: Iterable[str], words: Sequence[str], *, mixed: bool) -> tuple[Options, list[str]]:
    """The flags and the remaining arguments of `words`.

    `mixed`: flags may follow arguments; otherwise the first argument ends them, as it begins a command.
    """
    table, options, arguments = _table(descriptions), Options(), list[str]()
    rest = iter(words)
    for word in rest:
        if word == "--":
            arguments += rest
            break
        if len(word) < 2 or not word.startswith("-"):
            arguments.append(word)
            if not mixed:
                arguments += rest
                break
            continue
        name, equals, value = word.lstrip("-").partition("=")
        flag = table.get(name)
        if flag is None and not word.startswith("--"):
            flag, name, equals, value = _bundled(table, word, options)
        if flag is None:
            raise InvalidArgument(f"flag provided but not defined: -{name}")
        if flag.valued and not equals:
            following = next(rest, None)
            if following is None:
                raise InvalidArgument(f"flag needs an argument: -{name}")
            value = following
        elif not flag.valued:
            if value not in _SWITCH_VALUES:
                raise InvalidArgument(f'invalid boolean value "{value}" for flag -{name}')
            value = _SWITCH_VALUES[value]
        options.add(flag.name, value)
    return options, arguments


def _bundled(table: dict[str, _Flag], word: str, options: Options) -> tuple[_Flag | None, str, str, str]:
    """Letters written together, -it or -uroot: all but the last one are taken, the last one is returned."""
    for at, letter in enumerate(word[1:], 1):
        flag = table.get(letter)
        if flag is None:
            break
        rest = word[at + 1 :]
        if flag.valued:
            return flag, letter, "=" if rest else "", rest.removeprefix("=")
        if not rest:
            return flag, letter, "", ""
        options.add(flag.name, "true")
    return None, word.lstrip("-"), "", ""
