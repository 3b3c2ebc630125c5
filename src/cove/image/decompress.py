"""Taking the compression from a stranger's archive, a bounded piece at a time; inside the confined worker.

Nothing is imported late here: by then the root is another one's. zstandard and isal were loaded before
(`cove.image.workshop`).
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cove.errors import InvalidArgument

_INFLATED = 256 << 10
_MAX_WINDOW = 128 << 20


def decompressed(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The stream without its gzip or zstd compression, if its first bytes show one."""
    pieces = iter(stream)
    head = b""
    while len(head) < 4 and (piece := next(pieces, None)) is not None:
        head += piece
    if head.startswith(b"\x1f\x8b"):
        inflater: Any = sys.modules.get("isal.isal_zlib", zlib)  # the same interface, more than twice as fast
        return _inflated(head, pieces, lambda: inflater.decompressobj(31), inflater.error)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        zstandard = sys.modules.get("zstandard")  # never imported here, where the root is a stranger's
        if zstandard is None:
            raise InvalidArgument("the archive is compressed with zstd, which this worker cannot read")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        return _inflated(head, pieces, lambda: _Zstd(decompressor.decompressobj()), zstandard.ZstdError)
    if head.startswith(b"BZh"):
        return _inflated(head, pieces, lambda: _Bounded(bz2.BZ2Decompressor()), OSError)
    if head.startswith(b"\xfd7zX"):
        return _inflated(head, pieces, lambda: _Bounded(lzma.LZMADecompressor()), lzma.LZMAError)
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
    """A zstd frame with zlib's interface; its window, not the caller, bounds a piece."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.unconsumed_tail = b""

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, _: int) -> bytes:
        return bytes(self._inner.decompress(data))


def _inflated(
    head: bytes, pieces: Iterator[bytes], new: Callable[[], Any], broken: type[Exception]
) -> Iterator[bytes]:
    """Any number of compressed members, one after the other."""
    inflate = new()
    fed = False
    try:
        for data in _chained(head, pieces):
            while data:
                if inflate.eof:
                    inflate, fed = new(), False
                piece = inflate.decompress(data, _INFLATED)
                fed = True
                data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
                if piece:
                    yield piece
    except broken as error:
        raise InvalidArgument(f"the archive is damaged: it cannot be decompressed ({error})") from error
    if fed and not inflate.eof:
        raise InvalidArgument("the archive ends too early: it was cut off")


def _chained(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest
