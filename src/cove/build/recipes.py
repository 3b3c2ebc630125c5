"""What results are called by how they are made, for those who have a result but not what it was made of.

    recipe(step) = digest(the step's definition, recipes of the stages that it uses, digests of files from outside)

A key by content (`steps`) needs every input's files, and so each stage that something is copied from. A recipe needs
only sources: images, contexts, downloads. So a stage need not run of which somebody has what was copied from it. The
same recipe may give other files, as commands look at clocks and networks: who takes a result by its recipe wants what
was made by it before.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from cove.build import ops
from cove.build.graph import Vertex, definition

Digest = Callable[[ops.Selection, Vertex], Awaitable[str]]
"""The digest of files of a source, by their contents."""
Whole = Callable[[Vertex], Awaitable[str]]
"""What all of a source is called, by its content."""


class Recipes:
    """Those of one build's steps, each found out once."""

    def __init__(self, digest: Digest, whole: Whole) -> None:
        self._digest = digest
        self._whole = whole
        self._found: dict[str, asyncio.Task[str]] = {}

    async def of(self, vertex: Vertex) -> str:
        """The recipe of a step's result; "" where one below has to be made anew."""
        known = self._found.get(vertex.key)
        if known is None:
            known = self._found[vertex.key] = asyncio.ensure_future(self._of(vertex))
        return await asyncio.shield(known)

    async def close(self) -> None:
        """Give up what nobody needs any more."""
        for task in self._found.values():
            task.cancel()
        await asyncio.gather(*self._found.values(), return_exceptions=True)

    async def _of(self, vertex: Vertex) -> str:
        if not vertex.inputs:
            return await self._whole(vertex)
        if vertex.fresh:
            return ""
        whole = hashlib.sha256(b"recipe\0" + definition(vertex.step))
        for place, origin in enumerate(vertex.inputs):
            text = await self._input(vertex, place, origin)
            if origin.inputs and not text:
                return ""
            whole.update(f"\0{place}\0{text}".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    async def _input(self, vertex: Vertex, place: int, origin: Vertex) -> str:
        """What one input comes to: of a context, only the files that are used."""
        if not isinstance(origin.step, ops.Context):
            return await self.of(origin)
        found = [await self._digest(each, origin) for each in _selections(vertex, place)]
        return "\0".join(found)


def _selections(vertex: Vertex, place: int) -> list[ops.Selection]:
    """What a step uses of an input."""
    step = vertex.step
    if isinstance(step, ops.Transfer):
        return [step.copies[place - 1]]
    if isinstance(step, ops.Run):
        sources = [each.source or "/" for each in step.mounts if each.input == place and each.type == "bind"]
        return [ops.Selection(sources=(each,), destination="/", root_owned=False) for each in sources]
    return []
