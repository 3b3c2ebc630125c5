"""Files for a client's directory: fsutil's protocol, the sending side (`filesync` draws it).

    the result's archive ─▶ one spool file, and where in it each file's content is
    STAT … in order ─▶ REQUEST id ◀── DATA id … ─▶ END

Nothing of the result is resolved by name: contents are read from the spool, which nobody else has.
"""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Protocol

from cove.buildkit import filesync
from cove.buildkit.messages import session as ask
from cove.buildkit.messages.session import SEND, Packet, Stat
from cove.buildkit.sessions import Session
from cove.engine.build.service import BuildService
from cove.errors import InvalidArgument, Unavailable
from cove.grpc.calls import Asked, Metadata
from cove.grpc.status import RpcError

_CHUNK = 64 << 10
_BITS = ((0o4000, filesync.SETUID), (0o2000, filesync.SETGID), (0o1000, filesync.STICKY))


Tree = tuple[str, int | None]
"""A stack of layers, and the time of all its files, None for their own."""


class Told(Protocol):
    """Hears how far it is."""

    def __call__(self, name: str, current: int, total: int = 0, *, done: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    stat: Stat
    offset: int = 0


async def send(
    session: Session, metadata: Metadata, service: BuildService, trees: Mapping[str, Tree], told: Told
) -> None:
    """Send stacks of layers as directories: each by a name below, "" for the top."""
    spool = service.scratch()
    try:
        entries: list[_Entry] = []
        with open(spool / "content", "x+b") as content:
            for prefix, tree in trees.items():
                entries += await service.context.executors.bulk(_spooled, service, tree, prefix, content)
            entries.sort(key=lambda each: each.stat.path.encode("utf-8", "surrogateescape").split(b"/"))
            try:
                async with session.client.call(SEND, metadata) as call:
                    await _conversation(call, entries, content.fileno(), told)
            except RpcError as error:
                raise Unavailable(f"the client does not take the files: {error.message}") from error
    finally:
        service.sweep(spool)


def _spooled(service: BuildService, tree: Tree, prefix: str, content: IO[bytes]) -> list[_Entry]:
    """The files of a stack of layers; their contents go to the spool."""
    reader = _Pieces(service.workshop.pack(*tree))
    found = [_Entry(Stat(path=prefix, mode=filesync.DIRECTORY | 0o755))] if prefix else []
    with tarfile.open(fileobj=reader, mode="r|") as archive:  # type: ignore[call-overload]
        for info in archive:
            name = info.name.removeprefix("./").strip("/")
            if name in ("", "."):
                continue
            path = f"{prefix}/{name}" if prefix else name
            offset = content.tell()
            if info.isreg() and (source := archive.extractfile(info)) is not None:
                while data := source.read(1 << 20):
                    content.write(data)
            found.append(_Entry(_stat(info, path, prefix), offset))
    content.flush()
    return found


def _stat(info: tarfile.TarInfo, path: str, prefix: str) -> Stat:
    mode = info.mode & 0o777
    for bit, go in _BITS:
        mode |= go if info.mode & bit else 0
    link = info.linkname if info.issym() or info.islnk() else ""
    if info.islnk():
        link = link.removeprefix("./").strip("/")
        link = f"{prefix}/{link}" if prefix else link
    if info.isdir():
        mode |= filesync.DIRECTORY
    elif info.issym():
        mode |= filesync.SYMLINK | 0o777
    elif info.isfifo():
        mode |= filesync.FIFO
    elif info.ischr() or info.isblk():
        mode |= filesync.DEVICE | (filesync.CHARACTER if info.ischr() else 0)
    return Stat(
        path=path,
        mode=mode,
        uid=info.uid,
        gid=info.gid,
        size=info.size if info.isreg() else 0,
        mtime_ns=int(info.mtime * 10**9),
        linkname=link,
        devmajor=info.devmajor if mode & filesync.DEVICE else 0,
        devminor=info.devminor if mode & filesync.DEVICE else 0,
    )


class _Pieces:
    """An archive that comes in pieces, as something to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int) -> bytes:
        while len(self._left) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._left += piece
        data, self._left = self._left[:size], self._left[size:]
        return data


async def _conversation(call: Asked, entries: list[_Entry], content: int, told: Told) -> None:
    """Names first; contents as they are asked for, while names are still being sent."""

    async def names() -> None:
        for each in entries:
            await call.send(Packet(type=ask.STAT, stat=each.stat))
        await call.send(Packet(type=ask.STAT))

    sent = 0
    naming = asyncio.ensure_future(names())
    try:
        while (packet := await call.receive(Packet)) is not None:
            if packet.type == ask.ERROR:
                raise Unavailable(f"the client cannot write: {packet.data.decode('utf-8', 'replace')}")
            if packet.type == ask.END:
                await naming
                await call.send(Packet(type=ask.END))
                await call.end()
                continue
            if packet.type != ask.REQUEST or packet.id >= len(entries):
                raise InvalidArgument(f"the client asked for the file number {packet.id}, which is none")
            sent += await _content(call, packet.id, entries[packet.id], content)
            told("copying files", sent)
    finally:
        naming.cancel()
        await asyncio.gather(naming, return_exceptions=True)
    told("copying files", sent, done=True)


async def _content(call: Asked, number: int, entry: _Entry, content: int) -> int:
    offset, left = entry.offset, entry.stat.size
    while left:
        data = os.pread(content, min(left, _CHUNK), offset)
        if not data:
            raise Unavailable(f"{entry.stat.path} could not be read back")
        await call.send(Packet(type=ask.DATA, id=number, data=data))
        offset, left = offset + len(data), left - len(data)
    await call.send(Packet(type=ask.DATA, id=number))
    return entry.stat.size
