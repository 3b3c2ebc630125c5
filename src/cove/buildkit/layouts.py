"""Image layouts in directories of a session's client, as images for the time of a build.

    oci-layout://STORE[:TAG]@DIGEST ─▶ manifest or index ─▶ of each platform that is built: configuration, layers
                                    ─▶ an image without a name, unpacked ─▶ gone again at the end

Each blob is verified; what an index has of other platforms stays where it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cove.buildkit.contents import LAYOUT, ClientStore
from cove.buildkit.gifts import FindSession
from cove.engine.build.job import forget_unnamed
from cove.engine.context import Context
from cove.errors import InvalidArgument, NotFound
from cove.oci import digest as digests
from cove.oci import image as oci
from cove.oci.image import Descriptor, Index, Manifest
from cove.oci.platform import Platform, best

PREFIX = "oci-layout:"


@asynccontextmanager
async def imported(
    context: Context, find: FindSession, name: str, value: str, platforms: Sequence[Platform]
) -> AsyncIterator[str]:
    """The digest of what a named context's value means, in the store for the time of a `with`.

    Raises InvalidArgument for a value that is none, NotFound for what the client does not have.
    """
    place, at, digest = value.removeprefix(PREFIX).removeprefix("//").rpartition("@")
    if not at or not place:
        raise InvalidArgument(
            f"the build context {name}={value} does not say by its digest what of the layout is meant"
        )
    digests.check(digest)
    store = ClientStore(context, find, f"{LAYOUT}{place.rpartition(':')[0] or place}")
    before = {image.target.digest for image in context.images.list()}
    with context.store.content.keeping() as kept:
        for manifest in await _manifests(store, digest, platforms, kept):
            kept.update((manifest.config.digest, *(layer.digest for layer in manifest.layers)))
            await store.document(manifest.config.digest, manifest.config.size)
            for layer in manifest.layers:
                await context.executors.bulk(store.fetch, layer, asyncio.get_running_loop())
        image = await context.executors.bulk(context.images.register, digest, ())
    try:
        for platform in platforms:
            variant = context.images.get(digest, platform)
            await context.executors.bulk(context.store.layers.ensure_unpacked, variant)
        yield digest
    finally:
        if digest not in before:
            await context.executors.disk(forget_unnamed, context.store, image)


async def _manifests(
    store: ClientStore, digest: str, platforms: Sequence[Platform], kept: set[str]
) -> tuple[Manifest, ...]:
    """Those that the platforms need; the documents are in the store then."""
    kept.add(digest)
    document = oci.decode_manifest(await store.document(digest))
    if isinstance(document, Manifest):
        return (document,)
    found = []
    for chosen in dict.fromkeys(_chosen(document, platform) for platform in platforms):
        kept.add(chosen)
        manifest = oci.decode_manifest(await store.document(chosen))
        if isinstance(manifest, Index):
            raise InvalidArgument(f"the layout's index {digest} names another index, {chosen}, as an image")
        found.append(manifest)
    return tuple(found)


def _chosen(index: Index, platform: Platform) -> str:
    offers: list[tuple[Platform, Descriptor]] = [(each.platform, each) for each in index.manifests if each.platform]
    found = best(platform, offers)
    if found is None:
        raise NotFound(f"the layout has no image for {platform}")
    return found.digest
