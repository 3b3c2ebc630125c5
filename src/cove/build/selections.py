"""What COPY, ADD and bind mounts take from trees: a selection's digest, and what changed since a layer was made.

    tree in layers           digest remembered for good
    context's archive        digest remembered by the archive's
    client's kept directory  index of each selection beside it (`cove.image.worker.index`): only what changed is read,
                             and a step that copied the selection before copies only that

    selections/NAME          the index; NAME is the digest of what is selected
    selections/NAME.new      the next one, which takes its place when a step has made a layer of it
    selections/NAME.layers   of that index: a step ─▶ the layer that it made

Serves one build. Knows no keys and makes no layers.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cove.build import kept, ops
from cove.build.arrived import Arrived
from cove.build.cache import BuildCache
from cove.build.graph import definition
from cove.build.layers import Source, Workshop
from cove.image.worker.index import Change

_MAX_NAMED_FILES = 20_000

Blocking = Callable[..., Awaitable[Any]]
Digest = tuple[str, list[list[str]]]
"""The digest of a selection, and as far as they are told each file's path and digest."""


@dataclass(frozen=True, slots=True)
class Result:
    """A file system by the chain id of its layers, or a tree on disk. `size`: bytes that the step added."""

    source: Source | Arrived
    identity: str
    size: int = 0
    created_ns: int = 0


class _Looked:
    """One look at a kept selection; `change` is what is not as the index at `file` has it."""

    def __init__(self, file: Path, change: Change | None) -> None:
        self.file = file
        self.change = change
        self._layers = file.with_suffix(".layers")
        self.before = self._read()
        self._made: dict[str, str] = {}
        self._adopted = False
        if change is None:
            self.adopt({})
        elif not change.removed and not change.copied:
            self.adopt(self.before)

    def adopt(self, layers: Mapping[str, str]) -> None:
        """The index of now is that of these layers. An OSError leaves what is believed by nobody."""
        self._made |= layers
        self._layers.unlink(missing_ok=True)
        if not self._adopted:
            os.rename(self.file.with_suffix(".new"), self.file)
            self._adopted = True
        self._layers.write_bytes(msgspec.json.encode(self._made))

    @property
    def adopted(self) -> bool:
        return self._adopted

    def _read(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._layers.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.MsgspecError):
            return {}


class Selections:
    """Those of one build. `contexts` are its trees by name, `ignore` what is left out of the main one."""

    def __init__(
        self,
        workshop: Workshop,
        cache: BuildCache,
        blocking: Blocking,
        contexts: Mapping[str, Path | Arrived],
        ignore: tuple[str, ...],
    ) -> None:
        self._workshop = workshop
        self._cache = cache
        self._blocking = blocking
        self._main = contexts.get("context")
        self._ignore = ignore
        self._found: dict[str, Digest] = {}
        self._looked: dict[str, _Looked] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def ignored(self, source: Result) -> tuple[str, ...]:
        """The patterns of what a copy leaves out."""
        return self._ignore if source.source == self._main else ()

    async def digest(self, selection: ops.Selection, source: Result) -> Digest:
        """What would be copied."""
        bare, name = self._named(selection, source, source.identity)
        async with self._locks[name]:  # steps with the same selection look once
            found = self._found.get(name) or self._remembered(name, source)
            if found is None:
                found = await self._look(bare, source)
                self._remember(name, source, found)
            self._found[name] = found
        return found

    def _named(self, selection: ops.Selection, source: Result, of: str) -> tuple[ops.Selection, str]:
        """What of a selection counts for its digest, and what it is called, as one `of` something."""
        bare = msgspec.structs.replace(selection, destination="/", owner=selection.owner and "x")
        question = "\0".join((of, *self.ignored(source)))
        return bare, hashlib.sha256(question.encode("utf-8", "surrogateescape") + definition(bare)).hexdigest()

    def _remembered(self, name: str, source: Result) -> Digest | None:
        if isinstance(source.source, Arrived):
            return self._cache.selection(name)
        if isinstance(source.source, str) and (known := self._cache.digest(name)) is not None:
            return known, []
        return None

    def _remember(self, name: str, source: Result, found: Digest) -> None:
        if isinstance(source.source, Arrived):
            self._cache.keep_selection(name, *found)
        elif isinstance(source.source, str):
            self._cache.keep_digest(name, found[0])

    async def _look(self, bare: ops.Selection, source: Result) -> Digest:
        tree = source.source
        if isinstance(tree, Arrived):
            tree = await self._blocking(tree.tree)
        notes = kept.notes(tree) if isinstance(tree, Path) else None
        if isinstance(tree, str) or notes is None:
            listed = not isinstance(tree, str)
            found = await self._blocking(self._workshop.digest, tree, bare, self.ignored(source), listed=listed)
        else:
            name = self._named(bare, source, "")[1]
            found = await self._blocking(self._indexed, tree, notes / name, bare, self.ignored(source))
        return found["digest"], found["files"][:_MAX_NAMED_FILES]

    # ── kept directories ──────────────────────────────────────────────────────────────────────────

    def _indexed(self, tree: Path, file: Path, bare: ops.Selection, ignore: tuple[str, ...]) -> dict[str, Any]:
        """The digest by what is known of the selection, and what is known then. Blocks."""
        flags, new = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file.with_suffix(".new")
        before = os.open(file, flags, 0o600)
        try:
            after = os.open(new, flags | os.O_TRUNC, 0o600)
            try:
                found = self._workshop.digest(tree, bare, ignore, listed=True, index=(before, after))
            finally:
                os.close(after)
        finally:
            os.close(before)
        self._looked[file.name] = _Looked(file, Change(**found["change"]) if found["change"] else None)
        return found

    def earlier(self, step: ops.Transfer, base: str, source: Result) -> tuple[str, Change] | None:
        """The layer that the same step made of the selection on the same base before, and what changed since."""
        looked = self._look_of(step, source)
        if looked is None or looked.change is None:
            return None
        layer = looked.before.get(_identity(step, base), "")
        return (layer, looked.change) if layer else None

    def made(self, step: ops.Transfer, base: str, source: Result, layer: str, *, now: bool) -> None:
        """This layer is what a step makes of the selection; `now`: it has just made it, with the files' times."""
        looked = self._look_of(step, source)
        if looked is not None and (now or looked.adopted):
            with suppress(OSError):  # then the next build copies everything
                looked.adopt({_identity(step, base): layer} if now else {})

    def seen(self, selection: ops.Selection, source: Result) -> None:
        """A step that makes no copy has looked at the selection."""
        looked = self._looked.get(self._named(selection, source, "")[1])
        if looked is not None and not looked.adopted:
            with suppress(OSError):
                looked.adopt({})

    def _look_of(self, step: ops.Transfer, source: Result) -> _Looked | None:
        if len(step.copies) != 1 or step.copies[0].parents or step.copies[0].unpack:
            return None
        return self._looked.get(self._named(step.copies[0], source, "")[1])


def _identity(step: ops.Transfer, base: str) -> str:
    return hashlib.sha256(f"{base}\0".encode() + definition(step)).hexdigest()
