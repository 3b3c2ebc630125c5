"""Reading a tar archive from an untrusted stream, once, front to back, in bounded memory.

    stream ─▶ cove.image.decompress ─▶ headers ─▶ Entry, Entry, …

An Entry's content must be read, if at all, before the next Entry is asked for. Nothing is ever written
here; names and link targets are just text. Source: POSIX pax, GNU tar's manual ("Basic Tar Format").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from cove.errors import InvalidArgument
from cove.image.decompress import decompressed

_BLOCK = 512
_MAX_EXTENSION = 1 << 20
_MAX_ENTRIES = 1_000_000

Kind = Literal["file", "directory", "symlink", "hardlink", "other"]
_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"5": "directory",
}


class Entry(msgspec.Struct, frozen=True):
    """One member; `content` yields `size` bytes."""

    name: str
    kind: Kind
    size: int
    link: str
    content: Iterator[bytes]


def entries(stream: Iterable[bytes]) -> Iterator[Entry]:
    """The members of the archive; InvalidArgument for what is no sound tar archive."""
    source = _Source(decompressed(stream))
    extension: dict[str, str] = {}
    for _ in range(_MAX_ENTRIES):
        header = source.exactly(_BLOCK)
        if header is None or not any(header):
            source.drain()
            return
        size = _header_size(header)
        kind = header[156:157]
        if kind in {b"x", b"L", b"K", b"g"}:
            body = _extension(source, size)
            if kind == b"x":
                extension |= _pax(body)
            elif kind != b"g":
                extension["path" if kind == b"L" else "linkpath"] = _text(body)
            continue
        yield from _entry(source, header, size, extension)
        extension = {}
    raise InvalidArgument("the archive has too many members")


def _entry(source: _Source, header: bytes, size: int, extension: dict[str, str]) -> Iterator[Entry]:
    """The member of `header`, and after it has been used, its rest skipped."""
    if "GNU.sparse.major" in extension or header[156:157] == b"S":
        raise InvalidArgument("the archive has sparse members, which an image archive must not have")
    if "size" in extension:
        size = _decimal(extension["size"])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    plain = _text(header[0:100])
    name = extension.get("path") or (f"{prefix}/{plain}" if prefix else plain)
    kind = _KINDS.get(header[156:157], "other")
    if kind in {"symlink", "hardlink", "directory"}:
        size = 0
    content = source.pieces(size)
    yield Entry(name, kind, size, extension.get("linkpath") or _text(header[157:257]), content)
    for _ in content:
        pass
    if padding := -size % _BLOCK:
        source.exactly(padding)  # some writers fill up no last block


class _Source:
    """A stream that can be asked for exact counts."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    def _more(self) -> bool:
        while not self._rest:
            piece = next(self._stream, None)
            if piece is None:
                return False
            self._rest = memoryview(piece)
        return True

    def pieces(self, count: int) -> Iterator[bytes]:
        """The next `count` bytes, as they come."""
        while count:
            if not self._more():
                raise _cut()
            piece = self._rest[:count]
            self._rest = self._rest[len(piece) :]
            count -= len(piece)
            yield bytes(piece)

    def exactly(self, count: int) -> bytes | None:
        """The next `count` bytes; None at a clean end of the stream."""
        return b"".join(self.pieces(count)) if self._more() else None

    def drain(self) -> None:
        """Read what follows the archive's end, so that the sender is not cut off."""
        for _ in self._stream:
            pass


def _header_size(header: bytes) -> int:
    """The size in a header whose checksum is right."""
    told = _octal(header[148:156])
    if told != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
        raise InvalidArgument("the archive is damaged or not a tar archive: a header's checksum is wrong")
    return _octal(header[124:136])


def _octal(field: bytes) -> int:
    """An octal number, or GNU's base-256 for big ones; never negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip(b" ")
    if text and (not text.isdigit() or b"8" in text or b"9" in text):
        raise InvalidArgument("the archive is damaged or not a tar archive: a header has no sound number")
    return int(text or b"0", 8)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidArgument("the archive is damaged: an extended header has no sound size")
    return int(text)


def _extension(source: _Source, size: int) -> bytes:
    if size > _MAX_EXTENSION:
        raise InvalidArgument(f"the archive has an extended header of {size} bytes, which is too much")
    body = source.exactly(size + -size % _BLOCK) if size else b""
    if body is None:
        raise _cut()
    return body[:size]


def _pax(body: bytes) -> dict[str, str]:
    """Records "LENGTH KEY=VALUE\\n"."""
    found: dict[str, str] = {}
    while body:
        length, space, _ = body.partition(b" ")
        if not space or not length.isdigit() or len(length) > 7 or not len(length) + 3 < int(length) <= len(body):
            raise InvalidArgument("the archive is damaged: an extended header is not in order")
        record, body = body[len(length) + 1 : int(length) - 1], body[int(length) :]
        key, _, value = record.partition(b"=")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
    return found


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _cut() -> InvalidArgument:
    return InvalidArgument("the archive ends too early: it was cut off")
