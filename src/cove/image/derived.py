"""Layers' archives that are not stored: made again of the layer's directory, byte by byte, when somebody wants one.

A build makes a layer of a step's upper directory by renaming it. Its archive was only hashed; it is written when
the image is pushed or saved, and then it is a blob like any other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from cove.errors import NotFound
from cove.image.layers import Layers
from cove.image.travel.diff import packed_layer


class DerivedArchives:
    """See `cove.image.content.Derived`."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    def length(self, digest: str) -> int | None:
        """How long the archive is, None when it cannot be made."""
        found = self._layers.derived(digest)
        return found[1] if found else None

    def pieces(self, digest: str) -> Iterator[bytes]:
        """The archive; whoever stores it verifies its digest."""
        found = self._layers.derived(digest)
        if found is None:
            raise NotFound(f"the layer {digest} is not here any more; build its image again")
        yield from _archive(found[0])


def make_derivable(layers: Layers, chain_id: str) -> bool:
    """Whether the archive of a layer that came as a blob can be made again; if so, the blob may go."""
    facts = layers.facts(chain_id)
    if facts is None or facts.archive:
        return facts is not None
    hashed, length = hashlib.sha256(), 0
    for piece in _archive(layers.directory(chain_id)):
        hashed.update(piece)
        length += len(piece)
    if f"sha256:{hashed.hexdigest()}" != facts.diff_id:
        return False
    layers.note_archive(chain_id, length)
    return True


def _archive(directory: Path) -> Iterator[bytes]:
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield from packed_layer(root, whole_seconds=True)
    finally:
        os.close(root)
