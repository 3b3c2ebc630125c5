"""`docker import`: a root file system's archive becomes an image with one layer."""

from __future__ import annotations

import time
from collections.abc import Iterable

from cove.image import changes
from cove.image.content import ContentStore
from cove.image.images import Image, Images
from cove.image.layers import Layers
from cove.image.making import store_image, store_layer
from cove.oci.image import ContainerConfig, History, ImageConfig, RootFS
from cove.oci.platform import Platform, host_platform


def import_archive(
    content: ContentStore,
    images: Images,
    layers: Layers,
    archive: Iterable[bytes],
    *,
    name: str = "",
    message: str = "",
    change: Iterable[str] = (),
    platform: Platform | None = None,
) -> Image:
    """Store the archive (plain, gzip, zstd, bzip2 or xz) as an image called `name` ("" for none).

    `change` are Dockerfile instructions that set its configuration. InvalidArgument when an instruction
    makes no sense (before anything is read) or the archive is unsound; then nothing is named.
    """
    config = changes.apply(ContainerConfig(), change)
    layer = store_layer(content, layers, archive)
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    target = platform or host_platform()
    document = ImageConfig(
        architecture=target.architecture,
        variant=target.variant,
        os=target.os,
        created=made,
        comment=message,
        config=config,
        rootfs=RootFS(diff_ids=(layer.diff_id,)),
        history=(History(created=made, comment=message),),
    )
    return store_image(content, images, document, [layer.blob], [name] if name else [])
