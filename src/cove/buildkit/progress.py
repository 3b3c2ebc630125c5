"""A build's progress as BuildKit's clients show it: steps, their output, what the lint says.

    events of the solver ┐
    steps of the door    ├─▶ Trace ─▶ every follower, from the first news on ─▶ Status (a stream of messages)
    pulls and transfers  ┘

Progress belongs to the build and not to who looks: a follower may come late or never.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from cove.build import ops
from cove.build.dockerfile.syntax import Warning
from cove.build.graph import Vertex, ordered
from cove.build.solver import Event
from cove.build.steps import StepFailed
from cove.buildkit.failures import step_message
from cove.buildkit.messages import control
from cove.buildkit.messages.common import Position, Range, SourceInfo, Timestamp
from cove.buildkit.messages.control import StatusResponse

_KEPT_LOG = 2 << 20
_TOLD_EVERY = 0.1


class Trace:
    """What happened in one build."""

    def __init__(self) -> None:
        self.kept: list[StatusResponse] = []
        self._kept_log = 0
        self._followers: set[asyncio.Queue[StatusResponse | None]] = set()
        self._vertices: dict[str, control.Vertex] = {}
        self._steps = 0
        self.ended = False
        self.cached = 0
        self.warnings = 0

    # ── who looks ─────────────────────────────────────────────────────────────────────────────────

    async def follow(self) -> AsyncIterator[StatusResponse]:
        """Everything, from the beginning to the end."""
        queue: asyncio.Queue[StatusResponse | None] = asyncio.Queue()
        for news in self.kept:
            queue.put_nowait(news)
        if self.ended:
            queue.put_nowait(None)
        self._followers.add(queue)
        try:
            while (first := await queue.get()) is not None:
                together, last = [first], False
                while not queue.empty() and not last:
                    more = queue.get_nowait()
                    last = more is None
                    together += [more] if more is not None else []
                yield _joined(together)
                if last:
                    return
        finally:
            self._followers.discard(queue)

    def end(self) -> None:
        """Nothing happens any more."""
        self.ended = True
        for queue in self._followers:
            queue.put_nowait(None)

    def say(self, news: StatusResponse) -> None:
        """Something happened."""
        length = sum(len(log.message) for log in news.logs)
        if self._kept_log + length <= _KEPT_LOG:
            self.kept.append(news)
            self._kept_log += length
        for queue in self._followers:
            queue.put_nowait(news)

    # ── steps of the door's own ───────────────────────────────────────────────────────────────────

    @contextmanager
    def step(self, name: str) -> Iterator[Work]:
        """Something that is done for the build, for the time of a `with`."""
        self._steps += 1
        digest = f"sha256:{hashlib.sha256(f'{id(self)} {self._steps} {name}'.encode()).hexdigest()}"
        vertex = control.Vertex(digest=digest, name=name, started=Timestamp.of(time.time()))
        self._tell(vertex)
        try:
            yield Work(self, digest)
        except BaseException as error:
            text = getattr(error, "message", "") or ("canceled" if isinstance(error, asyncio.CancelledError) else "")
            self._tell(
                msgspec.structs.replace(
                    vertex, completed=Timestamp.of(time.time()), error=text or str(error) or "failed"
                )
            )
            raise
        self._tell(msgspec.structs.replace(vertex, completed=Timestamp.of(time.time())))

    def warn(self, warning: Warning, filename: str, text: bytes) -> None:
        """What the lint says about a line."""
        self.warnings += 1
        place = Position(line=warning.line)
        message = control.VertexWarning(
            vertex=next(iter(self._vertices), ""),
            level=1,
            short=f"{warning.rule}: {warning.message} (line {warning.line})".encode("utf-8", "replace"),
            detail=(warning.message.encode("utf-8", "replace"),),
            url=warning.url,
            info=SourceInfo(filename=filename, data=text, language="Dockerfile"),
            ranges=(Range(start=place, end=place),),
        )
        self.say(StatusResponse(warnings=(message,)))

    # ── the solver ────────────────────────────────────────────────────────────────────────────────

    def planned(self, targets: tuple[Vertex, ...]) -> None:
        """Every step that there will be."""
        vertices = [_vertex(each) for each in ordered(targets) if _shown(each)]
        for each in vertices:
            self._vertices.setdefault(each.digest, each)
        if vertices:
            self.say(StatusResponse(vertexes=tuple(vertices)))

    def heard(self, event: Event) -> None:
        """An event of the solver's."""
        if not _shown(event.vertex):
            return
        digest, now = _digest(event.vertex), Timestamp.of(event.at)
        if event.kind == "log":
            log = control.VertexLog(vertex=digest, timestamp=now, stream=event.stream, message=event.data)
            self.say(StatusResponse(logs=(log,)))
            return
        known = self._vertices.get(digest) or _vertex(event.vertex)
        if event.kind == "start":
            known = msgspec.structs.replace(known, started=now)
        elif event.kind == "cached":
            self.cached += 1
            known = msgspec.structs.replace(known, started=now, completed=now, cached=True)
        else:
            error = event.reason if event.kind == "failed" else ""
            if isinstance(event.result, StepFailed):
                error = step_message(event.result)
            known = msgspec.structs.replace(known, completed=now, error=error)
        self._tell(known)

    def _tell(self, vertex: control.Vertex) -> None:
        self._vertices[vertex.digest] = vertex
        self.say(StatusResponse(vertexes=(vertex,)))

    @property
    def vertices(self) -> list[control.Vertex]:
        return list(self._vertices.values())


class Work:
    """A step of the door's, while it lasts."""

    def __init__(self, trace: Trace, digest: str) -> None:
        self._trace = trace
        self.digest = digest
        self._begun: dict[str, Timestamp] = {}
        self._last: dict[str, float] = {}

    def progress(self, name: str, current: int, total: int = 0, *, done: bool = False) -> None:
        """How far a part of it is; told at most ten times a second, and at its end."""
        now = time.time()
        if not done and now - self._last.get(name, 0.0) < _TOLD_EVERY:
            return
        self._last[name] = now
        begun = self._begun.setdefault(name, Timestamp.of(now))
        status = control.VertexStatus(
            id=name,
            vertex=self.digest,
            name=name,
            current=current,
            total=total,
            timestamp=Timestamp.of(now),
            started=begun,
            completed=Timestamp.of(now) if done else None,
        )
        self._trace.say(StatusResponse(statuses=(status,)))

    def pulled(self, message: dict[str, Any]) -> None:
        """A message of a pull's."""
        detail = message.get("progressDetail") or {}
        layer = str(message.get("id", ""))
        if layer and "current" in detail:
            self.progress(layer, int(detail["current"]), int(detail.get("total") or 0))
        elif str(message.get("status", "")).startswith(("Pull complete", "Download complete")):
            self.progress(layer, 0, 0, done=True)

    def pushed(self, message: dict[str, Any]) -> None:
        """A message of a push's."""
        detail = message.get("progressDetail") or {}
        if layer := str(message.get("id", "")):
            ended = message.get("status") in ("Pushed", "Layer already exists")
            current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
            self.progress(f"pushing layer {layer}", current, total, done=ended)
        elif text := str(message.get("status", "")):
            self.progress(text, 0, done=True)


def _shown(vertex: Vertex) -> bool:
    """The context's transfer is a step of the door's; an empty file system is nothing to tell of."""
    return not isinstance(vertex.step, ops.Context | ops.Scratch | ops.Inline)


def _digest(vertex: Vertex) -> str:
    return f"sha256:{vertex.key}"


def _vertex(vertex: Vertex) -> control.Vertex:
    inputs = tuple(_digest(each) for each in vertex.inputs if _shown(each))
    return control.Vertex(digest=_digest(vertex), inputs=inputs, name=vertex.title)


def _joined(news: list[StatusResponse]) -> StatusResponse:
    if len(news) == 1:
        return news[0]
    return StatusResponse(
        vertexes=tuple(each for one in news for each in one.vertexes),
        statuses=tuple(each for one in news for each in one.statuses),
        logs=tuple(each for one in news for each in one.logs),
        warnings=tuple(each for one in news for each in one.warnings),
    )
