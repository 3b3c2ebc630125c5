"""Files of a client's directory, taken over its session as an archive: fsutil's protocol, the receiving side.

    daemon                                             client
      DiffCopy(dir-name, followpaths, exclude-patterns) ─▶
      ◀── STAT path mode size time … for each file, in order; at the end STAT without one
      REQUEST id ─────────────────────────────────────▶   what of it is wanted, by its place in that order
      ◀── DATA id bytes … DATA id without bytes            of several files at the same time
      END ────────────────────────────────────────────▶
      ◀──────────────────────────────────────────── END

What comes is packed as a tar archive for the confined worker: a client's names are never resolved here.
Source: github.com/tonistiigi/fsutil, send.go and receive.go.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from urllib.parse import quote_plus

from cove import ustar
from cove.build.kept import Entry
from cove.buildkit.messages import session as ask
from cove.buildkit.messages.session import Packet, Stat
from cove.buildkit.sessions import Session
from cove.errors import InvalidArgument, NotFound, Unavailable
from cove.grpc.calls import Asked, Metadata
from cove.grpc.status import Code, RpcError

DIRECTORY, SYMLINK, DEVICE, FIFO, SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
CHARACTER, SETUID, SETGID, STICKY = 1 << 21, 1 << 23, 1 << 22, 1 << 20
TYPE = DIRECTORY | SYMLINK | DEVICE | FIFO | SOCKET | CHARACTER | 1 << 19
"""Bits of Go's os.FileMode."""

_LARGE = 4 << 20
_AHEAD_BYTES, _AHEAD_FILES = 16 << 20, 96
_MAX_FILES = 4_000_000
_END_OF_ARCHIVE = bytes(2 * ustar.BLOCK)

Before = Callable[[dict[str, Entry]], Awaitable[Collection[str]]]
Told = Callable[[int], None]
"""Hears how many bytes came so far."""


async def archive(
    session: Session,
    name: str,
    told: Told,
    *,
    follow: Sequence[str] = (),
    exclude: Sequence[str] = (),
    before: Before | None = None,
) -> AsyncIterator[bytes]:
    """The client's directory `name` as a tar archive: only `follow` and what it leads to, without `exclude`.

    `before` hears, before the first file comes, what the client has, and says which of it need not be sent.
    """
    wanted = {"dir-name": [name], "followpaths": list(follow), "exclude-patterns": list(exclude)}
    async with session.client.call(ask.DIFF_COPY, _encoded(wanted)) as call:
        transfer = _Transfer(call, name, told)
        try:
            await transfer.list()
            if before is not None:
                transfer.known = await before({each.path: entry(each) for each in transfer.stats})
            for piece in transfer.plain():
                yield piece
            async for piece in transfer.small():
                yield piece
            async for piece in transfer.large():
                yield piece
            for piece in transfer.links():
                yield piece
            await transfer.finish()
        except RpcError as error:
            if error.code == Code.UNIMPLEMENTED:
                raise NotFound(f"the client's session offers no local files, of which {name} was wanted") from error
            raise Unavailable(f"the client's files ({name}) cannot be had: {error.message}") from error
    yield _END_OF_ARCHIVE


def _encoded(values: Mapping[str, list[str]]) -> Metadata:
    """As metadata: what is not plain ASCII is quoted, and a further key says so."""
    found: Metadata = {}
    for key, texts in values.items():
        if not texts:
            continue
        plain = all(text.isascii() and text.isprintable() and text == text.strip() for text in texts)
        found[key] = texts if plain else [quote_plus(text, errors="surrogateescape") for text in texts]
        if not plain:
            found[f"{key}-encoded"] = ["1"]
    return found


class _Transfer:
    """One DiffCopy under way."""

    def __init__(self, call: Asked, name: str, told: Told) -> None:
        self._call = call
        self._name = name
        self._told = told
        self.stats: list[Stat] = []
        self.known: Collection[str] = ()
        self._bytes = 0

    async def list(self) -> None:
        """Every file that the client has."""
        while True:
            packet = await self._next(ask.STAT)
            if packet.stat is None:
                return
            self.stats.append(packet.stat)
            if len(self.stats) > _MAX_FILES:
                raise InvalidArgument(f"the context {self._name} has more than {_MAX_FILES} files")

    def plain(self) -> Iterator[bytes]:
        """What has no content: directories, symbolic links, devices."""
        for stat in self.stats:
            if stat.mode & TYPE and not stat.mode & SOCKET:
                yield header(stat, 0)

    def links(self) -> Iterator[bytes]:
        """Further names of files that are there by now."""
        for stat in self.stats:
            if not stat.mode & TYPE and stat.linkname:
                yield header(stat, 0)

    async def small(self) -> AsyncIterator[bytes]:
        """Files that fit into memory, several at the same time, each when it is whole."""
        waiting = iter([(number, stat) for number, stat in self._files() if stat.size <= _LARGE])
        coming: dict[int, tuple[Stat, list[bytes]]] = {}
        ahead = 0
        following = next(waiting, None)
        while following is not None or coming:
            while following is not None and ahead < _AHEAD_BYTES and len(coming) < _AHEAD_FILES:
                number, stat = following
                coming[number] = (stat, [])
                ahead += stat.size
                await self._call.send(Packet(type=ask.REQUEST, id=number))
                following = next(waiting, None)
            packet = await self._next(ask.DATA)
            if packet.id not in coming:
                raise InvalidArgument(f"the client sent a file that nobody asked for, number {packet.id}")
            stat, pieces = coming[packet.id]
            if packet.data:
                pieces.append(packet.data)
                continue
            del coming[packet.id]
            ahead -= stat.size
            content = b"".join(pieces)
            yield header(stat, len(content)) + content + bytes(-len(content) % ustar.BLOCK)

    async def large(self) -> AsyncIterator[bytes]:
        """One after the other, as their bytes come."""
        for number, stat in self._files():
            if stat.size <= _LARGE:
                continue
            await self._call.send(Packet(type=ask.REQUEST, id=number))
            yield header(stat, stat.size)
            left = stat.size
            while data := (await self._next(ask.DATA)).data:
                left -= len(data)
                if left < 0:
                    break
                yield data
            if left:
                raise Unavailable(f"{stat.path} changed while it was being sent; build again")
            yield bytes(-stat.size % ustar.BLOCK)

    def _files(self) -> Iterator[tuple[int, Stat]]:
        for number, stat in enumerate(self.stats):
            if not stat.mode & TYPE and not stat.linkname and stat.path not in self.known:
                yield number, stat

    async def finish(self) -> None:
        """Say that nothing more is wanted, and hear that it was understood."""
        await self._call.send(Packet(type=ask.END))
        await self._next(ask.END)

    async def _next(self, kind: int) -> Packet:
        packet = await self._call.receive(Packet)
        if packet is None:
            raise Unavailable(f"the client stopped sending {self._name}")
        if packet.type == ask.ERROR:
            reason = packet.data.decode("utf-8", "replace")
            raise Unavailable(f"the client cannot send {self._name}: {reason}")
        if packet.type != kind:
            raise InvalidArgument(f"the client sent a packet of the type {packet.type} where {kind} was due")
        self._bytes += len(packet.data)
        self._told(self._bytes)
        return packet


def entry(stat: Stat) -> Entry:
    """What tells whether a file is the same as before; attributes are not compared, but sent again."""
    return (stat.mode, -1 if stat.xattrs else stat.size, stat.mtime_ns, stat.linkname)


def permissions(mode: int) -> int:
    """POSIX' twelve bits of a Go mode."""
    found = mode & 0o777
    found |= 0o4000 if mode & SETUID else 0
    found |= 0o2000 if mode & SETGID else 0
    return found | (0o1000 if mode & STICKY else 0)


def header(stat: Stat, size: int) -> bytes:
    """The archive's header for a file."""
    kind = _kind(stat)
    name = stat.path.strip("/").encode("utf-8", "surrogateescape")
    link = stat.linkname.encode("utf-8", "surrogateescape")
    device = (stat.devmajor, stat.devminor)
    seconds = stat.mtime_ns // 10**9
    if not stat.xattrs:
        plain = ustar.header(
            name, mode=permissions(stat.mode), size=size, mtime=seconds, kind=kind, link=link, device=device
        )
        if plain is not None:
            return plain
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.mode, info.size, info.mtime, info.type = permissions(stat.mode), size, seconds, kind
    info.linkname = stat.linkname
    info.devmajor, info.devminor = device
    info.pax_headers = {
        f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in stat.xattrs.items()
    }
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _kind(stat: Stat) -> bytes:
    if stat.mode & DIRECTORY:
        return ustar.DIRECTORY
    if stat.mode & SYMLINK:
        return ustar.SYMBOLIC_LINK
    if stat.mode & FIFO:
        return ustar.FIFO
    if stat.mode & DEVICE:
        return ustar.CHARACTER if stat.mode & CHARACTER else ustar.BLOCK_DEVICE
    return ustar.HARD_LINK if stat.linkname else ustar.REGULAR
