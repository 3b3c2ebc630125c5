"""The whole image store over one data root, wired together: what the daemon opens once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from cove.errors import CoveError
from cove.image.content import ContentStore
from cove.image.derived import DerivedArchives
from cove.image.gc import Collector
from cove.image.images import Images
from cove.image.layers import Layers
from cove.image.overlayfs import OverlaySnapshots
from cove.image.stack import unpackable
from cove.image.usage import Usage
from cove.oci.platform import host_platform, preference
from cove.paths import DataRoot

_log = logging.getLogger(__name__)


class ImageStore(msgspec.Struct, frozen=True):
    """Its parts; deleting an image collects what only that one needed."""

    content: ContentStore
    layers: Layers
    images: Images
    snapshots: OverlaySnapshots
    collector: Collector
    usage: Usage

    @classmethod
    def open(cls, data: DataRoot, further: Callable[[], set[str]] = set, limit: int = 0) -> ImageStore:
        """Open the store, finish or forget what was interrupted, and sweep; `further` chain ids are needed too.

        More than `limit` bytes on disk (0: any) are not taken in.
        """
        content = ContentStore(data.image)
        layers = Layers(data, content)
        content.derived = DerivedArchives(layers)
        images = Images(data, content, layers.size, layers.settled)
        snapshots = OverlaySnapshots(data, layers)
        collector = Collector(content, images, layers, snapshots, further)
        images.on_deletion(lambda: (collector.collect(), None)[1])
        collector.collect()
        usage = Usage(data, content, images, layers, snapshots)
        if limit:
            content.admit = usage.limited(limit)
        _restore(images, layers)
        return cls(content, layers, images, snapshots, collector, usage)


def _restore(images: Images, layers: Layers) -> None:
    """Unpack again what a power failure took; an image that cannot be is told of and left alone."""
    for image in images.list():
        if not unpackable(image.config) or preference(host_platform(), image.config.platform) is None:
            continue  # another host's; unpacked when somebody runs it
        try:
            layers.ensure_unpacked(image)
        except CoveError as error:
            _log.warning("the image %s cannot be unpacked again: %s", image.names or image.id, error.message)
