"""Runs a graph: what the cache knows is taken from it, the rest runs as soon as what it stands on is there.

    solve(target) ─▶ inputs, all at the same time ─▶ identify: the key by content ─▶ cache ─▶ … or perform ─▶ cache
                 └▶ foretell: where it is known what comes of a step, only what it stands on is solved

It knows nothing of Dockerfiles, files or containers: a Performer gives a step's key and result. Two builds that
come to the same key at the same time share one performance, and both hear its output; it is given up only when
nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from cove.build.graph import Vertex, ordered, uses_stages

R = TypeVar("R")
_R_co = TypeVar("_R_co")


@dataclass(frozen=True, slots=True)
class Key:
    """What a step's result depends on, by content: `parts` are digests by a name that people understand."""

    digest: str
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to a vertex. `data` and `stream` (1 or 2) belong to a log; `reason` says why it ran; `result` is
    what came of it, or the error; None for a step that nobody needed."""

    kind: Literal["start", "cached", "log", "done", "failed"]
    vertex: Vertex
    at: float
    data: bytes = b""
    stream: int = 1
    reason: str = ""
    result: object = None


Find = Callable[[Vertex], Awaitable[R]]
"""Has a vertex solved."""
Listener = Callable[[Event], None]
Log = Callable[[int, bytes], None]


class Performer(Protocol[R]):
    """What the solver needs to be told about steps of one build."""

    def foresee(self, vertex: Vertex, place: int, result: R) -> None:
        """One input of a step is there, others perhaps not: what it alone tells may be found out already."""
        ...

    async def identify(self, vertex: Vertex, inputs: list[R]) -> Key | None:
        """The key of a step on these inputs; None for one that is performed each time, such as a source."""
        ...

    async def foretell(self, vertex: Vertex, find: Find[R]) -> R | None:
        """The result of a step that uses other stages, if it is known without them. `find` is for sources."""
        ...

    async def recall(self, vertex: Vertex, key: Key) -> R | None:
        """The result that the cache has for the key."""
        ...

    async def perform(self, vertex: Vertex, inputs: list[R], key: Key | None, log: Log) -> R:
        """Do it; what it returns is remembered under the key."""
        ...

    def reason(self, vertex: Vertex, key: Key | None) -> str:
        """Why the cache could not help, in words."""
        ...


class _Performance(Generic[R]):
    """One step that runs for whoever waits for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[R] | None = None
        self.waiting = 0
        self._heard: list[tuple[int, bytes]] = []
        self._listeners: list[Log] = []

    def log(self, stream: int, data: bytes) -> None:
        self._heard.append((stream, data))
        for listener in self._listeners:
            listener(stream, data)

    def listen(self, listener: Log) -> None:
        for stream, data in self._heard:
            listener(stream, data)
        self._listeners.append(listener)


class Solver(Generic[R]):
    """Solves the graphs of all builds; `width` bounds how many steps run at the same time."""

    def __init__(self, *, width: int) -> None:
        self._free = asyncio.Semaphore(width)
        self._running: dict[str, _Performance[R]] = {}

    async def solve(self, targets: tuple[Vertex, ...], performer: Performer[R], listener: Listener) -> list[R]:
        """The results of the targets; the first failure ends everything else of this build."""
        run = _Run(self, performer, listener)
        tasks = [run.task(target) for target in targets]
        try:
            results = list(await asyncio.gather(*tasks))
            run.pass_over(targets)
            return results
        finally:
            await run.close()

    async def shared(self, vertex: Vertex, inputs: list[R], key: Key | None, performer: Performer[R], log: Log) -> R:
        """Perform a step, or wait for somebody who does it already."""
        if key is None:
            async with self._free:
                return await performer.perform(vertex, inputs, key, log)
        performance = self._running.get(key.digest)
        if performance is None or performance.task is None:
            performance = self._running[key.digest] = _Performance()
            performance.task = asyncio.ensure_future(self._perform(vertex, inputs, key, performer, performance))
        performance.listen(log)
        performance.waiting += 1
        try:
            return await asyncio.shield(performance.task)
        finally:
            performance.waiting -= 1
            if not performance.waiting and not performance.task.done():
                self._forget(key, performance)  # who comes now begins anew, and does not wait for what ends
                performance.task.cancel()
                await asyncio.gather(performance.task, return_exceptions=True)

    async def _perform(
        self, vertex: Vertex, inputs: list[R], key: Key, performer: Performer[R], performance: _Performance[R]
    ) -> R:
        try:
            async with self._free:
                return await performer.perform(vertex, inputs, key, performance.log)
        finally:
            self._forget(key, performance)

    def _forget(self, key: Key, performance: _Performance[R]) -> None:
        if self._running.get(key.digest) is performance:
            del self._running[key.digest]


class _Run(Generic[R]):
    """One build's way through its graph."""

    def __init__(self, solver: Solver[R], performer: Performer[R], listener: Listener) -> None:
        self._solver = solver
        self._performer = performer
        self._listener = listener
        self._tasks: dict[str, asyncio.Task[R]] = {}

    def task(self, vertex: Vertex) -> asyncio.Task[R]:
        """The one task of a vertex."""
        known = self._tasks.get(vertex.key)
        if known is None:
            known = self._tasks[vertex.key] = asyncio.ensure_future(self._solve(vertex))
        return known

    def pass_over(self, targets: tuple[Vertex, ...]) -> None:
        """Tell of the steps that nobody needed, as what comes of them was foretold."""
        for vertex in ordered(targets):
            if vertex.inputs and vertex.key not in self._tasks:
                self._tell("cached", vertex)

    async def close(self) -> None:
        """End what still runs."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _solve(self, vertex: Vertex) -> R:
        """Above what it stands on and uses; of what it only uses nothing is solved if the result is foretold."""
        if not vertex.fresh and uses_stages(vertex):
            foretold = await self._performer.foretell(vertex, self.task)
            if foretold is not None:
                await self.task(vertex.inputs[0])
                self._tell("cached", vertex, result=foretold)
                return foretold
        inputs = list(await asyncio.gather(*(self._input(vertex, place) for place in range(len(vertex.inputs)))))
        try:
            key = await self._performer.identify(vertex, inputs)
        except Exception as error:
            self._tell("start", vertex)
            self._tell("failed", vertex, reason=str(error), result=error)
            raise
        if key is not None and not vertex.fresh:
            found = await self._performer.recall(vertex, key)
            if found is not None:
                self._tell("cached", vertex, result=found)
                return found
        self._tell("start", vertex, reason=self._performer.reason(vertex, key))
        try:
            result = await self._solver.shared(
                vertex, inputs, key, self._performer, lambda stream, data: self._log(vertex, stream, data)
            )
        except Exception as error:
            self._tell("failed", vertex, reason=str(error), result=error)
            raise
        self._tell("done", vertex, result=result)
        return result

    def _input(self, vertex: Vertex, place: int) -> asyncio.Task[R]:
        task = self.task(vertex.inputs[place])
        if place:  # the first is what it stands on: nothing can be told of it alone

            def there(task: asyncio.Task[R]) -> None:
                if not task.cancelled() and task.exception() is None:
                    self._performer.foresee(vertex, place, task.result())

            task.add_done_callback(there)
        return task

    def _log(self, vertex: Vertex, stream: int, data: bytes) -> None:
        self._listener(Event("log", vertex, time.time(), data=data, stream=stream))

    def _tell(
        self,
        kind: Literal["start", "cached", "done", "failed"],
        vertex: Vertex,
        *,
        reason: str = "",
        result: object = None,
    ) -> None:
        self._listener(Event(kind, vertex, time.time(), reason=reason, result=result))
