"""Where the files of a session's build come from: the client's directories, an address, what it uploads.

    Dockerfile, its ignore file ─▶ read      only these, so that little is sent before it is known what is needed
    the contexts' files         ─▶ trees     only what the plan's steps look at, without what is ignored

`cove.engine.build.job.Files` for builds of the door.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cove.build import context as contexts
from cove.build import kept
from cove.build.layers import Workshop
from cove.buildkit import filesync
from cove.buildkit.frontend import Asked
from cove.buildkit.gifts import FindSession
from cove.buildkit.messages import session as ask
from cove.buildkit.messages.common import BytesMessage
from cove.buildkit.progress import Trace
from cove.buildkit.sessions import Session, Sessions
from cove.engine.bridging import blocking
from cove.engine.build.job import Recipe
from cove.engine.executors import Executors
from cove.errors import InvalidArgument, Unavailable
from cove.grpc.status import RpcError

BODY = "request-body:"
"""The address of a context that came with the request itself."""

OWN = "local:"
"""How a directory of the client's is named as a context."""

UPLOADS = "buildkit-session"
"""The host of addresses that mean what the client itself has."""
_IGNORE = ".dockerignore"


class SessionFiles:
    """The files of one build."""

    def __init__(
        self,
        asked: Asked,
        find: FindSession,
        others: Sessions,
        executors: Executors,
        workshop: Workshop,
        kept_contexts: Path,
        scratch: Path,
        trace: Trace,
        body: AsyncIterator[bytes] | None = None,
    ) -> None:
        self._body = body
        self._contexts = kept_contexts
        self._asked = asked
        self._find = find
        self._others = others
        self._executors = executors
        self._workshop = workshop
        self._scratch = scratch
        self._trace = trace
        self._main: Path | None = None
        self._ignore: tuple[str, ...] = ()
        self._count = 0
        self._given_back: list[Callable[[], None]] = []

    async def read(self) -> Recipe:
        """The Dockerfile and the patterns of what is ignored."""
        asked, moment = self._asked, None
        if asked.context:
            found = await self._remote(asked.context)
            self._main = found.directory
            if not asked.local_dockerfile:
                self._ignore = found.ignore
                return Recipe(found.dockerfile, found.ignore, found.moment)
            moment = found.moment
        content, own = await self._definition()
        if own is None and self._main is not None:
            own = contexts.ignored(self._main)
        self._ignore = own if own is not None else await self._ignored(asked.context_directory, "[internal]")
        return Recipe(content, self._ignore, moment)

    async def trees(self, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
        """The trees that the steps take files from."""
        found: dict[str, Path] = {}
        for name, paths in wanted.items():
            if name != "context":
                found[name] = await self._named(name, self._asked.contexts.get(name, ""), paths)
            elif self._main is not None:
                found[name] = self._main
            else:
                follow = _followed(paths)
                found[name] = await self._kept(
                    self._asked.context_directory, "[internal] load build context", follow, self._ignore
                )
        return found

    # ── the client's directories ──────────────────────────────────────────────────────────────────

    async def _definition(self) -> tuple[bytes, tuple[str, ...] | None]:
        name = self._asked.filename
        follow = [name, f"{name}{_IGNORE}"]
        if posixpath.basename(name) == "Dockerfile":
            follow.append(posixpath.join(posixpath.dirname(name), "dockerfile"))
        directory = await self._local(
            self._asked.dockerfile_directory, f"[internal] load build definition from {name}", tuple(follow), ()
        )
        asked = "" if name == "Dockerfile" else name
        return await self._executors.disk(contexts.definition, directory, asked)

    async def _ignored(self, name: str, label: str) -> tuple[str, ...]:
        directory = await self._local(name, f"{label} load {_IGNORE}", (_IGNORE,), ())
        return await self._executors.disk(contexts.ignored, directory)

    async def _local(self, name: str, label: str, follow: tuple[str, ...], exclude: tuple[str, ...]) -> Path:
        """What of a client's directory is wanted, on disk."""
        session = await self._session(name)
        directory = self._new()
        await self._transfer(session, directory, name, label, follow, exclude, None)
        return directory

    async def _transfer(
        self,
        session: Session,
        directory: Path,
        name: str,
        label: str,
        follow: tuple[str, ...],
        exclude: tuple[str, ...],
        before: filesync.Before | None,
    ) -> None:
        with self._trace.step(label) as work:
            total = 0

            def told(count: int) -> None:
                nonlocal total
                total = count
                work.progress(f"transferring {name}:", count)

            archive = filesync.archive(session, name, told, follow=follow, exclude=exclude, before=before)
            await self._gather(directory, archive)
            work.progress(f"transferring {name}:", total, done=True)

    async def _kept(self, name: str, label: str, follow: tuple[str, ...], exclude: tuple[str, ...]) -> Path:
        """The same in a copy of that directory, of which only what changed is sent."""
        session = await self._session(name)
        if not session.shared_key:
            return await self._local(name, label, follow, exclude)
        self._count += 1
        key, begun = f"{session.shared_key}\0{name}", time.time_ns()
        place, mine = self._contexts, self._scratch / f"kept-{self._count}"
        copy = await self._executors.disk(kept.take, place, key, mine)

        async def before(entries: dict[str, kept.Entry]) -> Collection[str]:
            await self._executors.bulk(copy.forget, entries)
            self._given_back.append(lambda: kept.give(place, key, copy, begun, entries))
            return frozenset(path for path, entry in entries.items() if copy.unchanged(path, entry))

        await self._transfer(session, copy.tree, name, label, follow, exclude, before)
        return copy.tree

    async def keep(self) -> None:
        """The steps are done and all went well: what came is kept for the next build."""
        for give in self._given_back:
            with contextlib.suppress(OSError):  # then the next build sends everything again
                await self._executors.disk(give)
        self._given_back.clear()

    async def _gather(self, directory: Path, archive: AsyncIterator[bytes]) -> None:
        await self._executors.bulk(self._workshop.gather, directory, blocking(archive))

    async def _session(self, name: str = "") -> Session:
        """The one that has the directory of this name; the build's own for what has none."""
        other = self._asked.sessions.get(name)
        session = await (self._others.get(other) if other else self._find())
        if session is None:
            raise InvalidArgument("the build has no session, from which its files could come")
        return session

    def _new(self) -> Path:
        self._count += 1
        directory = self._scratch / f"files-{self._count}"
        directory.mkdir(mode=0o755)
        return directory

    # ── elsewhere ─────────────────────────────────────────────────────────────────────────────────

    async def _remote(self, address: str) -> contexts.Context:
        """The main context by its address: an upload of the client's, an archive, a repository, a Dockerfile."""
        asked = self._asked
        own = "" if asked.filename == "Dockerfile" else asked.filename
        name = None if asked.local_dockerfile else own
        scratch = self._new()
        with self._trace.step("[internal] load remote build context"):
            if address == BODY or urlsplit(address).hostname == UPLOADS:
                file = scratch / "upload"
                with open(file, "xb") as target:
                    async for piece in self._body or _nothing() if address == BODY else self._upload(address):
                        target.write(piece)
                os.utime(file, (0, 0))
                found = await self._executors.bulk(contexts.downloaded, self._workshop, scratch, file, name)
            else:
                found = await self._executors.bulk(contexts.fetch, self._workshop, scratch, address, name)
        return found

    async def _upload(self, address: str) -> AsyncIterator[bytes]:
        """What the client has for one of its own addresses."""
        session = await self._session()
        parts = urlsplit(address)
        metadata = {"urlpath": [parts.path], "urlhost": [parts.netloc]}
        try:
            async with session.client.call(ask.PULL, metadata) as call:
                await call.end()
                while (message := await call.receive(BytesMessage)) is not None:
                    yield message.data
        except RpcError as error:
            raise Unavailable(f"the client does not send its context: {error.message}") from error

    async def _named(self, name: str, value: str, paths: tuple[str, ...]) -> Path:
        """A named context that is a tree."""
        kind, _, rest = value.partition(":")
        if kind == "local":
            ignore = await self._ignored(rest, f"[context {name}]")
            return await self._local(rest, f"[context {name}] load from client", _followed(paths), ignore)
        scratch = self._new()
        with self._trace.step(f"[context {name}] {value}"):
            fetch: Callable[..., Path] = contexts.fetch_tree
            return await self._executors.bulk(fetch, self._workshop, scratch, value)


async def _nothing() -> AsyncIterator[bytes]:
    no_pieces: tuple[bytes, ...] = ()
    for piece in no_pieces:
        yield piece
    raise InvalidArgument("the request has no body, in which its context should be")


def _followed(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of COPY as the client follows them: relative, without what only says where a parent begins."""
    found = []
    for path in paths:
        plain = posixpath.normpath("/" + path.replace("/./", "/")).lstrip("/")
        if not plain or plain == ".":
            return ()
        found.append(plain)
    return tuple(found)
