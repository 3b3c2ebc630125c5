"""Manifest lists: several images, one per platform, under one name."""

from __future__ import annotations

from cove.engine.context import Context
from cove.engine.telling import tell_image
from cove.errors import NotFound
from cove.image import manifests
from cove.image.distribution import Credentials
from cove.oci.reference import Reference
from cove.wire.images import ManifestAnnotateRequest, ManifestCreateRequest


class ManifestService:
    """The use cases of `cove manifest`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, name: str, body: ManifestCreateRequest) -> str:
        """Make or amend an index; its digest."""
        store = self._context.store
        image = await self._context.executors.disk(
            manifests.create, store.content, store.images, name, body.images, amend=body.amend
        )
        tell_image(self._context.events, "tag", image, Reference.parse(name).familiar)
        return image.target.digest

    async def annotate(self, name: str, body: ManifestAnnotateRequest) -> str:
        """Change what an index says of one image; the new index's digest."""
        fields = {
            "os": body.os,
            "architecture": body.architecture,
            "variant": body.variant,
            "os_version": body.os_version,
            "os_features": body.os_features,
        }
        store = self._context.store
        image = await self._context.executors.disk(
            manifests.annotate,
            store.content,
            store.images,
            name,
            body.image,
            platform={key: value for key, value in fields.items() if value},
            annotations=body.annotations,
        )
        return image.target.digest

    async def document(self, name: str, *, auth: str = "") -> bytes:
        """The manifest or index that a name stands for here, else at its registry."""
        store = self._context.store
        try:
            return await self._context.executors.disk(manifests.document, store.content, store.images, name)
        except NotFound:
            credentials = Credentials.from_header(auth) if auth else None
            described = await self._context.executors.bulk(
                lambda: self._context.distribution.describe(Reference.parse(name), credentials)
            )
            return described.raw
