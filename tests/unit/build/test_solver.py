"""The solver: everything once, at the same time where it can be, shared between builds, given up with the last."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cove.build.graph import Vertex
from cove.build.solver import Event, Find, Key, Log, Solver


class Step(msgspec.Struct, frozen=True):
    name: str

    @property
    def kind(self) -> str:
        return "step"


class Performer:
    """Steps take a moment; results are names joined."""

    def __init__(self) -> None:
        self.cache: dict[str, str] = {}
        self.foretold: dict[str, str] = {}
        self.performed: list[str] = []
        self.most = self.now = 0
        self.failing = ""
        self.moment = 0.02
        self.foreseen: list[tuple[str, int, str, int]] = []

    def foresee(self, vertex: Vertex, place: int, result: str) -> None:
        assert isinstance(vertex.step, Step)
        self.foreseen.append((vertex.step.name, place, result, len(self.performed)))

    async def identify(self, vertex: Vertex, inputs: list[str]) -> Key:
        assert isinstance(vertex.step, Step)
        return Key(f"{vertex.step.name}({','.join(inputs)})")

    async def foretell(self, vertex: Vertex, find: Find[str]) -> str | None:
        assert isinstance(vertex.step, Step)
        if vertex.step.name not in self.foretold:
            return None
        return self.foretold[vertex.step.name]

    async def recall(self, vertex: Vertex, key: Key) -> str | None:
        return self.cache.get(key.digest)

    async def perform(self, vertex: Vertex, inputs: list[str], key: Key | None, log: Log) -> str:
        assert key is not None
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            log(1, b"said")
            await asyncio.sleep(self.moment)
            if self.failing and self.failing in key.digest:
                raise ValueError(self.failing)
        finally:
            self.now -= 1
        self.performed.append(key.digest)
        self.cache[key.digest] = key.digest
        return key.digest

    def reason(self, vertex: Vertex, key: Key | None) -> str:
        return ""


def diamond() -> Vertex:
    base = Vertex(Step("base"))
    return Vertex(Step("top"), (Vertex(Step("left"), (base,)), Vertex(Step("right"), (base,))))


def test_a_diamond_runs_each_step_once_and_its_sides_together() -> None:
    performer, events = Performer(), list[Event]()
    found = asyncio.run(Solver(width=4).solve((diamond(),), performer, events.append))
    assert found == ["top(left(base()),right(base()))"]
    assert len(performer.performed) == 4 and performer.most == 2
    assert [event.kind for event in events if event.vertex.step == Step("base")] == ["start", "log", "done"]


def test_the_cache_is_asked_unless_a_vertex_is_fresh() -> None:
    performer = Performer()
    asyncio.run(Solver(width=4).solve((diamond(),), performer, lambda _: None))
    events: list[Event] = []
    again = Vertex(Step("top"), diamond().inputs, fresh=True)
    asyncio.run(Solver(width=4).solve((again,), performer, events.append))
    assert sorted(event.kind for event in events) == ["cached", "cached", "cached", "done", "log", "start"]


def test_two_builds_share_a_step_and_both_hear_it() -> None:
    performer = Performer()

    async def both() -> list[list[Event]]:
        solver: Solver[str] = Solver(width=4)
        heard: list[list[Event]] = [[], []]
        await asyncio.gather(*(solver.solve((diamond(),), performer, each.append) for each in heard))
        return heard

    heard = asyncio.run(both())
    assert len(performer.performed) == 4
    assert all(sum(event.kind == "log" for event in each) == 4 for each in heard)


def test_a_cancelled_build_leaves_the_shared_step_to_the_other() -> None:
    performer = Performer()

    async def one_goes() -> list[str]:
        solver: Solver[str] = Solver(width=4)
        first = asyncio.ensure_future(solver.solve((diamond(),), performer, lambda _: None))
        second = asyncio.ensure_future(solver.solve((diamond(),), performer, lambda _: None))
        await asyncio.sleep(0.01)
        first.cancel()
        return await second

    assert asyncio.run(one_goes()) and len(performer.performed) == 4


def test_with_the_last_build_a_step_ends() -> None:
    performer = Performer()
    performer.moment = 60

    async def goes() -> None:
        task = asyncio.ensure_future(Solver(width=4).solve((diamond(),), performer, lambda _: None))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(goes())
    assert not performer.performed and not performer.now


def test_who_comes_while_a_step_is_given_up_begins_it_anew() -> None:
    class Slow(Performer):
        async def perform(self, vertex: Vertex, inputs: list[str], key: Key | None, log: Log) -> str:
            begun.set()
            try:
                return await super().perform(vertex, inputs, key, log)
            except asyncio.CancelledError:
                ending.set()
                await leave.wait()
                raise

    async def comes_late() -> list[str]:
        solver: Solver[str] = Solver(width=4)
        first = asyncio.ensure_future(solver.solve((Vertex(Step("one")),), performer, lambda _: None))
        await begun.wait()
        first.cancel()
        await ending.wait()
        second = asyncio.ensure_future(solver.solve((Vertex(Step("one")),), performer, lambda _: None))
        await asyncio.sleep(0)
        leave.set()
        await asyncio.gather(first, return_exceptions=True)
        return await second

    begun, ending, leave = asyncio.Event(), asyncio.Event(), asyncio.Event()
    performer = Slow()
    assert asyncio.run(comes_late()) == ["one()"]


def test_a_failure_ends_the_build_and_keeps_what_is_finished() -> None:
    performer = Performer()
    performer.failing = "right"
    with pytest.raises(ValueError, match="right"):
        asyncio.run(Solver(width=4).solve((diamond(),), performer, lambda _: None))
    assert "base()" in performer.cache and not performer.now


def test_what_an_input_alone_tells_is_foreseen() -> None:
    performer = Performer()
    performer.cache["files()"] = "files()"
    top = Vertex(Step("copy"), (Vertex(Step("slow")), Vertex(Step("files"))))
    asyncio.run(Solver[str](width=4).solve((top,), performer, lambda _: None))
    assert performer.foreseen == [("copy", 1, "files()", 0)]
    assert performer.performed == ["slow()", "copy(slow(),files())"]


def test_of_a_result_that_is_foretold_only_what_it_stands_on_is_solved() -> None:
    performer, events = Performer(), list[Event]()
    performer.foretold = {"top": "known", "other": "not asked for: it uses no other steps"}
    used = Vertex(Step("other"), (Vertex(Step("source")),))
    top = Vertex(Step("top"), (Vertex(Step("below")), used))
    found = asyncio.run(Solver(width=4).solve((Vertex(Step("last"), (top,)),), performer, events.append))
    assert found == ["last(known)"] and performer.performed == ["below()", "last(known)"]
    assert [event.kind for event in events if event.vertex is top] == ["cached"]
    assert [event.kind for event in events if event.vertex is used] == ["cached"]  # it was not needed
    fresh = Vertex(Step("top"), (Vertex(Step("below")), used), fresh=True)
    assert asyncio.run(Solver(width=4).solve((fresh,), performer, events.append)) == ["top(below(),other(source()))"]
