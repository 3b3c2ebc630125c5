"""A container's changes as a new layer: `docker commit`.

The confined worker reads the writable directory and turns what overlayfs keeps there back into an OCI
layer: character devices 0:0 into `.wh.` names, opaque marks into `.wh..wh..opq`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

from msgspec.structs import replace

from cove.image.content import ContentStore
from cove.image.extraction import Extraction
from cove.image.images import Image, Images
from cove.image.layers import Layers
from cove.image.making import StoredLayer, store_image, store_layer
from cove.image.overlayfs import OverlaySnapshots
from cove.image.worker.members import Limits
from cove.image.worker.sandbox import PIPE, Worker
from cove.oci.image import ContainerConfig, Descriptor, History, ImageConfig, RootFS
from cove.oci.platform import host_platform
from cove.paths import DataRoot


def layer_archive(data: DataRoot, key: str, *, sparse: bool = False) -> Iterator[bytes]:
    """The changes of the container `key` as a layer's uncompressed archive; with `sparse`, not an image's."""
    root = os.open(data.container(key).upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield from packed_layer(root, sparse=sparse)
    finally:
        os.close(root)


def packed_layer(root: int, *, sparse: bool = False, whole_seconds: bool = False) -> Iterator[bytes]:
    """A layer's uncompressed archive of the directory `root`, which an overlay has as a layer."""
    job: dict[str, Any] = {
        "path": "/",
        "arcname": ".",
        "layer": True,
        "one_device": True,
        "skip": [],
        "bare": True,
        "sparse": sparse,
        "whole_seconds": whole_seconds,
    }
    with Worker("pack", root, stdout=PIPE, **job) as worker:
        yield from worker.output()
        worker.result()


def restore_changes(data: DataRoot, key: str, archive: Iterator[bytes], limits: Limits) -> None:
    """Unpack what `layer_archive` made into the empty writable layer of `key`."""
    root = os.open(data.container(key).upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with Extraction(root, "", limits) as extraction:
            for piece in archive:
                extraction.feed(piece)
            extraction.finish()
    finally:
        os.close(root)


def commit_layer(
    data: DataRoot, content: ContentStore, layers: Layers, snapshots: OverlaySnapshots, key: str
) -> StoredLayer:
    """Store the changes of the container `key` as a layer on top of the one it stands on, unpacked too."""
    return store_layer(content, layers, layer_archive(data, key), snapshots.chain(key) or "")


class Base(Protocol):
    """The image that a container stands on, as far as a commit needs it."""

    @property
    def id(self) -> str: ...
    @property
    def config(self) -> ImageConfig: ...
    @property
    def layers(self) -> tuple[Descriptor, ...]: ...


def commit(
    data: DataRoot,
    content: ContentStore,
    images: Images,
    layers: Layers,
    snapshots: OverlaySnapshots,
    key: str,
    base: Base | None,
    *,
    config: ContainerConfig,
    name: str = "",
    author: str = "",
    comment: str = "",
    created_by: str = "",
) -> Image:
    """Make an image of the container `key`, whose image was `base`, and name it (`name` "" for none)."""
    layer = commit_layer(data, content, layers, snapshots, key)
    now = time.time_ns()
    made = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now // 10**9))}.{now % 10**9:09d}Z"
    host = host_platform()
    old = base.config if base else ImageConfig(os=host.os, architecture=host.architecture, variant=host.variant)
    step = History(created=made, created_by=created_by, author=author, comment=comment)
    document = replace(
        old,
        parent=base.id if base else "",
        created=made,
        author=author or old.author,
        comment=comment,
        config=config,
        rootfs=RootFS(diff_ids=(*old.rootfs.diff_ids, layer.diff_id)),
        history=(*old.history, step),
    )
    return store_image(
        content, images, document, [*(base.layers if base else ()), layer.blob], [name] if name else []
    )
