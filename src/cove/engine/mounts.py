"""Every mount a container asks for, resolved once at creation; and the mounts of a start made of them.

    -v, --mount, --tmpfs, VOLUME of the image, --volumes-from ──resolve──▶ MountRecords ──perform──▶ oci Mounts

One destination has one mount: a user's word wins over volumes taken from others, those over the image's.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cove import ids
from cove.engine import spec
from cove.engine.records import MountRecord, Record
from cove.engine.registry import Registry
from cove.engine.volumes import VolumeService
from cove.errors import InvalidArgument, Unsupported
from cove.oci.spec import Mount
from cove.volume import binds
from cove.wire import mounts as wire
from cove.wire.containers import ContainerConfig, HostConfig


class Mounts:
    """Resolves and performs; makes the volumes that are named for the first time."""

    def __init__(self, registry: Registry, volumes: VolumeService) -> None:
        self._registry = registry
        self._volumes = volumes

    async def resolve(self, config: ContainerConfig, asked: HostConfig) -> tuple[MountRecord, ...]:
        """What the container will have mounted, by destination; raises CoveError."""
        chosen = self._chosen(config, asked)
        for record in chosen:
            if record.type == "bind":
                binds.check_source(record.source, make=record.make)
        return tuple([await self._made(record, asked) for record in chosen])

    def foreseen(self, record: Record) -> Record:
        """A record with the mounts that it would get; nothing is made. Raises what `resolve` would raise."""
        found = []
        for mount in self._chosen(record.config, record.host):
            if mount.type == "bind" and not mount.make:
                binds.check_source(mount.source, make=False)
            known = mount.type == "volume" and mount.name and self._volumes.exists(mount.name)
            found.append(msgspec.structs.replace(mount, source=self._volumes.source(mount.name)) if known else mount)
        return msgspec.structs.replace(record, mounts=tuple(found))

    def _chosen(self, config: ContainerConfig, asked: HostConfig) -> tuple[MountRecord, ...]:
        """One mount for each destination, as the rules above say."""
        if not (asked.binds or asked.mounts or asked.tmpfs or asked.volumes_from or config.volumes):
            return ()
        chosen: dict[str, MountRecord] = {}
        for text in asked.binds or ():
            _add(chosen, _from_bind(binds.parse(text), asked.volume_driver))
        for mount in asked.mounts:
            _add(chosen, _from_mount(mount, asked.volume_driver))
        for destination, options in asked.tmpfs.items():
            spec.tmpfs(destination, options)
            clean = binds.check_destination(destination, destination)
            _add(
                chosen, MountRecord(type="tmpfs", destination=clean, mode=options, options=tuple(options.split(",")))
            )
        for text in asked.volumes_from or ():
            for record in self._from_container(text):
                chosen.setdefault(record.destination, record)
        for destination in config.volumes or ():
            clean = binds.check_destination(destination, destination)
            chosen.setdefault(
                clean, MountRecord(type="volume", destination=clean, driver=asked.volume_driver or "local", copy=True)
            )
        return tuple(chosen.values())

    async def undo(self, records: Iterable[MountRecord]) -> None:
        """Remove the anonymous volumes that `resolve` made for a container that was not made."""
        for record in records:
            if record.anonymous:
                await self._volumes.remove(record.name, force=True)

    async def _made(self, record: MountRecord, asked: HostConfig) -> MountRecord:
        if record.type != "volume":
            return record
        anonymous = not record.name
        name = ids.new_id() if anonymous else ids.check_name("volume", record.name)
        options, labels = _volume_words(asked, record.destination)
        made = await self._volumes.ensure(
            name, record.driver or "local", options=options, labels=labels, anonymous=anonymous
        )
        return msgspec.structs.replace(
            record,
            name=name,
            driver=made.driver,
            source=self._volumes.source(name),
            anonymous=anonymous or record.anonymous,
        )

    def _from_container(self, text: str) -> Iterable[MountRecord]:
        name, _, mode = text.partition(":")
        if mode not in ("", "ro", "rw", "z", "Z"):
            raise InvalidArgument(f"invalid mode: {mode} in volumes-from {text!r}")
        for record in self._registry.find(name).record.mounts:
            if record.type != "tmpfs":
                yield msgspec.structs.replace(record, rw=record.rw and mode != "ro", copy=False, anonymous=False)

    def perform(self, records: Iterable[MountRecord], *, mapped: bool = False) -> tuple[Mount, ...]:
        """The mounts of a start, parents before children; a bind's source is looked at again.

        `mapped`: the container has ids of its own. Its volumes are Cove's, and show their owners inside as on
        disk; a directory of the host does so when it was asked for with "idmap".
        """
        found = []
        ordered = sorted(records, key=lambda each: each.destination.count("/"))
        for record in ordered:
            if record.type == "volume":
                found.append(self._volumes.mount(record))
            elif record.type == "tmpfs":
                found.append(spec.tmpfs(record.destination, record.mode))
            else:
                binds.check_source(record.source, make=record.make)
                found.append(
                    binds.mount(
                        record.source,
                        record.destination,
                        rw=record.rw,
                        propagation=record.propagation,
                        recursive=record.recursive,
                    )
                )
        if not mapped:
            return tuple(found)
        return tuple(self._shown(mount, record) for mount, record in zip(found, ordered, strict=True))

    def _shown(self, mount: Mount, record: MountRecord) -> Mount:
        if record.idmap or (record.type == "volume" and mount.type == "bind"):
            return msgspec.structs.replace(mount, options=(*mount.options, "idmap"))
        return mount


def _add(chosen: dict[str, MountRecord], record: MountRecord) -> None:
    if record.destination in chosen:
        raise InvalidArgument(f"Duplicate mount point: {record.destination}")
    chosen[record.destination] = record


def _from_bind(text: binds.BindText, driver: str) -> MountRecord:
    if text.is_path:
        return MountRecord(
            type="bind",
            destination=text.destination,
            source=text.source,
            mode=text.mode,
            rw=text.rw,
            propagation=text.propagation or "rprivate",
            make=True,
            idmap=text.idmap,
        )
    return MountRecord(
        type="volume",
        destination=text.destination,
        name=text.source,
        driver=driver or "local",
        mode=text.mode or "z",
        rw=text.rw,
        copy=text.copy,
        idmap=text.idmap,
    )


def _from_mount(asked: wire.Mount, driver: str) -> MountRecord:
    """A `--mount`; Docker's words for what is wrong with one."""
    complaint = f'invalid mount config for type "{asked.type}": '
    if not asked.target:
        raise InvalidArgument(f"{complaint}field Target must not be empty")
    target = binds.check_destination(asked.target, asked.target)
    if asked.type == "tmpfs":
        return _from_tmpfs(asked, target, complaint)
    if asked.type == "bind":
        if not asked.source.startswith("/"):
            raise InvalidArgument(f"{complaint}invalid mount path: '{asked.source}' mount path must be absolute")
        options = asked.bind_options or wire.BindOptions()
        if options.propagation and options.propagation not in binds.PROPAGATIONS:
            raise InvalidArgument(f"{complaint}invalid propagation mode: {options.propagation}")
        return MountRecord(
            type="bind",
            destination=target,
            source=binds.clean(asked.source),
            rw=not asked.read_only,
            propagation=options.propagation or "rprivate",
            recursive=not options.non_recursive,
            make=options.create_mountpoint,
            idmap=asked.idmap,
        )
    if asked.type == "volume":
        volume = asked.volume_options or wire.VolumeOptions()
        chosen = volume.driver_config.name if volume.driver_config else ""
        return MountRecord(
            type="volume",
            destination=target,
            name=asked.source,
            driver=chosen or driver or "local",
            mode="z",
            rw=not asked.read_only,
            copy=not volume.no_copy,
            subpath=volume.subpath,
            idmap=asked.idmap,
        )
    if asked.type in ("image", "npipe", "cluster"):
        raise Unsupported(f"{complaint}mounts of this type are not supported; use bind, volume or tmpfs")
    raise InvalidArgument(f"{complaint}mount type unknown: '{asked.type}'")


def _from_tmpfs(asked: wire.Mount, target: str, complaint: str) -> MountRecord:
    if asked.source:
        raise InvalidArgument(f"{complaint}field Source must not be specified")
    options = asked.tmpfs_options or wire.TmpfsOptions()
    words = ["=".join(option) for option in options.options]
    if options.size_bytes:
        words.append(f"size={options.size_bytes}")
    if options.mode:
        words.append(f"mode={options.mode:o}")
    if asked.read_only:
        words.append("ro")
    mode = ",".join(words)
    spec.tmpfs(target, mode)
    return MountRecord(type="tmpfs", destination=target, mode=mode, rw=not asked.read_only, options=tuple(words))


def _volume_words(asked: HostConfig, destination: str) -> tuple[dict[str, str], dict[str, str]]:
    """The driver's options and the labels that a `--mount` gives the volume it makes."""
    for mount in asked.mounts:
        if mount.type == "volume" and binds.clean(mount.target) == destination and mount.volume_options:
            config = mount.volume_options.driver_config
            return (dict(config.options) if config else {}), dict(mount.volume_options.labels)
    return {}, {}
