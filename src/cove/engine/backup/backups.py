"""`cove backup`: a container, its writable layer, its configuration and its volumes as one artifact.

    containers that write stand still ─▶ writable layer, volumes ─▶ blobs, compressed, on this host's disk
    ─▶ they go on ─▶ configuration, manifest ─▶ archive, or registry ─▶ the blobs are forgotten

They stand still only as long as this host's disk takes, however slow the way out is; memory holds a piece at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import msgspec

from cove.engine.backup import document
from cove.engine.bridging import Message, Sink, told
from cove.engine.containers.freezing import standing_still
from cove.engine.containers.records import MountRecord, Record, VolumeRecord
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.images.view import defaults
from cove.engine.telling import tell
from cove.engine.volumes.service import VolumeService
from cove.errors import Conflict, NotFound
from cove.image.distribution import Credentials
from cove.image.images import Image
from cove.image.rebuild import Rebuilt, rebuilt
from cove.image.travel import archives, artifacts
from cove.image.travel.diff import layer_archive
from cove.oci.image import OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest
from cove.oci.reference import Reference


class Wishes(msgspec.Struct, frozen=True):
    """What a backup shall hold, and whether those who write are stopped meanwhile."""

    volumes: bool = True
    image: bool = True
    pause: bool = True


class Backups:
    """Takes backups; `cove.engine.backup.restores` brings them back."""

    def __init__(self, context: Context, registry: Registry, volumes: VolumeService) -> None:
        self._context = context
        self._registry = registry
        self._volumes = volumes

    async def save(self, ref: str, wishes: Wishes) -> AsyncIterator[bytes]:
        """A backup as an archive; what can fail has been done when this returns."""
        undo = AsyncExitStack()
        try:
            artifact, manifest = await self._take(ref, wishes, undo)
        except BaseException:
            await undo.aclose()
            raise
        return self._sent(artifact, manifest, undo)

    async def _sent(self, artifact: Descriptor, manifest: Manifest, undo: AsyncExitStack) -> AsyncIterator[bytes]:
        async with undo:
            pieces = artifacts.save(self._context.store.content, artifact, manifest)
            async for piece in self._context.executors.stream(pieces):
                yield piece

    async def push(self, ref: str, target: str, wishes: Wishes, *, auth: str = "") -> AsyncIterator[Message]:
        """A backup to a registry, with its progress."""
        reference = Reference.parse(target)
        credentials = Credentials.from_header(auth) if auth else None
        undo = AsyncExitStack()

        def work(sink: Sink, cancel: threading.Event) -> None:
            self._context.distribution.push_artifact(
                reference, artifact, credentials=credentials, progress=sink, cancel=cancel
            )

        try:
            artifact, _ = await self._take(ref, wishes, undo)
            messages = await told(self._context.executors, work)
        except BaseException:
            await undo.aclose()
            raise
        return self._told(messages, undo)

    async def _told(self, messages: AsyncIterator[Message], undo: AsyncExitStack) -> AsyncIterator[Message]:
        async with undo:
            async for message in messages:
                yield message

    # ── taking ────────────────────────────────────────────────────────────────────────────────────

    async def _take(self, ref: str, wishes: Wishes, undo: AsyncExitStack) -> tuple[Descriptor, Manifest]:
        """The artifact's blobs in the content store, as long as `undo` is open."""
        container = self._registry.find(ref)
        record = container.record
        undo.push_async_callback(self._context.executors.bulk, self._context.store.collector.collect)
        kept = undo.enter_context(self._context.store.content.keeping())
        image = await self._image(container, wishes, kept)
        volumes = [self._volumes.record(name) for name in _named(record)]
        copied = [each for each in volumes if wishes.volumes and await self._has_content(each)]
        users = {container.id: container} | {
            user.id: user for each in copied for user in self._volumes.users(each.name)
        }
        # The image first: whoever restores needs it before the container's own layer, and has not to keep that then.
        layers = self._parts(image) if wishes.image else []
        mounts = tuple(MountRecord(type="volume", destination="/", name=each.name, rw=False) for each in copied)
        async with (
            self._volumes.use.held(mounts),
            standing_still(self._context.runtime, users.values(), pause=wishes.pause),
        ):
            if self._registry.get(container.id) is not container:
                raise NotFound(f"No such container: {ref}")
            phase = container.facts.phase
            changes = lambda: layer_archive(self._context.data, record.id, sparse=True)  # noqa: E731
            layers.append(await self._blob(document.CHANGES, changes, kept))
            for each, mount in zip(copied, mounts, strict=True):
                root = archives.stopped((self._volumes.use.mount(mount),))
                layers.append(await self._blob(document.VOLUME, _content(root), kept, name=each.name))
        saved = document.Backup(
            made_ns=time.time_ns(),
            record=record,
            phase=phase,
            image=document.SavedImage(
                id=image.id,
                manifest=image.manifest.digest,
                name=record.image,
                repo_digests=() if isinstance(image, Rebuilt) else image.repo_digests,
                included=wishes.image,
            ),
            volumes=tuple(document.SavedVolume(record=each, content=each in copied) for each in volumes),
        )
        made = await self._context.executors.bulk(self._manifest, saved, layers, kept)
        tell(self._context.events, container, "backup")
        return made

    async def _has_content(self, volume: VolumeRecord) -> bool:
        """Whether a volume's content is this host's alone: a device's, or what a plugin has everywhere, stays."""
        return not volume.options.get("device") and await self._volumes.view.scope(volume) == "local"

    async def _image(self, container: Container, wishes: Wishes, kept: set[str]) -> Image | Rebuilt:
        """The image that the container stands on; one that was removed is made again of its layers."""
        store, record = self._context.store, container.record
        try:
            return store.images.get(record.image_id)
        except NotFound:
            if not wishes.image:
                raise Conflict(
                    f"The image of the container {container.name} was removed from this host, so that it can only be "
                    "had with the backup; leave out --no-image"
                ) from None
        chain = store.snapshots.chain(record.id) or ""
        made = await self._context.executors.bulk(
            rebuilt, store.content, store.layers, chain, defaults(record.config)
        )
        kept |= made.blobs
        return made

    async def _blob(
        self, kind: str, pieces: Callable[[], Iterator[bytes]], kept: set[str], *, name: str = ""
    ) -> Descriptor:
        """Something of the container's in the content store."""

        def store() -> str:
            digest = self._context.store.content.ingest(artifacts.compressed(pieces()))
            kept.add(digest)
            return digest

        digest = await self._context.executors.bulk(store)
        return Descriptor(
            media_type=kind,
            digest=digest,
            size=self._context.store.content.size(digest),
            annotations={document.VOLUME_NAME: name} if name else {},
        )

    def _parts(self, image: Image | Rebuilt) -> list[Descriptor]:
        """The image's blobs, as they are in the store."""
        content = self._context.store.content
        config = Descriptor(media_type=OCI_CONFIG, digest=image.id, size=content.size(image.id))
        manifest = Descriptor(media_type=OCI_MANIFEST, digest=image.manifest.digest, size=image.manifest.size)
        unique = {part.digest: part for part in (manifest, config, *image.layers)}
        return list(unique.values())

    def _manifest(
        self, saved: document.Backup, layers: list[Descriptor], kept: set[str]
    ) -> tuple[Descriptor, Manifest]:
        content, raw = self._context.store.content, document.encode(saved)
        config = Descriptor(media_type=document.CONFIG, digest=content.put(raw), size=len(raw))
        manifest = Manifest(
            media_type=OCI_MANIFEST,
            artifact_type=document.ARTIFACT,
            config=config,
            layers=tuple(layers),
            annotations={"org.opencontainers.image.title": saved.record.name},
        )
        artifact = artifacts.store(content, manifest)
        kept |= {config.digest, artifact.digest}
        return artifact, manifest


def _content(root: archives.FsRoot) -> Callable[[], Iterator[bytes]]:
    return lambda: archives.content(root)


def _named(record: Record) -> list[str]:
    return sorted({mount.name for mount in record.mounts if mount.type == "volume"})
