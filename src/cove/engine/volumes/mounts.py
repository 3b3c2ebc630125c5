"""Every mount a container asks for, resolved once at creation; and the mounts of a start made of them.

    -v, --mount, --tmpfs, VOLUME of the image, --volumes-from ──resolve──▶ MountRecords ──perform──▶ oci Mounts
      (each by itself: `cove.engine.volumes.mount_requests`)

One destination has one mount: a user's word wins over volumes taken from others, those over the image's.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cove import ids
from cove.engine.containers import spec
from cove.engine.containers.records import MountRecord, Record
from cove.engine.containers.registry import Registry
from cove.engine.context import Context
from cove.engine.images import trust
from cove.engine.volumes import mount_requests
from cove.engine.volumes.service import VolumeService
from cove.errors import InvalidArgument, NotFound
from cove.oci.spec import IDMapping, Mount
from cove.volume import binds
from cove.wire.containers import ContainerConfig, HostConfig

_Map = tuple[IDMapping, ...]


class Mounts:
    """Resolves and performs; makes the volumes that are named for the first time."""

    def __init__(self, context: Context, registry: Registry, volumes: VolumeService) -> None:
        self._context = context
        self._registry = registry
        self._volumes = volumes

    async def resolve(self, config: ContainerConfig, asked: HostConfig) -> tuple[MountRecord, ...]:
        """What the container will have mounted, by destination; raises CoveError."""
        chosen = self._chosen(config, asked)
        for record in chosen:
            if record.type == "bind":
                binds.check_source(record.source, make=record.make)
        made: list[MountRecord] = []
        new = [each.name for each in chosen if each.type == "volume" and not self._volumes.exists(each.name)]
        try:
            for record in chosen:
                made += (await self._made(record, asked),)
        except BaseException:
            await self.undo(made)
            for name in new:
                if self._volumes.exists(name) and not self._volumes.users(name):
                    await self._volumes.remove(name)
            raise
        return tuple(made)

    def foreseen(self, record: Record) -> Record:
        """A record with the mounts that it would get; nothing is made. Raises what `resolve` would raise."""
        found = []
        for mount in self._chosen(record.config, record.host):
            if mount.type == "bind" and not mount.make:
                binds.check_source(mount.source, make=False)
            known = mount.type == "volume" and mount.name and self._volumes.exists(mount.name)
            source = self._volumes.use.source(mount.name) if known else mount.source
            found.append(msgspec.structs.replace(mount, source=source))
        return msgspec.structs.replace(record, mounts=tuple(found))

    def _chosen(self, config: ContainerConfig, asked: HostConfig) -> tuple[MountRecord, ...]:
        """One mount for each destination, as the rules above say."""
        if not (asked.binds or asked.mounts or asked.tmpfs or asked.volumes_from or config.volumes):
            return ()
        data = str(self._context.data.root)
        chosen: dict[str, MountRecord] = {}
        for text in asked.binds or ():
            _add(chosen, mount_requests.from_bind(binds.parse(text), asked.volume_driver, data))
        for mount in asked.mounts:
            _add(chosen, mount_requests.from_mount(mount, asked.volume_driver, data))
        for destination, options in asked.tmpfs.items():
            spec.tmpfs(destination, options)
            clean = binds.check_destination(destination, destination)
            _add(
                chosen, MountRecord(type="tmpfs", destination=clean, mode=options, options=tuple(options.split(",")))
            )
        lent = {each.destination: each for text in asked.volumes_from or () for each in self._from_container(text)}
        chosen = {**lent, **chosen}  # of several lenders, the last one
        for destination in config.volumes or ():  # an image's may be relative: to its root
            clean = binds.check_destination(f"/{destination.lstrip('/')}", destination)
            chosen.setdefault(
                clean, MountRecord(type="volume", destination=clean, driver=asked.volume_driver, copy=True)
            )
        return tuple(chosen.values())

    async def undo(self, records: Iterable[MountRecord]) -> None:
        """Remove the anonymous volumes that `resolve` made for a container that was not made."""
        for record in records:
            if record.anonymous and not self._volumes.users(record.name):
                await self._volumes.remove(record.name, force=True)

    async def _made(self, record: MountRecord, asked: HostConfig) -> MountRecord:
        if record.type == "image":
            return await self._pinned(record)
        if record.type != "volume":
            return record
        anonymous = not record.name
        name = ids.new_id() if anonymous else ids.check_name("volume", record.name)
        options, labels = mount_requests.volume_words(asked, record.destination)
        made = await self._volumes.ensure(name, record.driver, options=options, labels=labels, anonymous=anonymous)
        return msgspec.structs.replace(
            record,
            name=name,
            driver=made.driver,
            source=self._volumes.use.source(name),
            anonymous=anonymous or record.anonymous,
        )

    async def _pinned(self, record: MountRecord) -> MountRecord:
        """The image that the name stands for now, its layers unpacked: it stays this one."""
        try:
            image = self._context.images.get(record.name)
        except NotFound as error:  # 404 at creation means to clients that the container's own image is missing
            raise InvalidArgument(f'invalid mount config for type "image": {error.message}; pull it first') from None
        trust.admit(self._context.trust, record.name, image)
        await self._context.executors.bulk(self._context.store.layers.ensure_unpacked, image)
        return msgspec.structs.replace(record, source=image.id, chain=image.top or "")

    async def again(self, records: Iterable[MountRecord]) -> tuple[MountRecord, ...]:
        """The mounts of a container that comes from elsewhere, on this host; its volumes are the caller's."""
        found = []
        for record in records:
            if record.type == "bind":
                binds.check_source(record.source, make=record.make)
            found.append(await self._pinned(record) if record.type == "image" else record)
        return tuple(found)

    def _from_container(self, text: str) -> Iterable[MountRecord]:
        name, _, mode = text.partition(":")
        if mode not in ("", "ro", "rw", "z", "Z"):
            raise InvalidArgument(f"invalid mode: {mode} in volumes-from {text!r}")
        try:
            lender = self._registry.find(name)
        except NotFound as error:  # 404 at creation means to clients that the image is missing
            raise InvalidArgument(f"cannot take volumes from it: {error.message}") from None
        for record in lender.record.mounts:
            if record.type != "tmpfs":
                yield msgspec.structs.replace(record, rw=record.rw and mode != "ro", copy=False)

    def perform(self, records: Iterable[MountRecord], *, uids: _Map = (), gids: _Map = ()) -> tuple[Mount, ...]:
        """The mounts of a start, parents before children; a bind's source is looked at again.

        `uids`, `gids`: the container's, if it has ids of its own. Its volumes are Cove's, and show their owners
        inside as on disk; a directory of the host does so when it was asked for with "idmap".
        """
        found = []
        ordered = sorted(records, key=lambda each: each.destination.count("/"))
        for record in ordered:
            if record.type == "volume":
                found.append(self._volumes.use.mount(record))
            elif record.type == "tmpfs":
                found.append(spec.tmpfs(record.destination, record.mode))
            elif record.type == "image":
                found.append(self._context.snapshots.image(record.chain, record.destination, subpath=record.subpath))
            else:
                binds.check_source(record.source, make=record.make)
                binds.check_propagation(record.source, record.propagation, str(self._context.data.root))
                found.append(self._bind(record))
        if not uids:
            return tuple(found)
        return tuple(_shown(mount, record, uids, gids) for mount, record in zip(found, ordered, strict=True))

    def within_project(self, records: Iterable[MountRecord]) -> bool:
        """Whether a volume among them has its size by a quota of the file system that it lies on."""
        return any(each.type == "volume" and self._volumes.use.within_project(each.name) for each in records)

    def _bind(self, record: MountRecord) -> Mount:
        deep = record.deep_readonly == "must" or (
            record.deep_readonly == "" and record.recursive and self._context.host.deep_attributes
        )
        return binds.mount(
            record.source,
            record.destination,
            access="rw" if record.rw else "rro" if deep else "ro",
            propagation=record.propagation,
            recursive=record.recursive,
        )


def _shown(mount: Mount, record: MountRecord, uids: _Map, gids: _Map) -> Mount:
    if record.type == "image":
        return msgspec.structs.replace(mount, uid_mappings=uids, gid_mappings=gids)
    if record.idmap or (record.type == "volume" and mount.type == "bind"):
        return msgspec.structs.replace(mount, options=(*mount.options, "idmap"))
    return mount


def _add(chosen: dict[str, MountRecord], record: MountRecord) -> None:
    if record.destination in chosen:
        raise InvalidArgument(f"Duplicate mount point: {record.destination}")
    chosen[record.destination] = record
