"""What gives containers their root file systems.

    prepare(key, chain) ─▶ mount(key) ─▶ …the container lives… ─▶ mount(key) ─▶ … ─▶ remove(key)

A snapshot is a container's writable layer on top of an image's unpacked layers. It is never mounted on
the host: `mount` only *says* what to mount, and the container's own mount namespace does it. So there is
nothing to unmount, and `remove` can never meet a busy one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

from cove.oci.spec import Mount


class Change(NamedTuple):
    """One path that differs from the image: kind 0 modified, 1 added, 2 deleted (the Engine API's numbers)."""

    kind: Literal[0, 1, 2]
    path: str


class Snapshots(Protocol):
    """A driver of snapshots; `key` is a container's id."""

    def prepare(self, key: str, chain_id: str | None, shown: Iterable[str] = ()) -> None:
        """Make an empty writable layer on the unpacked stack `chain_id` (None: on nothing).

        `shown`: stacks that the container will be shown besides (`image`), kept as long as the snapshot.
        """
        ...

    def mount(self, key: str, *, readonly: bool = False) -> Mount:
        """The mount of the snapshot at "/"; NotFound when the snapshot or a layer below it is gone."""
        ...

    def image(self, chain_id: str, destination: str, *, subpath: str = "") -> Mount:
        """A read-only mount of an unpacked stack ("" for nothing), or of what lies at `subpath` in it."""
        ...

    def remove(self, key: str) -> None:
        """Delete the writable layer; no error if there is none."""
        ...

    def usage(self, key: str) -> int:
        """How many bytes of disk the writable layer takes."""
        ...

    def changes(self, key: str) -> list[Change]:
        """What the container changed, sorted by path."""
        ...
