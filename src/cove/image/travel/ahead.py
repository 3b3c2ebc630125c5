"""Layers that are unpacked while their archive is being stored, before anybody knows whose they are.

An image's archive tells what its layers are when most of them have passed. Waiting for that would mean to read
them all again; so what looks like a layer is unpacked as it passes, and gets its name when it turns out to be one.

    watch(blob) ─▶ worker ─▶ a directory without a name ─┬─▶ adopt(diff id, …): it is that layer
                                                         └─▶ nobody's, or unsound: gone at the end

Nothing here decides whether an archive is good: what could not be unpacked ahead is unpacked from its blob later,
and refused then with the reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from cove.errors import CoveError
from cove.image.extraction import Extraction, Unpacked

Unpacking = Callable[[], AbstractContextManager[tuple[Path, Extraction]]]
Name = Callable[[Path, Unpacked, str, str], None]

_PARALLEL = 4
"""Layers whose last bytes have passed and are still being written."""
_MOST = 256
"""Layers ahead at once: each keeps a descriptor of its directory."""


class Ahead:
    """The layers of one load; for one thread, but `adopt`. As a context manager: what nobody adopted is removed."""

    def __init__(self, unpacking: Unpacking, name: Name, room: Callable[[], bool]) -> None:
        """`unpacking` makes a directory and the way into it; `name` turns it into a layer; `room`: on the disk."""
        self._unpacking = unpacking
        self._name = name
        self._room = room
        self._undo = ExitStack()
        self._underway: deque[tuple[Path, Extraction]] = deque()
        self._done: dict[str, tuple[Path, Unpacked]] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def watch(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """The same stream, unpacked as it passes."""
        if len(self._done) + len(self._underway) >= _MOST or not self._room():
            yield from stream
            return
        directory, extraction = self._undo.enter_context(self._unpacking())
        for piece in stream:
            extraction.feed(piece)
            yield piece
        extraction.end()
        self._underway.append((directory, extraction))
        if len(self._underway) > _PARALLEL:
            self._settle()

    def finish(self) -> None:
        """Wait for what is still being written; nothing more is watched."""
        while self._underway:
            self._settle()

    def adopt(self, diff_id: str, chain_id: str, parent: str) -> bool:
        """Give the layer its name if it is here."""
        found = self._done.pop(diff_id, None)
        if found is None:
            return False
        self._name(*found, chain_id, parent)
        return True

    def _settle(self) -> None:
        directory, extraction = self._underway.popleft()
        with extraction:
            try:
                unpacked = extraction.finish()
            except CoveError:
                return  # whoever needs this layer will unpack it, and say why it cannot be
        self._done[unpacked.diff_id] = directory, unpacked
