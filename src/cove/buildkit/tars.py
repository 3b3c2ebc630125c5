"""Root file systems of several platforms as one archive: each in a directory of its own.

    {"linux_amd64": archive, "linux_arm64": archive} ─▶ linux_amd64/… linux_arm64/…

The archives are our own; names are rewritten in their headers, contents pass as they are.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, cast

from cove.image.travel.saving import directory_member

_CHUNK = 1 << 20
_REWRITTEN = ("path", "linkpath", "size")
_SPARSE = "GNU.sparse."


def together(archives: Mapping[str, Callable[[], Iterator[bytes]]]) -> Iterator[bytes]:
    """The pieces of the whole."""
    for name, archive in archives.items():
        yield from directory_member(f"{name}/")
        with tarfile.open(mode="r|", fileobj=cast("IO[bytes]", _Stream(archive()))) as tar:
            for member in tar:
                yield from _moved(tar, member, name)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _moved(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Iterator[bytes]:
    member.name = f"{name}/{member.name.removeprefix('./')}"
    if member.islnk():
        member.linkname = f"{name}/{member.linkname.removeprefix('./')}"
    told = member.pax_headers.items()
    member.pax_headers = {key: value for key, value in told if key not in _REWRITTEN and not key.startswith(_SPARSE)}
    content = tar.extractfile(member) if member.isreg() else None
    yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if content is not None:
        while piece := content.read(_CHUNK):
            yield piece
        yield bytes(-member.size % tarfile.BLOCKSIZE)


class _Stream:
    """Pieces, read as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found
