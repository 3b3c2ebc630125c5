"""What every part of the language shares: a position, and an error that has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cove.errors import InvalidArgument

if TYPE_CHECKING:
    from cove.build.dockerfile.instructions import Dockerfile


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the file; line and column count from 1."""

    line: int
    column: int = 1


class DockerfileError(InvalidArgument):
    """The Dockerfile is wrong at `position`. `read`: what stands before it; `warnings`: what rules say of it."""

    def __init__(self, reason: str, position: Position | None = None) -> None:
        where = f" on line {position.line}, column {position.column}" if position else ""
        super().__init__(f"dockerfile parse error{where}: {reason}")
        self.reason = reason
        self.position = position
        self.read: Dockerfile | None = None
        self.warnings: tuple[Warning, ...] = ()


@dataclass(frozen=True, slots=True)
class Warning:
    """A rule of `lint` that a line breaks."""

    rule: str
    message: str
    line: int

    @property
    def url(self) -> str:
        """Where the rule is explained."""
        words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in self.rule).lstrip("-")
        return f"https://docs.docker.com/go/dockerfile/rule/{words}/"
