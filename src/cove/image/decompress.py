"""Taking the compression from a stranger's archive, a bounded piece at a time, in bounded memory.

gzip, bzip2, xz, zstd, seen by its first bytes; one stream after another; zeros between and after them.
Nothing is imported late here: in the confined worker the root is another one's by then.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import zstandard

from cove.errors import InvalidArgument
from cove.image.zstdframes import blocks

try:
    from isal import isal_zlib

    _zlib: Any = isal_zlib  # the same interface, more than twice as fast
except ImportError:
    _zlib = zlib  # there is no isal for this processor

Piece = TypeVar("Piece", bound=bytes | memoryview)
_INFLATED = 256 << 10
_PIECE = 1 << 20
_MAX_WINDOW = 128 << 20
"""Of zstd; and what xz may need, which its strongest setting does not reach."""


def decompressed(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The stream without its compression, if its first bytes show one."""
    pieces = iter(stream)
    head = b""
    while len(head) < 4 and (piece := next(pieces, None)) is not None:
        head += piece
    if head.startswith(b"\x1f\x8b"):
        return _inflated(head, pieces, lambda: _zlib.decompressobj(31), _zlib.error)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        return _inflated(
            b"", blocks(_chained(head, pieces)), lambda: _Zstd(decompressor.decompressobj()), zstandard.ZstdError
        )
    if head.startswith(b"BZh"):
        return _inflated(head, pieces, lambda: _Bounded(bz2.BZ2Decompressor()), OSError)
    if head.startswith(b"\xfd7zX"):
        return _inflated(head, pieces, lambda: _Bounded(lzma.LZMADecompressor(memlimit=_MAX_WINDOW)), lzma.LZMAError)
    return _chained(head, pieces)


class _Bounded:
    """bzip2 and xz with zlib's interface: a piece at a time, whatever the archive claims."""

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner
        self._held = False
        self.unconsumed_tail = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        """The next piece; `unconsumed_tail` says that the same data has more of them."""
        piece = self._inner.decompress(b"" if self._held else data, most)
        self._held = not self._inner.eof and not self._inner.needs_input
        self.unconsumed_tail = data if self._held else b""
        return piece


class _Zstd:
    """A zstd frame with zlib's interface; what it is given, not the caller, bounds a piece."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.unconsumed_tail = b""

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes | memoryview, _: int) -> bytes:
        return bytes(self._inner.decompress(data))


def _inflated(
    head: bytes,
    pieces: Iterator[bytes | memoryview] | Iterator[bytes],
    new: Callable[[], Any],
    broken: type[Exception],
) -> Iterator[bytes]:
    """Any number of compressed members, one after the other."""
    inflate = new()
    fed = False
    try:
        for data in _chained(head, pieces):
            while data:
                if inflate.eof:
                    data = bytes(data).lstrip(b"\0")
                    if not data:
                        break
                    inflate, fed = new(), False
                piece = inflate.decompress(data, _INFLATED)
                fed = True
                data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
                for at in range(0, len(piece), _PIECE):
                    yield piece[at : at + _PIECE] if len(piece) > _PIECE else piece
    except broken as error:
        raise InvalidArgument(f"the archive is damaged: it cannot be decompressed ({error})") from error
    if fed and not inflate.eof:
        raise InvalidArgument("the archive ends too early: it was cut off")


def _chained(head: bytes, rest: Iterator[Piece]) -> Iterator[bytes | Piece]:
    if head:
        yield head
    yield from rest
