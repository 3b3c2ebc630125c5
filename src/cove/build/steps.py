"""How each kind of step is told apart by content, and performed: the solver's Performer for one build.

identify: parts by name ─▶ key        base, command, each variable, each copied file's digest
perform:  source ─▶ a tree            context, here-documents, a download, a repository
          step   ─▶ a layer           through the confined worker, or in a container by the Runner
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from cove.build import fetching, ops
from cove.build.arrived import Arrived
from cove.build.cache import BuildCache
from cove.build.graph import Vertex, definition
from cove.build.layers import Source, Workshop
from cove.build.reasons import BELOW, FRESH, SHOWN, explain
from cove.build.recipes import Recipes
from cove.build.selections import Blocking, Digest, Result, Selections
from cove.build.solver import Find, Key, Log
from cove.errors import CoveError, Internal, InvalidArgument


class StepFailed(CoveError):
    """A program in a RUN ended with a code that is not 0."""

    def __init__(self, vertex: Vertex, command: str, code: int) -> None:
        super().__init__(f"The command '{command}' returned a non-zero code: {code}")
        self.vertex = vertex
        self.code = code


class Runner(Protocol):
    """Runs programs in containers; the engine's part."""

    async def run(
        self, key: str, step: ops.Run, sources: tuple[Source, ...], log: Log
    ) -> tuple[int, tuple[str, ...]]:
        """The exit code, and the mount points that it made and nobody needs."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What one build's steps have. `contexts` are trees by name; `scratch` is a directory for what passes through.

    `imported`: what others offer under a key. `foretelling`: whether of a stage that is not needed for the result, as
    others offer what was made of it, nothing is done.
    """

    workshop: Workshop
    cache: BuildCache
    runner: Runner
    blocking: Blocking
    contexts: Mapping[str, Path | Arrived]
    scratch: Path
    ignore: tuple[str, ...] = ()
    imported: Callable[[str, Vertex], Awaitable[tuple[str, int] | None]] | None = None
    foretelling: bool = False


class Steps:
    """The Performer of one build."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._selections = Selections(around.workshop, around.cache, around.blocking, around.contexts, around.ignore)
        self._copied: dict[str, Result] = {}
        self._reasons: dict[str, str] = {}
        self._trees = 0
        self._foreseen: dict[tuple[str, int], asyncio.Task[Digest]] = {}
        self._recipes = Recipes(self._selected, self._whole)
        self._find: Find[Result] | None = None
        self.keys: dict[str, str] = {}
        """The key by content of each vertex, by its own key."""

    # ── identity ──────────────────────────────────────────────────────────────────────────────────

    async def identify(self, vertex: Vertex, inputs: list[Result]) -> Key | None:
        """The key by content; sources have none."""
        step = vertex.step
        if not inputs:
            return None
        parts = {BELOW: inputs[0].identity, SHOWN: _bare(vertex.title)}
        if isinstance(step, ops.Run):
            parts |= await self._run_parts(step, inputs)
        elif isinstance(step, ops.Transfer):
            parts["the instruction"] = _plainly(definition(step).decode("utf-8", "surrogateescape"))
            for place in range(1, len(inputs)):
                parts |= await self._file_parts(vertex, step, place, inputs[place])
        elif isinstance(step, ops.Link):
            parts["the linked files"] = self.keys[vertex.inputs[1].key]
        else:
            parts["the instruction"] = _plainly(definition(step).decode("utf-8", "surrogateescape"))
        whole = hashlib.sha256(step.kind.encode())
        for name, value in sorted(parts.items()):
            if name != SHOWN and not name.startswith("file "):
                whole.update(f"\0{name}\0{value}".encode("utf-8", "surrogateescape"))
        self.keys[vertex.key] = whole.hexdigest()
        return Key(whole.hexdigest(), parts)

    async def _run_parts(self, step: ops.Run, inputs: list[Result]) -> dict[str, str]:
        parts = {"the command": " ".join(step.args), "the command's words": str(len(step.args))}
        parts |= {f"the variable {name}": value for name, _, value in (entry.partition("=") for entry in step.env)}
        bare = msgspec.structs.replace(step, args=(), env=())
        parts["the instruction's options"] = definition(bare).decode("utf-8", "surrogateescape")
        for mount in step.mounts:
            if mount.input > 0 and mount.type == "bind":
                selection = ops.Selection(sources=(mount.source or "/",), destination="/", root_owned=False)
                digest, files = await self._selections.digest(selection, inputs[mount.input])
                self._selections.seen(selection, inputs[mount.input])
                parts[f"files of the mount {mount.target}"] = digest
                parts |= {f"file {name}": value for name, value in files}
        return parts

    def foresee(self, vertex: Vertex, place: int, result: Result) -> None:
        """Files that a step will copy are looked at as soon as they are there, whatever the step still waits for."""
        step = vertex.step
        if isinstance(step, ops.Transfer) and not _known_whole(vertex.inputs[place]):
            digest = self._selections.digest(step.copies[place - 1], result)
            self._foreseen[vertex.key, place] = asyncio.ensure_future(digest)

    async def close(self) -> None:
        """Give up what nobody needs any more."""
        await self._recipes.close()
        for task in self._foreseen.values():
            task.cancel()
        await asyncio.gather(*self._foreseen.values(), return_exceptions=True)

    async def _file_parts(self, vertex: Vertex, step: ops.Transfer, place: int, source: Result) -> dict[str, str]:
        selection, origin = step.copies[place - 1], vertex.inputs[place]
        self._copied[vertex.key] = source
        name = f"files of {origin.title} {' '.join(selection.sources)}"
        if _known_whole(origin):
            return {name: source.identity}
        foreseen = self._foreseen.pop((vertex.key, place), None)
        digest, files = await (foreseen or self._selections.digest(selection, source))
        return {name: digest, **{f"file {path}": value for path, value in files}}

    async def _at(self, source: Result) -> Source:
        """Where its files are."""
        if isinstance(source.source, Arrived):
            tree: Path = await self._around.blocking(source.source.tree)
            return tree
        return source.source

    # ── the cache ─────────────────────────────────────────────────────────────────────────────────

    async def recall(self, vertex: Vertex, key: Key) -> Result | None:
        """The layer that the cache knows, if it is still there."""
        around = self._around
        found = around.cache.get(key.digest)
        if found is None or (found[0] and not around.workshop.store.layers.is_unpacked(found[0])):
            found = await around.imported(key.digest, vertex) if around.imported is not None else None
        if found is not None:
            self._note(vertex, key, found[0], now=False)
            return Result(found[0], found[0], created_ns=found[1])
        self._reasons[vertex.key] = explain(around.cache.last(vertex.place), key.parts, _below(vertex))
        return None

    async def foretell(self, vertex: Vertex, find: Find[Result]) -> Result | None:
        """The result that somebody offers for what a step is and what it is made of."""
        if self._around.imported is None or not self._around.foretelling:
            return None
        self._find = find
        recipe = await self._recipes.of(vertex)
        found = await self._around.imported(recipe, vertex) if recipe else None
        return Result(found[0], found[0], created_ns=found[1]) if found is not None else None

    async def recipe(self, vertex: Vertex, find: Find[Result]) -> str:
        """By what `foretell` finds a step's result elsewhere; "" for one that is made anew each time."""
        self._find = find
        return await self._recipes.of(vertex)

    async def _selected(self, selection: ops.Selection, origin: Vertex) -> str:
        assert self._find is not None
        return (await self._selections.digest(selection, await self._find(origin)))[0]

    async def _whole(self, origin: Vertex) -> str:
        assert self._find is not None
        return (await self._find(origin)).identity

    def reason(self, vertex: Vertex, key: Key | None) -> str:
        """Why a step runs."""
        if key is None:
            return ""
        if vertex.fresh:
            return FRESH
        return self._reasons.get(vertex.key, "")

    # ── performing ────────────────────────────────────────────────────────────────────────────────

    async def perform(self, vertex: Vertex, inputs: list[Result], key: Key | None, log: Log) -> Result:
        """Do the step; a layer's key is remembered."""
        if key is None:
            return await self._source(vertex)
        base = str(inputs[0].source)
        step = vertex.step
        if isinstance(step, ops.Run):
            chain, size = await self._run(vertex, step, inputs, log)
        elif isinstance(step, ops.Transfer):
            places = [await self._at(each) for each in inputs[1:]]
            chain, size = await self._around.blocking(self._transfer, step, inputs, places)
        elif isinstance(step, ops.Link):
            chain, size = await self._around.blocking(self._around.workshop.link, base, str(inputs[1].source))
        elif isinstance(step, ops.Directory):
            chain, size = await self._around.blocking(self._directory, step, base)
        else:
            raise Internal(f"the build has a step of the unknown kind {step.kind}")
        now = time.time_ns()
        self._around.cache.put(key.digest, chain, parent=base, title=vertex.title[:500], size=size, now=now)
        self._note(vertex, key, chain, now=True)
        return Result(chain, chain, size, now)

    def _note(self, vertex: Vertex, key: Key, chain: str, *, now: bool) -> None:
        """For the next build: what the key was made of, and of which files the layer is."""
        self._around.cache.note(vertex.place, key)
        if isinstance(vertex.step, ops.Transfer):
            self._selections.made(vertex.step, key.parts[BELOW], self._copied[vertex.key], chain, now=now)

    async def _source(self, vertex: Vertex) -> Result:
        step, around = vertex.step, self._around
        if isinstance(step, ops.Image):
            return Result(step.chain, step.chain)
        if isinstance(step, ops.Scratch):
            return Result("", "")
        if isinstance(step, ops.Context):
            tree = around.contexts.get(step.name)
            if tree is None:
                raise InvalidArgument("the build has no context that files could come from")
            return Result(tree, tree.identity if isinstance(tree, Arrived) else f"context {step.name} {tree}")
        self._trees += 1
        directory = around.scratch / f"source-{self._trees}"
        if isinstance(step, ops.Inline):
            written: Result = await around.blocking(_write_inline, directory, step, definition(step))
            return written
        if isinstance(step, ops.Remote):
            digest = await around.blocking(fetching.download, directory, step)
            return Result(directory, digest)
        if isinstance(step, ops.Git):
            commit = await around.blocking(fetching.clone, directory, step)
            return Result(directory, commit)
        raise Internal(f"the build has a source of the unknown kind {step.kind}")

    async def _run(self, vertex: Vertex, step: ops.Run, inputs: list[Result], log: Log) -> tuple[str, int]:
        """In a container on a new upper directory."""
        around, workshop = self._around, self._around.workshop
        base = str(inputs[0].source)
        key = await around.blocking(workshop.prepare, base)
        try:
            places = tuple([await self._at(each) for each in inputs])
            code, stubs = await around.runner.run(key, step, places, log)
            if code:
                raise StepFailed(vertex, " ".join(step.args), code)
            sealed: tuple[str, int] = await around.blocking(workshop.finish, key, base, epoch=step.epoch, stubs=stubs)
            return sealed
        except BaseException:
            await around.blocking(workshop.discard, key)
            raise

    def _transfer(self, step: ops.Transfer, inputs: list[Result], places: list[Source]) -> tuple[str, int]:
        workshop, base = self._around.workshop, str(inputs[0].source)
        earlier = self._selections.earlier(step, base, inputs[1])
        if earlier is not None and isinstance(places[0], Path):
            layer, change = earlier
            with workshop.upper(base) as key:
                ignore = self._selections.ignored(inputs[1])
                if workshop.amend(key, layer, places[0], step.copies[0], ignore, change):
                    return workshop.seal(key, base, epoch=step.epoch)
        with workshop.upper(base) as key:
            for selection, source, place in zip(step.copies, inputs[1:], places, strict=True):
                workshop.copy(key, place, selection, self._selections.ignored(source))
            return workshop.seal(key, base, epoch=step.epoch)

    def _directory(self, step: ops.Directory, base: str) -> tuple[str, int]:
        workshop = self._around.workshop
        with workshop.upper(base) as key:
            if not workshop.make_directory(key, step.path, step.owner):
                return base, 0
            return workshop.seal(key, base, epoch=step.epoch)


def _known_whole(origin: Vertex) -> bool:
    """Whether all of a source is copied, so that what it is called tells its files."""
    return isinstance(origin.step, ops.Remote | ops.Git | ops.Inline)


def _bare(title: str) -> str:
    """A step's title without where it stands: [stage 2/4] RUN make."""
    return title.partition("] ")[2] if title.startswith("[") else title


def _below(vertex: Vertex) -> str:
    """What a step stands on, in words."""
    below = vertex.inputs[0]
    if isinstance(below.step, ops.Image):
        return f"the base image {below.step.reference}"
    return f"the result of the step below, {_bare(below.title)[:80]},"


def _write_inline(directory: Path, step: ops.Inline, content: bytes) -> Result:
    directory.mkdir(mode=0o755)
    with ExitStack() as stack:
        for name, text in step.files:
            file = stack.enter_context(open(directory / _one_name(name), "xb"))
            file.write(text.encode("utf-8", "surrogateescape"))
    return Result(directory, f"sha256:{hashlib.sha256(content).hexdigest()}")


def _one_name(name: str) -> str:
    """A here-document's name is a file's name, and leads nowhere."""
    if "/" in name or name in (".", "..") or "\0" in name:
        raise InvalidArgument(f"the here-document's name {name!r} cannot be a file's name")
    return name


def _plainly(text: str) -> str:
    return text.replace("\0", " ")
