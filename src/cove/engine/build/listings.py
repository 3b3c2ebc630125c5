"""Large directories of a client that only asks: it says what it has, and sends only what the daemon does not have.

    POST /cove/build/listing ─▶ the kept copy, this build's alone ─▶ which files need not be sent
    POST /cove/build/context?listing=ID ─▶ what changed, into the copy ─▶ Upload, under the same id
    the build's end ─▶ kept again

`cove.build.kept` says when a file counts as unchanged. The copy is known by the listing and what came besides: the
same again is the same content, so that the cache knows what each COPY would bring without reading it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec

from cove import ids
from cove.build import kept
from cove.build.arrived import Arrived
from cove.build.layers import Workshop
from cove.engine.bridging import blocking
from cove.engine.executors import Executors
from cove.errors import InvalidArgument, NotFound

_MOST = 512 << 20
"""Bytes of a listing."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One file: its path in bytes as Latin-1, and what the client says of it (`cove.build.kept.Entry`)."""

    path: str
    mode: int
    size: int
    mtime_ns: int
    link: str = ""


class Begun(msgspec.Struct, frozen=True):
    """A copy that waits for what changed. `give` keeps it again."""

    copy: kept.Copy
    digest: str
    give: Callable[[], None]


class Listings:
    """The copies that wait for their clients."""

    def __init__(self, place: Path, workshop: Workshop, executors: Executors) -> None:
        self._place = place
        self._workshop = workshop
        self._executors = executors
        self._begun: dict[str, Begun] = {}

    async def begin(self, key: str, body: AsyncIterator[bytes], scratch: Path) -> tuple[str, list[int]]:
        """Hear what a client has: the id of its copy, and the places in the list of what need not be sent."""
        raw = bytearray()
        async for piece in body:
            raw += piece
            if len(raw) > _MOST:
                raise InvalidArgument(f"the list of the context's files is longer than {_MOST} bytes")
        begun, known = await self._executors.bulk(self._compared, key, bytes(raw), scratch)
        identity = ids.new_id()
        self._begun[identity] = begun
        return identity, known

    def _compared(self, key: str, raw: bytes, scratch: Path) -> tuple[Begun, list[int]]:
        began = time.time_ns()
        try:
            members = msgspec.json.decode(raw, type=list[Member])
            paths = [each.path.encode("latin-1").decode("utf-8", "surrogateescape") for each in members]
        except (msgspec.MsgspecError, UnicodeEncodeError) as error:
            raise InvalidArgument(f"the list of the context's files cannot be read: {error}") from error
        entries = {
            path: (each.mode, each.size, each.mtime_ns, each.link) for path, each in zip(paths, members, strict=True)
        }
        name = f"{key}\0as listed"
        copy = kept.take(self._place, name, scratch / "kept")
        copy.forget(entries)
        known = [place for place, path in enumerate(paths) if copy.unchanged(path, entries[path])]
        digest = hashlib.sha256(raw).hexdigest()
        return Begun(copy, digest, lambda: kept.give(self._place, name, copy, began, entries)), known

    async def fill(self, identity: str, body: AsyncIterator[bytes]) -> tuple[Arrived, Callable[[], None]]:
        """Take what changed: the whole context, and what keeps it again."""
        begun = self._begun.pop(identity, None)
        if begun is None:
            raise NotFound("the context's files were not listed, or were sent already")
        content = hashlib.sha256(begun.digest.encode())
        await self._executors.bulk(self._workshop.gather, begun.copy.tree, _hashed(blocking(body), content.update))
        return Arrived.there(begun.copy.tree, f"listing {content.hexdigest()}"), begun.give

    def forget(self, identity: str) -> None:
        """Nobody sends anything for it any more."""
        self._begun.pop(identity, None)


def _hashed(pieces: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in pieces:
        update(piece)
        yield piece
