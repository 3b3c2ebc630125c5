"""A build's progress as messages: Docker's lines in the order of the file, or Cove's own events as they come.

    events of the solver ─▶ Classic   "Step 2/5 : RUN …", output, " ---> 1a2b3c4d5e6f"
                         └▶ Events    {"vertex": 3, "event": "log", "data": …}

Docker's stream knows no parallel steps: what a later step says waits until the earlier ones are done.
"""

from __future__ import annotations

import codecs
import hashlib
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Protocol

from cove.build import ops
from cove.build.dockerfile.plan import Plan
from cove.build.dockerfile.syntax import Warning
from cove.build.graph import Vertex
from cove.build.selections import Result
from cove.build.solver import Event

Message = dict[str, Any]
Sink = Callable[[Message], None]


class Stream(Protocol):
    """One of the two forms."""

    def planned(self, plan: Plan) -> None: ...

    def warned(self, warnings: tuple[Warning, ...]) -> None:
        """Before it is planned, or when it cannot be."""

    def heard(self, event: Event) -> None: ...

    def built(self, identity: str, names: list[str], epoch: int | None) -> None: ...


class Classic:
    """As Docker's own builder speaks. `known`: whether a line without a layer was there in an earlier build."""

    def __init__(self, sink: Sink, known: Callable[[str], bool]) -> None:
        self._sink = sink
        self._known = known
        self._lines: tuple[tuple[str, Vertex | None], ...] = ()
        self._waiting: dict[str, deque[Event]] = defaultdict(deque)
        self._ended: dict[str, Event] = {}
        self._decoders: dict[tuple[str, int], codecs.IncrementalDecoder] = {}
        self._position = 0
        self._told = False
        self._last = ""

    def warned(self, warnings: tuple[Warning, ...]) -> None:
        for warning in warnings:
            self._say(f"[Warning] {warning.rule}: {warning.message} (line {warning.line})\n")

    def planned(self, plan: Plan) -> None:
        self._lines = plan.lines
        self._advance()

    def heard(self, event: Event) -> None:
        key = event.vertex.key
        if event.kind in ("cached", "done", "failed"):
            self._ended[key] = event
        self._waiting[key].append(event)
        self._advance()

    def _advance(self) -> None:
        """Say what can be said in order."""
        while self._position < len(self._lines):
            text, vertex = self._lines[self._position]
            if not self._told:
                self._say(f"Step {self._position + 1}/{len(self._lines)} : {text}\n")
                self._told = True
            if vertex is None:
                self._last = hashlib.sha256(f"{self._last}{text}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
                if not text.upper().startswith("FROM") and self._known(self._last):
                    self._say(" ---> Using cache\n")
                self._say(f" ---> {self._last}\n")
            elif not self._pass_on(vertex):
                return
            self._position += 1
            self._told = False

    def _pass_on(self, vertex: Vertex) -> bool:
        """What a vertex had to say; whether that was all."""
        waiting = self._waiting[vertex.key]
        while waiting:
            event = waiting.popleft()
            if event.kind == "start" and isinstance(vertex.step, ops.Run):
                self._say(f" ---> Running in {vertex.key[:12]}\n")
            elif event.kind == "cached":
                self._say(" ---> Using cache\n")
            elif event.kind == "log":
                self._say(self._text(vertex, event))
        ended = self._ended.get(vertex.key)
        if ended is None or ended.kind == "failed":
            return False
        if ended.kind == "done" and isinstance(vertex.step, ops.Run):
            self._say(f" ---> Removed intermediate container {vertex.key[:12]}\n")
        if isinstance(ended.result, Result):
            self._last = _short(ended.result.identity)
        self._say(f" ---> {self._last}\n")
        return True

    def _text(self, vertex: Vertex, event: Event) -> str:
        key = (vertex.key, event.stream)
        if key not in self._decoders:
            self._decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._decoders[key].decode(event.data)
        return f"\x1b[91m{text}\x1b[0m" if event.stream == 2 and text else text

    def built(self, identity: str, names: list[str], epoch: int | None) -> None:
        self._sink({"aux": {"ID": identity}})
        self._say(f"Successfully built {_short(identity)}\n")
        for name in names:
            self._say(f"Successfully tagged {name}\n")

    def _say(self, text: str) -> None:
        if text:
            self._sink({"stream": text})


class Quiet:
    """Only the image's identity."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def warned(self, warnings: tuple[Warning, ...]) -> None:
        """Nothing is told."""

    def planned(self, plan: Plan) -> None:
        """Nothing is told."""

    def heard(self, event: Event) -> None:
        """Nothing is told."""

    def built(self, identity: str, names: list[str], epoch: int | None) -> None:
        self._sink({"stream": f"{identity}\n"})


class Events:
    """Cove's own: each vertex by number, everything when it happens."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._numbers: dict[str, int] = {}
        self._decoders: dict[tuple[str, int], codecs.IncrementalDecoder] = {}

    def planned(self, plan: Plan) -> None:
        """Nothing is told of it."""

    def warned(self, warnings: tuple[Warning, ...]) -> None:
        for warning in warnings:
            self._sink(
                {
                    "warning": {
                        "rule": warning.rule,
                        "message": warning.message,
                        "line": warning.line,
                        "url": warning.url,
                    }
                }
            )

    def heard(self, event: Event) -> None:
        number = self._numbers.setdefault(event.vertex.key, len(self._numbers) + 1)
        message: Message = {"vertex": number, "event": event.kind, "name": event.vertex.title, "at": event.at}
        if event.reason:
            message["reason"] = event.reason
        if event.kind == "log":
            key = (event.vertex.key, event.stream)
            if key not in self._decoders:
                self._decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
            message |= {"data": self._decoders[key].decode(event.data), "stream": event.stream}
        self._sink(message)

    def built(self, identity: str, names: list[str], epoch: int | None) -> None:
        told: Message = {"ID": identity, "Names": names}
        self._sink({"aux": told if epoch is None else told | {"Epoch": epoch}})


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:12] or "000000000000"
