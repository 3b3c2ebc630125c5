"""What a target can be told from outside: its arguments, and the secrets and agents that its steps ask for.

    ARG above the first FROM ─┐
    FROM, ARG, RUN --mount    ─┴▶ one Scope for each stage ─▶ Outline of the target and the stages that it needs

The planner fills it in while it plans; what is not needed is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Argument:
    """An ARG: the value that it has in this build, and the comment above it that says what it is for.

    `needs`: the arguments that its default is made of.
    """

    name: str
    value: str
    description: str
    line: int
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A secret or an ssh agent, by its id."""

    name: str
    required: bool
    line: int


@dataclass(frozen=True, slots=True)
class Outline:
    """Of one target; each list in the order of the file."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    secrets: tuple[Wanted, ...]
    agents: tuple[Wanted, ...]


@dataclass(slots=True)
class Scope:
    """What one stage knows and uses; one that stands on another stage begins as that one ended."""

    known: dict[str, Argument] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    secrets: dict[str, Wanted] = field(default_factory=dict)
    agents: dict[str, Wanted] = field(default_factory=dict)

    def copy(self) -> Scope:
        return Scope(dict(self.known), set(self.used), dict(self.secrets), dict(self.agents))

    def define(self, argument: Argument) -> None:
        """An ARG. One that is defined by its own older value needs what that one needed."""
        needs = argument.needs - {argument.name}
        if argument.name in argument.needs and (older := self.known.get(argument.name)):
            needs |= older.needs
        self.known[argument.name] = Argument(
            argument.name, argument.value, argument.description, argument.line, needs
        )

    def arguments(self) -> Iterator[Argument]:
        """Those in use, and those that they are made of."""
        seen: set[str] = set()
        waiting = sorted(self.used)
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.known:
                continue
            seen.add(name)
            yield self.known[name]
            waiting += self.known[name].needs


class Watched(Mapping[str, str]):
    """Variables that remember which of them were looked at."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> str:
        value = self._variables[name]
        self.used.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def outline(name: str, description: str, scopes: Iterable[Scope]) -> Outline:
    """Of a target whose scope is the first one; the others are those of the stages that it needs."""
    arguments: dict[str, Argument] = {}
    secrets: dict[str, Wanted] = {}
    agents: dict[str, Wanted] = {}
    for scope in scopes:
        arguments = {**{each.name: each for each in scope.arguments()}, **arguments}
        secrets = {**scope.secrets, **secrets}
        agents = {**scope.agents, **agents}
    return Outline(
        name,
        description,
        tuple(sorted(arguments.values(), key=lambda each: each.line)),
        tuple(sorted(secrets.values(), key=lambda each: each.line)),
        tuple(sorted(agents.values(), key=lambda each: each.line)),
    )


def described(name: str, comments: Iterable[str]) -> str:
    """What a comment above a definition says of it: `# NAME what it is`."""
    start = f"{name} "
    return next((each.removeprefix(start) for each in comments if each.startswith(start)), "") if name else ""
