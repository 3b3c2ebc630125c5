"""Steps and what they stand on: a directed graph without circles, known by content.

    Vertex(step, inputs) ─▶ key: the digest of what is to be done and of everything below

Knows no language that graphs are written in, and runs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import msgspec


class Step(Protocol):
    """What is done at a vertex: a frozen value, told apart by its content."""

    @property
    def kind(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Vertex:
    """One step. Two vertices with one `key` do the same to the same.

    `title` is what people see. `place` names the step across builds, so that it can be said why it ran again.
    `fresh`: the cache is not asked.
    """

    step: Step
    inputs: tuple[Vertex, ...] = ()
    title: str = field(default="", compare=False)
    place: str = field(default="", compare=False)
    fresh: bool = field(default=False, compare=False)
    line: int = field(default=0, compare=False)

    @cached_property
    def key(self) -> str:
        """The digest of the definition."""
        whole = hashlib.sha256(definition(self.step))
        for each in self.inputs:
            whole.update(each.key.encode())
        return whole.hexdigest()


def definition(step: Step) -> bytes:
    """The canonical bytes of a step's value."""
    return step.kind.encode() + b"\0" + msgspec.json.encode(step, order="deterministic")


def uses_stages(vertex: Vertex) -> bool:
    """Whether a step uses, beside what it stands on, something that other steps make."""
    return any(each.inputs for each in vertex.inputs[1:])


def ordered(targets: tuple[Vertex, ...]) -> Iterator[Vertex]:
    """Every vertex once, those below first."""
    seen: set[str] = set()
    stack: list[tuple[Vertex, bool]] = [(target, False) for target in reversed(targets)]
    while stack:
        vertex, ready = stack.pop()
        if vertex.key in seen:
            continue
        if ready:
            seen.add(vertex.key)
            yield vertex
            continue
        stack.append((vertex, True))
        stack += [(each, False) for each in reversed(vertex.inputs)]
