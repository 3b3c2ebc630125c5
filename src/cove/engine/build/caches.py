"""Cache mounts: directories of the daemon that `RUN --mount=type=cache` shows, found by how they were asked for.

    Name ─▶ digest ─▶ build root/DIGEST/{content, id, name}
    export ─▶ an archive whose first record tells the name ─▶ import, here or elsewhere: the same mount finds it

A step that shares a directory has it together with others, one that locks it alone; whoever exports or imports has
it alone too, so that what is written down is one moment of it. Nothing inside is ever looked up by the daemon: other
steps may be changing it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import msgspec

from cove.engine.bridging import blocking
from cove.engine.build.leftovers import mount_room
from cove.engine.build.turns import Turns
from cove.engine.executors import Executors
from cove.errors import Conflict, InvalidArgument, NotFound
from cove.image.travel import archives
from cove.image.worker.members import Limits
from cove.oci.spec import Mount
from cove.wire.builds import CacheMount
from cove.wire.times import stamp

WHOLE = Limits(size=1 << 50, entries=1 << 40)
"""A cache may be as large as a disk: what bounds it is that."""
_BLOCK = 512
_MOST_NAME = 64 << 10
_MARK = "cove cache mount "
"""How the comment begins that tells an archive's name."""


class Name(msgspec.Struct, frozen=True, omit_defaults=True):
    """What makes a cache the same: its id, and how it begins. `base` is the stack of layers that it began as a copy
    of; `number` tells those apart that steps want each for itself, -1 for the one that is shared."""

    id: str
    source: str = ""
    uid: int = 0
    gid: int = 0
    mode: int = 0o755
    base: str = ""
    number: int = -1

    @property
    def identity(self) -> str:
        """All of it as one text."""
        text = f"{self.id}\0{self.source}" if self.source else self.id
        if (self.uid, self.gid, self.mode) != (0, 0, 0o755):
            text += f"\0{self.uid}:{self.gid} {self.mode:o}"
        if self.base:
            text += f"\0{self.base}"
        return f"{text}\0{self.number}" if self.number >= 0 else text

    @property
    def directory(self) -> str:
        """What its directory is called: ours, whatever the id says."""
        return hashlib.sha256(self.identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Caches:
    """The directories of one daemon. `root` holds them."""

    def __init__(self, root: Path, executors: Executors) -> None:
        self._root = root
        self._executors = executors
        self.turns = Turns()

    def path(self, name: Name) -> Path:
        """Its content, which may not be there yet."""
        return self._root / name.directory / "content"

    async def ready(self, name: Name, fill: Callable[[Path], None] | None) -> Path:
        """Its content, which begins empty or as `fill` makes it. To be asked for by who has it."""
        if not self.path(name).exists():
            with suppress(OSError):  # then another step was first
                await self._executors.bulk(self._make, name, fill)
        os.utime(self._root / name.directory)
        return self.path(name)

    def _make(self, name: Name, fill: Callable[[Path], None] | None) -> None:
        with self._new(name) as (fresh, content):
            if fill is None:
                content.mkdir()
            else:
                fill(content)
            os.chmod(content, name.mode)
            os.chown(content, name.uid, name.gid)
            os.rename(fresh, self._root / name.directory)

    def _new(self, name: Name) -> _Fresh:
        return _Fresh(self._root / f".{secrets.token_hex(8)}", name)

    async def drop(self, directory: str) -> bool:
        """Remove one by its own id, unless a step has it or waits for it; whether it is gone."""
        place = self._root / directory
        try:
            name = await self._executors.disk(_read_name, place)
        except FileNotFoundError:
            return True
        if self.turns.taken(name.identity):
            return False
        async with self.turns.held(name.identity, alone=True):
            await self._executors.bulk(_remove, place)
        return True

    # ── on the move ───────────────────────────────────────────────────────────────────────────────

    async def mounts(self) -> list[CacheMount]:
        """What there is, the most recently used first."""
        found: list[CacheMount] = await self._executors.bulk(self._list)
        return found

    def _list(self) -> list[CacheMount]:
        found = []
        for directory, name in self._named():
            with suppress(FileNotFoundError):  # it was pruned meanwhile
                used, room = stamp(directory.stat().st_mtime_ns), mount_room(directory)
                found.append(
                    CacheMount(
                        id=directory.name,
                        name=name.id,
                        source=name.source,
                        owner=f"{name.uid}:{name.gid}",
                        mode=f"{name.mode:04o}",
                        base=name.base,
                        number=max(name.number, 0),
                        size=room,
                        last_used_at=used,
                    )
                )
        return sorted(found, key=lambda each: each.last_used_at, reverse=True)

    def _named(self) -> Iterator[tuple[Path, Name]]:
        for directory in self._root.iterdir() if self._root.is_dir() else ():
            if directory.name.startswith("."):
                continue
            try:
                yield directory, _read_name(directory)
            except FileNotFoundError:
                continue

    async def export(self, which: str) -> AsyncIterator[bytes]:
        """The content as an archive that tells its name. Steps that want it wait meanwhile."""
        name = await self._executors.disk(self._find, which)
        return self._exported(name)

    async def _exported(self, name: Name) -> AsyncIterator[bytes]:
        async with self.turns.held(name.identity, alone=True):
            content = self.path(name)
            if not content.exists():
                raise NotFound(f"the cache {name.id} was pruned meanwhile")
            yield _label(name)
            pieces = archives.read_archive(_bound(content, "ro"), "/.", sparse=True)
            async for piece in self._executors.stream(pieces):
                yield piece

    def _find(self, which: str) -> Name:
        """By its id in Dockerfiles, or by the beginning of its own. Raises NotFound or Conflict."""
        named = list(self._named())
        found = [(directory, name) for directory, name in named if name.id == which]
        found = found or [
            (directory, name) for directory, name in named if which and directory.name.startswith(which)
        ]
        if not found:
            raise NotFound(f"there is no cache mount {which!r}; cove builder mounts lists those that there are")
        if len(found) > 1:
            ids = ", ".join(sorted(directory.name[:12] for directory, _ in found))
            raise Conflict(
                f"several cache mounts are called {which!r}, with other owners or bases: name one of {ids}"
            )
        return found[0][1]

    async def import_(self, name: Name | None, stream: AsyncIterator[bytes]) -> CacheMount:
        """Put an archive in a cache's place. Without a `name` it is called as the archive says."""
        told, body = await self._executors.bulk(_labelled, blocking(stream))
        wanted = name or told
        if wanted is None:
            raise InvalidArgument("the archive does not tell which cache it was: give the id of the mount")
        with self._new(wanted) as (fresh, content):
            content.mkdir()
            root = _bound(content, "rw")
            await self._executors.bulk(archives.write_archive, root, "/", body, top=True, limits=WHOLE)
            if told is None:
                os.chmod(content, wanted.mode)
                os.chown(content, wanted.uid, wanted.gid)
            async with self.turns.held(wanted.identity, alone=True):
                await self._executors.bulk(self._replace, fresh, self._root / wanted.directory)
        return next(each for each in await self.mounts() if each.id == wanted.directory)

    def _replace(self, fresh: Path, directory: Path) -> None:
        doomed = fresh.with_name(f"{fresh.name}-old")
        with suppress(FileNotFoundError):
            os.rename(directory, doomed)
        os.rename(fresh, directory)
        shutil.rmtree(doomed, ignore_errors=True)


class _Fresh:
    """A directory on its way to a cache's place: it, and its content. What was not renamed goes at the end."""

    def __init__(self, directory: Path, name: Name) -> None:
        self._directory = directory
        self._name = name

    def __enter__(self) -> tuple[Path, Path]:
        self._directory.mkdir(mode=0o700, parents=True)
        (self._directory / "id").write_text(self._name.id, errors="surrogateescape")
        (self._directory / "name").write_bytes(msgspec.json.encode(self._name))
        return self._directory, self._directory / "content"

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _remove(directory: Path) -> None:
    doomed = directory.with_name(f".{secrets.token_hex(8)}-old")
    with suppress(FileNotFoundError):
        os.rename(directory, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _read_name(directory: Path) -> Name:
    """The name of a cache's directory; one of an older daemon tells only the id."""
    try:
        return msgspec.json.decode((directory / "name").read_bytes(), type=Name)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Name((directory / "id").read_text(errors="surrogateescape"))


def _bound(content: Path, access: str) -> archives.FsRoot:
    return archives.stopped((Mount(destination="/", source=str(content), type="bind", options=("bind", access)),))


def _label(name: Name) -> bytes:
    """A name as a record that other readers of archives pass over: a comment of the whole."""
    return tarfile.TarInfo.create_pax_global_header({"comment": _MARK + msgspec.json.encode(name).decode()})


def _labelled(pieces: Iterator[bytes]) -> tuple[Name | None, Iterator[bytes]]:
    """The name that an archive tells, None for an archive of somebody else's; and all of the archive."""
    head = bytearray()
    for piece in pieces:
        head += piece
        if len(head) >= _BLOCK and (head[156:157] != b"g" or len(head) >= _BLOCK + _MOST_NAME):
            break
    whole = chain([bytes(head)], pieces)
    if head[156:157] != b"g":
        return None, whole
    try:
        length = tarfile.TarInfo.frombuf(bytes(head[:_BLOCK]), "utf-8", "strict").size
        text = bytes(head[_BLOCK : _BLOCK + min(length, _MOST_NAME)]).decode()
        _, mark, encoded = text.rstrip("\n").partition(f"comment={_MARK}")
        return (msgspec.json.decode(encoded, type=Name), whole) if mark else (None, whole)
    except (tarfile.TarError, ValueError, msgspec.MsgspecError):
        return None, whole
