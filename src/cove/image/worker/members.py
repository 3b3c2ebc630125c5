"""A layer's or a copy's tar archive, read from an untrusted stream with everything a file system can hold.

    stream, decompressed (`cove.image.pump`) ─▶ Source ─▶ Member, Member, …

Where `cove.image.worker.tarstream` gives image archives their plain members, this reader knows owners, devices,
nanoseconds, extended attributes and sparse files. It works only inside the confined worker, writes
nothing, and takes names as text. Sources: POSIX pax; GNU tar's manual, "Basic Tar Format" and "Storing
Sparse Files".
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from cove.errors import InvalidArgument
from cove.image.worker import acl

BLOCK = 512
_READ = 128 << 10
_PIECE = 1 << 20
_MAX_EXTENSION = 1 << 20
_MAX_SPARSE_RUNS = 1_000_000

REGULAR, HARD_LINK, SYMBOLIC_LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = "0", "1", "2", "3", "4", "5", "6"
_KNOWN = frozenset("0123456")
_ACLS = {
    "SCHILY.acl.access": "system.posix_acl_access",
    "SCHILY.acl.default": "system.posix_acl_default",
}
_CONTIGUOUS, _GNU_SPARSE = "7", "S"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of an archive is taken before it is refused. Bytes are those after decompression."""

    size: int = 64 << 30
    entries: int = 4_000_000


@dataclass(slots=True)
class Member:
    """One member. `runs` are the (offset, length) of a sparse file's data, None for a plain file."""

    name: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str
    device: tuple[int, int]
    xattrs: dict[str, bytes] = field(default_factory=dict)
    runs: list[tuple[int, int]] | None = None


class Source:
    """A stream that is asked for exact counts; its pieces are views, good until the next one is asked for."""

    def __init__(self, stream: Iterable[bytes | memoryview]) -> None:
        self._stream = iter(stream)
        self._rest = memoryview(b"")

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes as they come; InvalidArgument if the stream ends before."""
        while count:
            while not self._rest:
                self._refill()
            piece = self._rest[:count]
            self._rest = self._rest[len(piece) :]
            count -= len(piece)
            yield piece

    def take(self, count: int) -> bytes:
        if len(self._rest) >= count:
            data = bytes(self._rest[:count])
            self._rest = self._rest[count:]
            return data
        gathered = bytearray()
        for piece in self.pieces(count):
            gathered += piece
        return bytes(gathered)

    def skip(self, count: int) -> None:
        if len(self._rest) >= count:
            self._rest = self._rest[count:]
            return
        for _ in self.pieces(count):
            pass

    def block(self) -> bytes:
        """The next header's bytes; none when nothing follows at all."""
        return self.take(BLOCK) if self.more() else b""

    def more(self) -> bool:
        """Whether anything follows."""
        while not self._rest:
            piece = next(self._stream, None)
            if piece is None:
                return False
            self._rest = memoryview(piece)
        return True

    def drain(self) -> None:
        """Read to the end: the digest covers what follows the last member too."""
        self._rest = memoryview(b"")
        for _ in self._stream:
            pass

    def _refill(self) -> None:
        piece = next(self._stream, None)
        if piece is None:
            raise _cut()
        self._rest = memoryview(piece)


def members(source: Source, limits: Limits) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    """Each member with its data, which is skipped if it is not read before the next one is asked for."""
    common: dict[str, bytes] = {}
    extension: dict[str, bytes] = {}
    count = 0
    while header := source.block():
        if header[0] == 0 and not any(header):
            source.drain()
            return
        _verify(header)
        kind = chr(header[156]) if header[156] else REGULAR
        size = _number(header[124:136])
        if kind in "xgLK":
            body = _body(source, size)
            if kind == "x":
                extension |= _records(body)
            elif kind == "g":
                common |= _records(body)
            else:
                extension["path" if kind == "L" else "linkpath"] = body.split(b"\0", 1)[0]
            continue
        count += 1
        if count > limits.entries:
            raise InvalidArgument(f"the archive has more than the {limits.entries} members allowed")
        yield from _one(source, header, kind, size, common | extension if common else extension, limits)
        extension = {}


def _one(
    source: Source, header: bytes, kind: str, size: int, extension: dict[str, bytes], limits: Limits
) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    member = _member(header, kind, size, extension)
    stored = member.size if member.kind == REGULAR else 0
    if kind == _GNU_SPARSE:
        member.runs = _gnu_runs(source, header)
        member.size = _number(header[483:495])
    padding = -stored % BLOCK
    if extension and any(key.startswith("GNU.sparse") for key in extension):
        stored -= _pax_sparse(source, member, extension)
    if stored < 0 or member.size > limits.size:
        raise InvalidArgument(f"the archive's member {member.name[:200]!r} has an impossible size")
    if member.runs is not None:
        _check_runs(member, member.runs, stored)
    data = source.pieces(stored)
    yield member, data
    for _ in data:
        pass
    if source.more():  # some writers, docker's client among them, fill up no last block
        source.skip(padding)


def _member(header: bytes, kind: str, size: int, extension: dict[str, bytes]) -> Member:
    name, link = _text(header[0:100]), _text(header[157:257]) if header[157] else ""
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    if kind in (_CONTIGUOUS, _GNU_SPARSE):
        kind = REGULAR
    if kind == REGULAR and name.endswith("/") and "path" not in extension:
        kind = DIRECTORY  # before POSIX, a trailing slash was the only mark of a directory
    device = (_number(header[329:337]), _number(header[337:345])) if kind in (CHARACTER, BLOCK_DEVICE) else (0, 0)
    member = Member(
        name=name,
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=_number(header[108:116]),
        gid=_number(header[116:124]),
        size=size,
        mtime_ns=_number(header[136:148]) * 1_000_000_000,
        link=link,
        device=device,
    )
    if extension:
        _extend(member, extension)
    if member.kind not in _KNOWN:
        raise InvalidArgument(f"the archive's member {member.name[:200]!r} is of the unknown type {kind!r}")
    if not (0 <= member.uid < 0xFFFFFFFF and 0 <= member.gid < 0xFFFFFFFF):
        raise InvalidArgument(f"the archive's member {member.name[:200]!r} has an impossible owner")
    if "\0" in member.name or "\0" in member.link:
        raise InvalidArgument(f"the archive's member {member.name[:200]!r} has a NUL in its name or link")
    return member


def _extend(member: Member, extension: dict[str, bytes]) -> None:
    """What a pax header says in the place of, or beyond, the plain one."""
    for key, value in extension.items():
        if key in ("path", "GNU.sparse.name"):
            member.name = _decoded(value)
        elif key == "linkpath":
            member.link = _decoded(value)
        elif key in ("size", "uid", "gid"):
            setattr(member, key, _decimal(value))
        elif key == "mtime":
            member.mtime_ns = _nanoseconds(value)
        elif key in _ACLS:
            member.xattrs.setdefault(_ACLS[key], acl.from_text(_decoded(value), member.name))
        elif key.startswith("SCHILY.xattr."):
            member.xattrs[key.removeprefix("SCHILY.xattr.")] = value
    if "GNU.sparse.name" in extension:
        member.name = _decoded(extension["GNU.sparse.name"])


# ── sparse files ──────────────────────────────────────────────────────────────────────────────────


def _gnu_runs(source: Source, header: bytes) -> list[tuple[int, int]]:
    """The map in an old GNU header and the blocks that continue it."""
    runs = _gnu_pairs(header[386:482])
    more = header[482]
    while more:
        block = source.take(BLOCK)
        runs += _gnu_pairs(block[:504])
        more = block[504]
        if len(runs) > _MAX_SPARSE_RUNS:
            raise _bad_map()
    return runs


def _gnu_pairs(area: bytes) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(area), 24):
        if not area[at]:
            break
        pairs.append((_number(area[at : at + 12]), _number(area[at + 12 : at + 24])))
    return pairs


def _pax_sparse(source: Source, member: Member, extension: dict[str, bytes]) -> int:
    """Set the runs of a sparse file as pax headers describe it; how many bytes of its data were the map."""
    real = extension.get("GNU.sparse.realsize", extension.get("GNU.sparse.size"))
    if real is None:
        raise _bad_map()
    consumed = 0
    if extension.get("GNU.sparse.major") == b"1":
        numbers, consumed = _inline_map(source)
    elif (text := extension.get("GNU.sparse.map")) is not None:
        numbers = [_decimal(number) for number in text.split(b",")] if text else []
    else:
        raise InvalidArgument(f"the archive's member {member.name[:200]!r} uses an unknown form of sparse files")
    member.runs = list(zip(numbers[::2], numbers[1::2], strict=True)) if len(numbers) % 2 == 0 else None
    if member.runs is None:
        raise _bad_map()
    member.size = _decimal(real)
    return consumed


def _inline_map(source: Source) -> tuple[list[int], int]:
    """Version 1.0: decimal lines before the data, filled up to a block."""
    text = source.take(BLOCK)
    consumed = BLOCK
    wanted: int | None = None
    while True:
        lines = text.split(b"\n")
        if wanted is None and len(lines) > 1:
            wanted = 2 * _decimal(lines[0])
            if wanted > 2 * _MAX_SPARSE_RUNS:
                raise _bad_map()
        if wanted is not None and len(lines) - 2 >= wanted:
            return [_decimal(line) for line in lines[1 : 1 + wanted]], consumed
        text += source.take(BLOCK)
        consumed += BLOCK
        if consumed > _MAX_SPARSE_RUNS * 24:
            raise _bad_map()


def _check_runs(member: Member, runs: list[tuple[int, int]], stored: int) -> None:
    end = 0
    for offset, length in runs:
        if offset < end or length < 0 or offset + length > member.size:
            raise _bad_map()
        end = offset + length
    if sum(length for _, length in runs) != stored:
        raise _bad_map()


# ── fields ────────────────────────────────────────────────────────────────────────────────────────


def _verify(header: bytes) -> None:
    # A sum over all bytes, the checksum's own field counted as eight spaces (POSIX ustar). Adler-32's lower half
    # is 1 plus the sum of the bytes modulo 65521 (RFC 1950), and takes a fiftieth of the time.
    told = header[148:156]
    if (zlib.adler32(header) & 0xFFFF) != (_number(told) + sum(told) - 255) % 65521:
        raise InvalidArgument("the archive is damaged or not a tar archive: a header's checksum is wrong")


@lru_cache(maxsize=4096)
def _number(text: bytes) -> int:
    """Octal digits, or GNU's base-256 for what they cannot hold. Modes, owners and times repeat: they are kept."""
    digits = text.rstrip(b"\0 ")
    if digits.isdigit() and b"8" not in digits and b"9" not in digits:
        return int(digits, 8)
    first = text[0]
    if first in (0x80, 0xFF):
        return int.from_bytes(text[1:], "big", signed=False) - (1 << 8 * (len(text) - 1) if first == 0xFF else 0)
    try:
        return int(text.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise InvalidArgument("the archive is damaged or not a tar archive: a header has no sound number") from None


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise InvalidArgument("the archive is damaged: an extended header has no sound number")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    whole, _, fraction = text.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    return sign * (_decimal(whole.lstrip(b"-") or b"0") * 1_000_000_000 + _decimal((fraction + b"0" * 9)[:9]))


def _body(source: Source, size: int) -> bytes:
    if not 0 <= size <= _MAX_EXTENSION:
        raise InvalidArgument(f"the archive has an extended header of {size} bytes, which is too much")
    return source.take(size + -size % BLOCK)[:size]


def _records(body: bytes) -> dict[str, bytes]:
    """Records "LENGTH KEY=VALUE\\n"; an empty value takes a key back."""
    found: dict[str, bytes] = {}
    runs: list[bytes] = []
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 8)
        length = int(body[at:space]) if space > at and body[at:space].isdigit() else 0
        end = at + length
        equals = body.find(b"=", space, end)
        if equals < 0 or end > len(body) or body[end - 1] != 0x0A:
            raise InvalidArgument("the archive is damaged: an extended header is not in order")
        key, value = _decoded(body[space + 1 : equals]), body[equals + 1 : end - 1]
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            runs.append(value)  # version 0.0 repeats these keys instead of one map
        else:
            found[key] = value
        at = end
    if runs:
        found["GNU.sparse.map"] = b",".join(runs)
    return found


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _text(text: bytes) -> str:
    end = text.find(0)
    return (text if end < 0 else text[:end]).decode("utf-8", "surrogateescape")


def _cut() -> InvalidArgument:
    return InvalidArgument("the archive ends too early: it was cut off")


def _bad_map() -> InvalidArgument:
    return InvalidArgument("the archive is damaged: a sparse file's map is not in order")
