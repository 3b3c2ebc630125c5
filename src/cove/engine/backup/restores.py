"""`cove restore`: a container out of a backup, on this host or another one.

    blobs in the content store ─▶ image registered or found ─▶ everything checked ─▶ volumes, complete before they are
    named ─▶ writable layer ─▶ the row; then it is there, created and not started

What fails on the way is undone; what a crash cuts short is swept at the next start.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, suppress

import msgspec

from cove import ids
from cove.engine.backup import document
from cove.engine.backup.sources import FromRegistry, Source
from cove.engine.bridging import blocking
from cove.engine.containers.records import MountRecord, Record
from cove.engine.containers.registry import Container, Registry
from cove.engine.containers.service import Containers
from cove.engine.context import Context
from cove.engine.images import trust
from cove.engine.isolation import reach
from cove.engine.isolation.userns import Maps, Users
from cove.engine.networks import links
from cove.engine.networks.places import places
from cove.engine.networks.ports import requested
from cove.engine.networks.service import NetworkStore
from cove.engine.telling import tell
from cove.engine.volumes.mounts import Mounts
from cove.engine.volumes.moves import WHOLE
from cove.engine.volumes.service import VolumeService
from cove.errors import Conflict, CoveError, Forbidden, InvalidArgument, NotFound
from cove.image.distribution import Credentials
from cove.image.images import Image
from cove.image.travel import archives, artifacts
from cove.image.travel.diff import restore_changes
from cove.oci.image import Descriptor
from cove.oci.reference import Reference
from cove.wire.containers import CreateResponse, HostConfig, NetworkingConfig


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """How a backup is restored: `volumes` gives others the names on the right; `trust` grants what it asks for."""

    name: str = ""
    volumes: Mapping[str, str] = {}
    trust: bool = False


class Restores:
    """Brings backups back."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        networks: NetworkStore,
        containers: Containers,
        mounts: Mounts,
        volumes: VolumeService,
        users: Users,
    ) -> None:
        self._context = context
        self._registry = registry
        self._networks = networks
        self._containers = containers
        self._mounts = mounts
        self._volumes = volumes
        self._users = users

    async def load(self, stream: AsyncIterator[bytes], wishes: Wishes) -> CreateResponse:
        """A container out of an archive, which is unpacked while it comes in."""
        body, store, bulk = blocking(stream), self._context.store, self._context.executors.bulk
        archive = artifacts.Incoming(store.content, document.ARTIFACT, body, self._context.data.tmp, "backup")
        async with AsyncExitStack() as around:
            around.push_async_callback(bulk, store.collector.collect)
            await bulk(archive.__enter__)
            around.push(archive)
            return await self._restore(archive, wishes)

    async def pull(self, source: str, wishes: Wishes, *, auth: str = "") -> CreateResponse:
        """A container out of a registry."""
        credentials = Credentials.from_header(auth) if auth else None
        context, reference = self._context, Reference.parse(source)
        remote = await context.executors.bulk(context.distribution.remote, reference, credentials)
        return await self._restore(FromRegistry(remote, context.store.content, reference.familiar), wishes)

    async def _restore(self, source: Source, wishes: Wishes) -> CreateResponse:
        """Everything into place; the backup's own blobs are forgotten afterwards, however it ends.

        What can be refused is refused before more than the configuration came.
        """
        content, bulk = self._context.store.content, self._context.executors.bulk
        manifest, identity, renamed = source.manifest, ids.new_id(), wishes.volumes
        async with AsyncExitStack() as around:
            around.push_async_callback(bulk, self._context.store.collector.collect)
            kept = around.enter_context(content.keeping())
            kept |= {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
            await bulk(source.store, (manifest.config,))
            saved = document.decode(await bulk(content.read, manifest.config.digest))
            if not wishes.trust:
                _refuse_reach(saved)
            chosen = ids.check_name("container", (wishes.name or saved.record.name).removeprefix("/"))
            around.enter_context(self._registry.claim(chosen, identity))
            maps = around.enter_context(self._users.claim(saved.record.host))
            await self._refuse_taken(saved, renamed)
            if saved.image.included:
                self._draft(saved.record, identity, chosen, saved.image.id, maps, renamed)
            async with AsyncExitStack() as undo:
                image = await self._image(saved.image, source, undo)
                draft, warnings = self._draft(saved.record, identity, chosen, image.id, maps, renamed)
                container = await self._make(draft, saved, source, image, renamed)
                undo.pop_all()
        tell(self._context.events, container, "create")
        return CreateResponse(id=identity, warnings=warnings)

    async def _make(
        self, draft: Record, saved: document.Backup, source: Source, image: Image, renamed: Mapping[str, str]
    ) -> Container:
        layers = source.manifest.layers
        blobs = {layer.annotations.get(document.VOLUME_NAME, ""): layer for layer in layers}
        changes = next((layer for layer in layers if layer.media_type == document.CHANGES), None)
        async with AsyncExitStack() as undo:
            await self._containers.unpacked(image)
            mounts = await self._mounts.again(draft.mounts)
            self._containers.layer(msgspec.structs.replace(draft, mounts=mounts), image, undo)
            if changes is not None:
                await self._context.executors.bulk(
                    restore_changes, self._context.data, draft.id, source.pieces(changes), WHOLE
                )
            names = {}
            for volume in saved.volumes:
                blob = blobs.get(volume.record.name)
                names[volume.record.name] = await self._volume(volume, draft.id, source, blob, renamed, undo)
            await self._context.executors.bulk(source.finish)
            placed = tuple(self._placed(mount, names) for mount in mounts)
            container = self._registry.add(msgspec.structs.replace(draft, mounts=placed))
            undo.pop_all()
        for name in names.values():
            self._volumes.settle(name)
        return container

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────

    async def _image(self, saved: document.SavedImage, source: Source, undo: AsyncExitStack) -> Image:
        """The image that the backup stands on: here, in the backup, or at a registry."""
        images, bulk = self._context.images, self._context.executors.bulk
        try:
            found = images.get(saved.id)
        except NotFound:
            pass
        else:
            trust.admit(self._context.trust, saved.name, found)
            return found
        if saved.included:
            if saved.name:
                self._context.trust.admit(Reference.parse(saved.name), saved.manifest)
            parts = [each for each in source.manifest.layers if each.media_type not in document.OWN]
            await bulk(source.store, parts)
            found = await bulk(images.register, saved.manifest, self._free(saved.name))
            undo.push_async_callback(self._forget, found.id)
            if found.id != saved.id:
                raise InvalidArgument("the backup is damaged: its image is not the one that it names")
            return found
        if saved.repo_digests:
            where = Reference.parse(saved.repo_digests[0])
            await bulk(lambda: self._context.distribution.pull(where, progress=_unheard))
            return images.get(saved.id)
        raise NotFound(
            f"The backup stands on the image {saved.name} ({saved.id[:19]}), which is neither in it nor here; load "
            "that first"
        )

    async def _forget(self, image: str) -> None:
        """Take back an image that came with a backup which was not restored, unless somebody uses it already."""
        if not any(image in container.record.image_ids for container in self._registry):
            with suppress(CoveError):
                await self._context.executors.bulk(self._context.images.delete, image)

    def _free(self, name: str) -> list[str]:
        """The image's name, if nothing else bears it here."""
        try:
            if Reference.parse(name).digest:
                return []
            self._context.images.get(name)
        except NotFound:
            return [name]
        except CoveError:
            return []
        return []

    def _draft(
        self, old: Record, identity: str, name: str, image: str, maps: Maps, renamed: Mapping[str, str]
    ) -> tuple[Record, tuple[str, ...]]:
        """The container's record for this host; every refusal that a create would give comes here."""
        host = self._containers.with_lenders(_renamed(old.host, renamed))
        warnings = self._containers.check(old.config, host)
        record = msgspec.structs.replace(
            old,
            id=identity,
            name=name,
            created_ns=time.time_ns(),
            image_id=image,
            host=host,
            endpoints=places(self._networks, host, NetworkingConfig(endpoints_config=dict(old.endpoints))),
            uid_map=maps.uids,
            gid_map=maps.gids,
        )
        requested(record, self._context.settings)
        links.check(self._registry, record)
        return record, warnings

    async def _refuse_taken(self, saved: document.Backup, renamed: Mapping[str, str]) -> None:
        """Volumes that are here are never written over."""
        known = {volume.record.name for volume in saved.volumes}
        for name in renamed:
            if name not in known:
                raise InvalidArgument(f"the backup has no volume {name} that could be called {renamed[name]}")
        for volume in saved.volumes:
            name = renamed.get(volume.record.name, volume.record.name)
            if volume.content and not volume.record.anonymous and await self._volumes.taken(name):
                users = ", ".join(user.name for user in self._volumes.users(name))
                raise Conflict(
                    f"a volume with the name {name} exists already{f', used by {users}' if users else ''}; remove "
                    f"it, or restore into another one with --volume {volume.record.name}=NEW"
                )

    async def _volume(
        self,
        volume: document.SavedVolume,
        container: str,
        source: Source,
        blob: Descriptor | None,
        renamed: Mapping[str, str],
        undo: AsyncExitStack,
    ) -> str:
        """The volume here, with its content if the backup has that; its name."""
        old = volume.record
        name = ids.new_id() if old.anonymous else ids.check_name("volume", renamed.get(old.name, old.name))
        record = msgspec.structs.replace(old, name=name, created_ns=time.time_ns(), awaits=container)
        if self._volumes.exists(name):
            return name
        undo.push_async_callback(self._volumes.remove, name, force=True)
        if not volume.content:
            await self._volumes.ensure(
                name,
                old.driver,
                options=dict(old.options),
                labels=dict(old.labels),
                anonymous=old.anonymous,
                awaits=container,
            )
            return name
        if blob is None:
            raise InvalidArgument(f"the backup is damaged: the content of the volume {old.name} is missing")
        async with self._volumes.appearing(record) as mount:
            root, pieces = archives.stopped((mount,)), source.pieces(blob)
            await self._context.executors.bulk(archives.write_archive, root, "/", pieces, top=True, limits=WHOLE)
        return name

    def _placed(self, mount: MountRecord, names: Mapping[str, str]) -> MountRecord:
        if mount.type != "volume":
            return mount
        name = names.get(mount.name)
        if name is None:
            raise InvalidArgument(f"the backup is damaged: nothing is known of its volume {mount.name}")
        return msgspec.structs.replace(mount, name=name, source=self._volumes.use.source(name))


def _refuse_reach(saved: document.Backup) -> None:
    """A backup is not read before it is restored, as a command is: what reaches the host must be granted."""
    asked = reach.beyond(saved.record, [volume.record for volume in saved.volumes])
    if asked:
        raise Forbidden(
            f"the backup asks for more than a container has by default: {'; '.join(asked)}. Restore it with --trust "
            "if you trust those who made it"
        )


def _renamed(host: HostConfig, names: Mapping[str, str]) -> HostConfig:
    """What was asked for, with the volumes' new names in the place of the old ones."""
    if not names:
        return host
    mounts = tuple(
        msgspec.structs.replace(mount, source=names[mount.source])
        if mount.type == "volume" and mount.source in names
        else mount
        for mount in host.mounts
    )
    return msgspec.structs.replace(host, binds=_binds(host.binds, names), mounts=mounts)


def _binds(binds: Iterable[str] | None, names: Mapping[str, str]) -> tuple[str, ...] | None:
    if binds is None:
        return None
    split = (text.partition(":") for text in binds)
    return tuple(f"{names.get(source, source)}{colon}{rest}" for source, colon, rest in split)


def _unheard(message: dict[str, object]) -> None:
    """Progress that nobody watches."""
