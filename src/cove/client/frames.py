"""Output that carries stdout and stderr in one stream, cut apart.

A frame of the Engine API is a head of eight bytes (stream number, three zeros, length as a
big-endian u32) followed by that many bytes. Heads and bodies may arrive torn anywhere.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT, STDERR = 1, 2


class Frames:
    """Feed it bytes as they come; it gives (stream, data) pieces, never waiting for a whole frame."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = STDOUT
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        view = memoryview(data)
        while view:
            if self._left == 0:
                need = 8 - len(self._head)
                self._head += bytes(view[:need])
                view = view[need:]
                if len(self._head) < 8:
                    return
                self._stream = self._head[0]
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""
                continue
            piece = view[: self._left]
            self._left -= len(piece)
            view = view[len(piece) :]
            yield self._stream, bytes(piece)
