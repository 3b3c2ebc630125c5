"""What images take on disk, as du(1) counts it, and what of it would come back.

    total        blobs + unpacked layers (but those that only the build cache needs) + downloads that broke off
    an image     its blobs and layers; shared is what another image needs too
    reclaimable  what no image in use and no container stands on

A layer never changes once it has its name, so each is walked once; blobs are looked at every time.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import msgspec

from cove.errors import Conflict
from cove.image.content import ContentStore
from cove.image.images import Image, Images
from cove.image.layers import Layers
from cove.image.overlayfs import OverlaySnapshots
from cove.paths import DataRoot

_BLOCK = 512


class Share(msgspec.Struct, frozen=True):
    """One image's bytes on disk, and how many of them other images have too."""

    size: int
    shared: int


class StoreUsage(msgspec.Struct, frozen=True):
    """Bytes on disk. `images` by image id; `cached` is what only the build cache needs, by chain id."""

    total: int
    reclaimable: int
    images: dict[str, Share]
    cached: dict[str, int]


class _Parts(msgspec.Struct, frozen=True):
    blobs: frozenset[str]
    chains: frozenset[str]


class Usage:
    """Measures one store; safe to use from several threads."""

    def __init__(
        self, data: DataRoot, content: ContentStore, images: Images, layers: Layers, snapshots: OverlaySnapshots
    ) -> None:
        self._data = data
        self._content = content
        self._images = images
        self._layers = layers
        self._snapshots = snapshots
        self._rooms: dict[str, int] = {}
        self._lock = threading.Lock()

    def total(self) -> int:
        """The bytes of everything that images, and the build cache, have on disk."""
        known = self._layers.chain_ids()
        with self._lock:
            self._rooms = {chain: room for chain, room in self._rooms.items() if chain in known}
        layers = sum(self.layer(chain) for chain in known)
        return layers + sum(map(self.blob, self._content.digests())) + self._content.partial()

    def measure(self, in_use: Collection[str], cached: Collection[str] = ()) -> StoreUsage:
        """Everything; `in_use` are ids of images that containers use, `cached` chain ids of the build cache."""
        self._layers.finish_removals()
        images = {image.id: self._parts(image) for image in self._images.list()}
        blobs = Counter(blob for parts in images.values() for blob in parts.blobs)
        chains = Counter(chain for parts in images.values() for chain in parts.chains)
        used = [images[identity] for identity in in_use if identity in images]
        standing = self._below(self._snapshots.chains())
        cache = self._below(cached)
        only_cached = {chain for chain in cache if not chains[chain] and chain not in standing}
        total = self.total() - sum(map(self.layer, only_cached))
        held = {chain for parts in used for chain in parts.chains} | standing | (cache - only_cached)
        kept = sum(map(self.layer, held)) + sum(map(self.blob, {blob for parts in used for blob in parts.blobs}))
        return StoreUsage(
            total=total,
            reclaimable=max(total - kept, 0),
            images={identity: self._share(parts, blobs, chains) for identity, parts in images.items()},
            cached={chain: self.layer(chain) for chain in only_cached},
        )

    def _below(self, tops: Iterable[str]) -> set[str]:
        """These chain ids and all that they stand on."""
        return {below for top in tops for below in (top, *self._layers.lineage(top))}

    def limited(self, limit: int) -> Callable[[int], None]:
        """What refuses a blob of so many bytes once there would be more than `limit`; Conflict."""

        def admit(size: int) -> None:
            total = self.total()
            if total + size > limit:
                raise Conflict(
                    f"there is no room for {size or 'more'} bytes: images take {total} of the {limit} bytes that "
                    "image_limit in daemon.toml allows; remove some, or see: cove image prune --all"
                )

        return admit

    def layer(self, chain_id: str) -> int:
        """The room of an unpacked layer; 0 when it is not there."""
        with self._lock:
            known = self._rooms.get(chain_id)
        if known is not None:
            return known
        if chain_id not in self._layers.chain_ids():
            return 0
        room = tree_room(self._data.layer(chain_id))
        with self._lock:
            self._rooms[chain_id] = room
        return room

    def blob(self, digest: str) -> int:
        """The room of a blob; 0 when it is not stored."""
        try:
            return self._content.path(digest).stat().st_blocks * _BLOCK
        except FileNotFoundError:
            return 0

    def _share(self, parts: _Parts, blobs: Counter[str], chains: Counter[str]) -> Share:
        rooms = [(self.blob(blob), blobs[blob]) for blob in parts.blobs]
        rooms += [(self.layer(chain), chains[chain]) for chain in parts.chains]
        return Share(sum(room for room, _ in rooms), sum(room for room, users in rooms if users > 1))

    def _parts(self, image: Image) -> _Parts:
        blobs = {image.target.digest, image.manifest.digest, image.id, *(layer.digest for layer in image.layers)}
        chains = set(image.chain_ids)
        for offer in image.offers:
            blobs |= {blob.digest for blob in offer.blobs}
            chains |= set(offer.variant.chain_ids if offer.variant else ())
        return _Parts(frozenset(blobs), frozenset(chains))


def tree_room(directory: Path) -> int:
    """The bytes that a directory and all below take; a file with several names counts once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = [str(directory)]
    while pending:
        path = pending.pop()
        try:
            total += os.lstat(path).st_blocks * _BLOCK
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        continue
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink > 1:
                        if (found.st_dev, found.st_ino) in seen:
                            continue
                        seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * _BLOCK
        except FileNotFoundError:
            continue
    return total
