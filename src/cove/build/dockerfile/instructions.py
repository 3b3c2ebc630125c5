"""The instructions of the language as frozen values, and a file as stages of them.

Variables are still as they are written; `plan` gives them their values. `reader` makes these values.
"""

from __future__ import annotations

from dataclasses import dataclass

from cove.build.dockerfile import lexer
from cove.build.dockerfile.lexer import Heredoc
from cove.build.dockerfile.parser import Node
from cove.build.dockerfile.syntax import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What all have: the parts it was made of."""

    node: Node

    @property
    def text(self) -> str:
        """As it was written, on one line."""
        return self.node.line.text

    @property
    def position(self) -> Position:
        return self.node.position


@dataclass(frozen=True, slots=True)
class Command:
    """A program: its words, or a line for the shell."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    image: str
    platform: str = ""
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    command: Command
    mounts: tuple[tuple[str, Position], ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """COPY, or ADD when `add`. Here-documents among the sources stand in `heredocs`, in their order."""

    sources: tuple[str, ...]
    destination: str
    add: bool = False
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """`command` None means NONE. Durations in nanoseconds."""

    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopsignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next; `index` counts from 0."""

    index: int
    base: From
    body: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        return self.base.alias


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole file."""

    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    directives: dict[str, str]
    escape: str
    source: lexer.Source

    def lines(self, line: int) -> tuple[int, ...]:
        """All lines of the instruction that begins on this one, without its here-documents."""
        for each in self.source.lines:
            if each.starts[0][1] == line:
                return tuple(sorted({start[1] for start in each.starts}))
        return (line,)
