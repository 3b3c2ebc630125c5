"""Where a backup comes from: an archive that is being read, or a registry. Its parts come as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from cove.engine.backup import document
from cove.errors import InvalidArgument
from cove.image.distribution.artifacts import Remote
from cove.image.distribution.seams import Content
from cove.image.travel import artifacts
from cove.oci.image import Descriptor, Manifest


class Source(Protocol):
    """A backup's parts; all methods block and raise CoveError."""

    manifest: Manifest

    def store(self, blobs: Iterable[Descriptor]) -> None:
        """Have these in the content store."""

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        """One part's bytes, which are verified at their end."""

    def finish(self) -> None:
        """Nothing more is needed."""


class FromRegistry:
    """A backup at a registry: each part comes when it is wanted, and lies in the content store then."""

    manifest: Manifest

    def __init__(self, remote: Remote, content: Content, name: str) -> None:
        """InvalidArgument when what the registry calls `name` is no backup."""
        found = remote.document
        if not isinstance(found, Manifest) or not remote.is_artifact(document.ARTIFACT):
            raise InvalidArgument(f"{name} is no backup of a container; pull it if it is an image")
        self.manifest = found
        self._remote = remote
        self._content = content

    def store(self, blobs: Iterable[Descriptor]) -> None:
        for blob in blobs:
            self._remote.fetch(blob)

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        self._remote.fetch(blob)
        return artifacts.stored(self._content, blob)

    def finish(self) -> None:
        """There is no rest."""
