"""Cove's own: the way of a packet, step by step."""

from __future__ import annotations

from cove.wire.base import Value


class Step(Value, frozen=True, kw_only=True):
    """One place on the way; not `ok` where the way ends before its aim."""

    place: str
    text: str
    ok: bool = True


class Way(Value, frozen=True, kw_only=True):
    """The way to one port; the last step says where it ends."""

    aim: str
    arrives: bool
    steps: tuple[Step, ...]
