"""Collecting blobs and layers that nothing needs any more.

    roots: the manifests that `index.json` names · the layers that snapshots stand on · what was stored or
           asked for within the hour and belongs to no named image yet (a pull that is under way)
    swept: every other blob, every other unpacked layer

Only whole things are removed, names first, so that a kill in the middle leaves less garbage, never damage.
"""

from __future__ import annotations

from collections.abc import Callable

from cove.errors import CoveError
from cove.image.content import ContentStore
from cove.image.images import Images
from cove.image.layers import Layers
from cove.image.overlayfs import OverlaySnapshots


class Collector:
    """Sweeps one store; one sweep at a time. `further` names chain ids that somebody else needs: the build cache."""

    def __init__(
        self,
        content: ContentStore,
        images: Images,
        layers: Layers,
        snapshots: OverlaySnapshots,
        further: Callable[[], set[str]] = set,
    ) -> None:
        self._content = content
        self._images = images
        self._layers = layers
        self._snapshots = snapshots
        self._further = further

    def collect(self) -> int:
        """Remove what nothing needs; how many bytes of disk that freed.

        Does nothing while an image's own documents cannot be read: what it needs is then unknown.
        """
        with self._layers.stable:
            try:
                blobs, chains = self._images.reachable()
            except CoveError:
                return 0
            return self._sweep_layers(chains) + self._sweep_blobs(blobs)

    def _sweep_layers(self, reachable: set[str]) -> int:
        kept: set[str] = set()
        for chain_id in reachable | self._snapshots.chains() | self._layers.wanted() | self._further():
            kept |= {chain_id, *self._layers.lineage(chain_id)}
        freed = 0
        for chain_id in self._layers.chain_ids() - kept:
            freed += self._layers.size(chain_id)
            self._layers.remove(chain_id)
        return freed

    def _sweep_blobs(self, reachable: set[str]) -> int:
        kept = reachable | self._content.wanted()
        freed = 0
        for digest in list(self._content.digests()):
            if digest not in kept:
                freed += self._content.size(digest)
                self._content.delete(digest)
        return freed
