"""A zstd stream cut where its blocks begin, so that what each piece stands for is bounded.

    magic  header │ block  block  … │ checksum │ magic  header │ …

A block of four bytes may stand for 128 KiB, and one of 128 KiB for no more than that. A decompressor that is given
any number of bytes gives back whatever they stand for; given a block at a time it stays in bounds, and of most
archives that is a large piece. Source: RFC 8878, section 3.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK = 128 << 10
_STEP = 1 << 10
"""Bytes of what is no frame."""
_RLE = 1
_DICTIONARY = (0, 1, 2, 4)
_CONTENT = (0, 2, 4, 8)


def blocks(stream: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    """The same bytes in other pieces, none of which ends a second block; where it is no zstd, small ones."""
    source = _Source(stream)
    while head := source.take(5):
        yield head
        if head[:4] != _MAGIC or len(head) < 5:
            break
        flags = head[4]
        single = flags & 0x20
        yield source.take(int(not single) + _DICTIONARY[flags & 3] + (_CONTENT[flags >> 6] or int(bool(single))))
        if not (yield from _frame(source)):
            break
        if flags & 4:
            yield source.take(4)
    while rest := source.take(_STEP):
        yield rest


def _frame(source: _Source) -> Generator[bytes | memoryview, None, bool]:
    """The blocks of a frame; whether it ended as one does."""
    while len(header := source.take(3)) == 3:
        yield header
        told = int.from_bytes(header, "little")
        size = 1 if told >> 1 & 3 == _RLE else told >> 3
        if size > _BLOCK:
            return False
        yield from source.pieces(size)
        if told & 1:
            return True
    yield header
    return False


class _Source:
    """A stream that is asked for counts, and gives less only at its end."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = iter(stream)
        self._rest = memoryview(b"")

    def pieces(self, count: int) -> Iterator[memoryview]:
        while count:
            if not self._rest:
                more = next(self._stream, None)
                if more is None:
                    return
                self._rest = memoryview(more)
            piece = self._rest[:count]
            self._rest = self._rest[len(piece) :]
            count -= len(piece)
            yield piece

    def take(self, count: int) -> bytes:
        return b"".join(self.pieces(count))
