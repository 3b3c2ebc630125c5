"""Where a build's files come from: its request's body or an address, and named contexts.

    POST /cove/build/context ─▶ Upload, kept under an id for some minutes ─▶ taken by the build that names it
    body, an address, an upload ─▶ the main context, with the Dockerfile
    --build-context NAME=…   ─▶ an upload, an address (fetched when a step needs it), or an image

Nothing is unpacked or fetched before a step needs it, but the main context of an address.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from cove.build import context as contexts
from cove.build.arrived import Arrived
from cove.build.cache import BuildCache
from cove.build.giturl import parse_git
from cove.build.layers import Workshop
from cove.engine.bridging import blocking
from cove.engine.build.job import Recipe
from cove.engine.executors import Executors
from cove.errors import InvalidArgument, Unsupported
from cove.wire.builds import BuildOptions

SENT = "sent:"
"""How an upload is named as a context: with its id behind."""

_IMAGE = "docker-image:"
MAIN = ""
"""The main context among the uploads."""
InMemory = Callable[[Path], Path | None]
"""A directory in memory that goes with a scratch directory; None where there can be none."""


class Upload(msgspec.Struct, frozen=True):
    """A directory that a client sent before the build that uses it."""

    scratch: Path
    files: Path | Arrived
    give: Callable[[], None] | None = None
    """Keeps the files for the next build of them."""

    def remove(self) -> None:
        """Nobody needs it any more. Blocks."""
        if isinstance(self.files, Arrived):
            self.files.close()
        if self.give is not None:
            with suppress(OSError):  # then the next build is sent everything again
                self.give()
        remove(self.scratch)


def remove(scratch: Path) -> None:
    """What a build left on disk and in memory."""
    with suppress(OSError):
        shutil.rmtree((scratch / "memory").readlink(), ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)


def tree_or_image(name: str, value: str, own: str = SENT) -> str:
    """A named context in the words of a plan: "image:REFERENCE" or "tree". Raises InvalidArgument or Unsupported.

    `own` is how a directory of the client's is named.
    """
    if value.startswith(_IMAGE):
        return f"image:{value.removeprefix(_IMAGE).removeprefix('//')}"
    if value.startswith((own, "http://", "https://")) or parse_git(value) is not None:
        return "tree"
    if value.startswith("oci-layout:"):
        raise Unsupported(
            f"the build context {name} is a layout that only the client has; load it, or use cove build"
        )
    raise InvalidArgument(
        f"the build context {name}={value} is none: it is a directory, an address of an archive or a git repository, "
        "docker-image://IMAGE or oci-layout://DIRECTORY"
    )


class RequestFiles:
    """The files of one build that came by a plain request."""

    def __init__(
        self,
        options: BuildOptions,
        body: AsyncIterator[bytes],
        uploads: Mapping[str, Upload],
        *,
        executors: Executors,
        workshop: Workshop,
        cache: BuildCache,
        scratch: Path,
        in_memory: InMemory,
    ) -> None:
        self._options = options
        self._body = body
        self._uploads = uploads
        self._executors = executors
        self._workshop = workshop
        self._cache = cache
        self._scratch = scratch
        self._in_memory = in_memory
        self._main: Path | Arrived = scratch

    async def read(self) -> Recipe:
        """The Dockerfile; the context is here afterwards."""
        options, run = self._options, self._executors.bulk
        if options.context:
            found = await run(contexts.recognized, self._uploads[MAIN].files, options.dockerfile, self._cache)
            self._main = found.files
            return Recipe(found.dockerfile, found.ignore)
        if options.remote:
            fetched = await run(contexts.fetch, self._workshop, self._scratch, options.remote, options.dockerfile)
            self._main = fetched.directory
            return Recipe(fetched.dockerfile, fetched.ignore, fetched.moment)
        found = await run(
            contexts.receive,
            self._workshop,
            self._scratch,
            blocking(self._body),
            options.dockerfile,
            lambda: self._in_memory(self._scratch),
            self._cache,
        )
        self._main = found.files
        return Recipe(found.dockerfile, found.ignore)

    async def trees(self, wanted: Mapping[str, tuple[str, ...]]) -> Mapping[str, Path | Arrived]:
        """The main context, and those named ones that a step looks at."""
        found: dict[str, Path | Arrived] = {"context": self._main}
        for name in wanted:
            if name in self._uploads:
                found[name] = self._uploads[name].files
            elif name in self._options.contexts:
                found[name] = await self._fetched(self._options.contexts[name])
        return found

    async def _fetched(self, address: str) -> Path:
        place = self._scratch / f"named-{len(list(self._scratch.glob('named-*')))}"
        place.mkdir(mode=0o700)
        tree: Path = await self._executors.bulk(contexts.fetch_tree, self._workshop, place, address)
        return tree

    def remove(self) -> None:
        """Nobody needs the files any more. Blocks."""
        if isinstance(self._main, Arrived):
            self._main.close()
        for upload in self._uploads.values():
            upload.remove()
        remove(self._scratch)


class Uploads:
    """Directories that were sent and wait for their build; too many, or unused for long, and the oldest goes."""

    MOST = 32
    PATIENCE = 600.0
    """Seconds."""

    def __init__(self) -> None:
        self._waiting: dict[str, Upload] = {}

    def add(self, identity: str, upload: Upload) -> list[Upload]:
        """Keep it; those that have to go for it."""
        self._waiting[identity] = upload
        oldest = list(self._waiting)[: max(len(self._waiting) - self.MOST, 0)]
        return [self._waiting.pop(each) for each in oldest]

    def pop(self, identity: str) -> Upload | None:
        return self._waiting.pop(identity, None)

    def all(self) -> Iterable[Upload]:
        """Everything that waits, which waits no more."""
        found, self._waiting = list(self._waiting.values()), {}
        return found
