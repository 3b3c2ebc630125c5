"""One mount as a user asked for it, checked by itself: `-v`, `--mount` and the API's Mounts become MountRecords.

Pure. What another mount or a volume that is there says to it is `cove.engine.volumes.mounts`'.
"""

from __future__ import annotations

import posixpath

from cove.engine.containers import spec
from cove.engine.containers.records import MountRecord
from cove.errors import InvalidArgument, Unsupported
from cove.volume import binds
from cove.wire import mounts as wire
from cove.wire.containers import HostConfig


def from_bind(text: binds.BindText, driver: str, data: str) -> MountRecord:
    """A `-v` with a source; `data` is the daemon's data root."""
    if text.is_path:
        return MountRecord(
            type="bind",
            destination=text.destination,
            source=text.source,
            mode=text.mode,
            rw=text.rw,
            propagation=binds.propagation(text.propagation, text.source, data),
            make=True,
            idmap=text.idmap,
        )
    return MountRecord(
        type="volume",
        destination=text.destination,
        name=text.source,
        driver=driver,
        mode=text.mode or "z",
        rw=text.rw,
        copy=text.copy,
        idmap=text.idmap,
    )


def from_mount(asked: wire.Mount, driver: str, data: str) -> MountRecord:
    """A `--mount`; Docker's words for what is wrong with one."""
    complaint = f'invalid mount config for type "{asked.type}": '
    if not asked.target:
        raise InvalidArgument(f"{complaint}field Target must not be empty")
    target = binds.check_destination(asked.target, asked.target)
    _check_foreign(asked, complaint)
    if asked.type == "tmpfs":
        return _from_tmpfs(asked, target, complaint)
    if asked.type == "bind":
        if not asked.source:
            raise InvalidArgument(f"{complaint}field Source must not be empty")
        if not asked.source.startswith("/"):
            raise InvalidArgument(f"{complaint}invalid mount path: '{asked.source}' mount path must be absolute")
        return _from_bind(asked, target, complaint, data)
    if asked.type == "volume":
        volume = asked.volume_options or wire.VolumeOptions()
        if volume.subpath and not asked.source:
            raise InvalidArgument(f"{complaint}must not set Subpath when using anonymous volumes")
        _check_subpath(volume.subpath, complaint)
        chosen = volume.driver_config.name if volume.driver_config else ""
        return MountRecord(
            type="volume",
            destination=target,
            name=asked.source,
            driver=chosen or driver,
            mode="z",
            rw=not asked.read_only,
            copy=not volume.no_copy,
            subpath=volume.subpath,
            idmap=asked.idmap,
        )
    if asked.type == "image":
        return _from_image(asked, target, complaint)
    if asked.type in ("npipe", "cluster"):
        raise Unsupported(f"{complaint}mounts of this type are not supported; use bind, volume, image or tmpfs")
    raise InvalidArgument(f"{complaint}mount type unknown: '{asked.type}'")


_OPTIONS = {
    "bind": "bind_options",
    "volume": "volume_options",
    "image": "image_options",
    "tmpfs": "tmpfs_options",
}


def _check_foreign(asked: wire.Mount, complaint: str) -> None:
    """Options of another type would have to be ignored."""
    for kind, field in _OPTIONS.items():
        if kind != asked.type and getattr(asked, field) is not None:
            raise InvalidArgument(f"{complaint}field {kind.capitalize()}Options must not be specified")


def _check_subpath(path: str, complaint: str) -> None:
    """What is really there is the runtime's to resolve, inside the volume or the image."""
    if path and (path.startswith("/") or posixpath.normpath(path).split("/")[0] == ".." or "\0" in path):
        raise InvalidArgument(f"{complaint}subpath must be a relative path within the volume")


def _from_bind(asked: wire.Mount, target: str, complaint: str, data: str) -> MountRecord:
    options = asked.bind_options or wire.BindOptions()
    if options.propagation and options.propagation not in binds.PROPAGATIONS:
        raise InvalidArgument(f"{complaint}invalid propagation mode: {options.propagation}")
    flat, deep = options.read_only_non_recursive, options.read_only_force_recursive
    conflict = {
        "!ReadOnly && BindOptions.ReadOnlyNonRecursive": flat and not asked.read_only,
        "!ReadOnly && BindOptions.ReadOnlyForceRecursive": deep and not asked.read_only,
        "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive": flat and deep,
        "NonRecursive && BindOptions.ReadOnlyForceRecursive": options.non_recursive and deep,
    }
    for words, found in conflict.items():
        if found:
            raise InvalidArgument(f"{complaint}mount options conflict: {words}")
    return MountRecord(
        type="bind",
        destination=target,
        source=binds.clean(asked.source),
        rw=not asked.read_only,
        propagation=binds.propagation(options.propagation, binds.clean(asked.source), data),
        recursive=not options.non_recursive,
        deep_readonly="no" if flat else "must" if deep else "",
        make=options.create_mountpoint,
        idmap=asked.idmap,
    )


def _from_image(asked: wire.Mount, target: str, complaint: str) -> MountRecord:
    """Always read-only: an image does not change."""
    if not asked.source:
        raise InvalidArgument(f"{complaint}field Source must not be empty")
    subpath = asked.image_options.subpath if asked.image_options else ""
    _check_subpath(subpath, complaint)
    return MountRecord(type="image", destination=target, name=asked.source, rw=False, subpath=subpath)


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


def volume_words(asked: HostConfig, destination: str) -> tuple[dict[str, str], dict[str, str]]:
    """The driver's options and the labels that a `--mount` gives the volume it makes."""
    for mount in asked.mounts:
        if mount.type == "volume" and binds.clean(mount.target) == destination and mount.volume_options:
            config = mount.volume_options.driver_config
            return (dict(config.options) if config else {}), dict(mount.volume_options.labels)
    return {}, {}
