"""What a volume driver does: keep a directory by name, and say how a container mounts it.

A driver owns where the data lies. It never knows which container uses a volume, nor the volume's labels:
those are the engine's. It *returns* mounts; the runtime performs them in the container's own mount namespace.

    create ──▶ mount … mount ──▶ remove
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cove.oci.spec import Mount


class Driver(Protocol):
    """One kind of volume; methods block for as long as the disk takes and raise CoveError."""

    name: str

    def create(self, name: str, options: Mapping[str, str]) -> None:
        """Make the volume; does nothing when it is already there with these options."""

    def exists(self, name: str) -> bool:
        """Whether the volume's data is there."""

    def path(self, name: str) -> Path:
        """The directory that `docker volume inspect` calls Mountpoint."""

    def prepare(self, options: Mapping[str, str]) -> None:
        """Find out what `mount` needs to know of others and must not wait for."""

    def mount(
        self, name: str, destination: str, options: Mapping[str, str], *, subpath: str = "", readonly: bool = False
    ) -> Mount:
        """The mount that shows the volume (or a directory in it) at `destination`."""

    def empty(self, name: str, subpath: str = "") -> bool:
        """Whether nothing was ever put in, or into that directory: an image's content may be copied there."""

    def size(self, name: str) -> int:
        """Bytes on disk."""

    def recover(self, wanted: Mapping[str, Mapping[str, str]]) -> set[str]:
        """At a daemon's start: finish what a crash cut short, a create or a remove.

        `wanted`: the options of each volume that there should be. Returns the names of those that were being removed.
        """

    def unfinished(self, token: str) -> str:
        """A name for a volume that is not there yet: one that bears it after a crash is deleted."""

    def rename(self, name: str, to: str) -> None:
        """Give the data another name."""

    def remove(self, name: str) -> None:
        """Delete the volume and all in it; does nothing when it is not there."""
