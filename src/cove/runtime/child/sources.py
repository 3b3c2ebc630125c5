"""Where a container's mounts come from: its root and what it binds, as detached mounts, made outside of it.

Made by init itself in its first moments, or, for a container with a user namespace of its own, by a process
outside (`cove.runtime.child.outside`): such an init may neither mount an image's layers nor map their owners.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from cove.kernel import idmapped, loop, mounts, namespaces, rootpath, syscalls
from cove.kernel.mounts import Options, parse_options
from cove.oci.spec import IDMapping, Mount, Spec
from cove.runtime.child import idmaps
from cove.runtime.child.common import Failure
from cove.runtime.messages import LENT

_TMPFS_MAGIC = 0x01021994  # statfs(2)
_OVER_THE_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p"})
"""File systems whose client stays in the network namespace of whoever mounts them."""


class Maps(msgspec.Struct, frozen=True):
    """A container's user namespace (any descriptor of it) and its maps."""

    namespace: int
    uids: Sequence[IDMapping]
    gids: Sequence[IDMapping]


def is_bind(mount: Mount, options: Options) -> bool:
    """Whether a mount shows what is there already."""
    return options.bind or mount.type in ("bind", "rbind")


def is_inside(spec: Spec, mount: Mount) -> bool:
    """Whether a bind's source lies in the container's root, where an earlier mount may have put it.

    With ids to be mapped it does not count: that is the host's root's to do, before the container's mounts are made.
    """
    if spec.root is None or spec.root.path == "/" or mount.uid_mappings or mount.gid_mappings:
        return False
    options = parse_options(mount.options)
    if not is_bind(mount, options) or options.idmap or options.subdirectory:
        return False
    return os.path.abspath(mount.source).startswith(f"{spec.root.path}/")


def inside(spec: Spec, root: int, mount: Mount, options: Options) -> int:
    """A detached copy of what such a mount binds, found from the descriptor `root`: no link leads out."""
    assert spec.root is not None
    path = os.path.abspath(mount.source)[len(spec.root.path) :]
    try:
        found = rootpath.open_in(root, path)
        try:
            return mounts.clone(found, "", recursive=options.recursive or mount.type == "rbind")
        finally:
            os.close(found)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise Failure(
            f"cannot mount {mount.source} at {mount.destination}: {reason}", number=error.errno or 0
        ) from None


def bind(mount: Mount, options: Options, maps: Maps | None = None) -> int:
    """A detached copy of what `mount` binds, its owners shifted if it says so."""
    recursive = options.recursive or mount.type == "rbind"
    try:
        if options.subdirectory:
            base = os.open(os.path.abspath(mount.source), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            source = _part(mount, options, base, recursive=recursive)
        else:
            source = mounts.clone(syscalls.AT_FDCWD, os.path.abspath(mount.source), recursive=recursive)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise Failure(
            f"cannot mount {mount.source} at {mount.destination}: {reason}", number=error.errno or 0
        ) from None
    if options.idmap or mount.uid_mappings or mount.gid_mappings:
        try:
            with _namespace(mount, maps) as namespace:
                idmaps.shift(source, namespace, recursive="ridmap" in mount.options)
        except Failure as failure:
            failure.message = f"cannot map the ids of {mount.source} at {mount.destination}: {failure.message}"
            raise
    return source


def _part(mount: Mount, options: Options, tree: int, *, recursive: bool = False) -> int:
    """What a mount's subdirectory means of `tree`, which is closed. Its names are a container's to change."""
    path = options.subdirectory
    try:
        return mounts.part(tree, path, recursive=recursive)
    except OSError as error:
        number = error.errno or 0
        if number == errno.EXDEV:
            why = f"path concatenation escapes the base directory: {path!r} leads out of what is mounted"
        elif number == errno.EINVAL:
            why = f"a part of such a mount ({path!r}) needs kernel 6.15"
        else:
            why = f"cannot access path {path}: {os.strerror(number).lower()}"
        raise Failure(f"cannot mount at {mount.destination}: {why}", number=number) from None
    finally:
        os.close(tree)


def is_lent(mount: Mount) -> bool:
    """Whether a mount is what the mount namespace `mount.source` has, as memory, at the same place."""
    return mount.type == LENT


def lent(mount: Mount) -> int:
    """A detached copy of another container's tmpfs; its names and mounts are that container's to change."""
    with namespaces.in_mounts_of(mount.source) as inside:
        found = rootpath.open_in(inside, mount.destination, resolve=rootpath.RESOLVE_NO_SYMLINKS)
        try:
            if syscalls.filesystem_magic(found) != _TMPFS_MAGIC:
                raise Failure(f"what the other container has at {mount.destination} is no memory")
            return mounts.clone(found, "")
        finally:
            os.close(found)


def is_hosts(mount: Mount, options: Options) -> bool:
    """Whether a mount needs what is the host's: a block device, which init may not open in its own group of devices,
    or a server that is reached from the host's network, where init's is another one and not even up.
    """
    if is_bind(mount, options):
        return False
    return "loop" in options.data or mount.source.startswith("/dev/") or mount.type in _OVER_THE_NETWORK


def filesystem(mount: Mount, options: Options, maps: Maps | None = None) -> int:
    """A detached mount of a file system that is no bind, or of a part of it."""
    made = _whole(mount, options, maps)
    return _part(mount, options, made) if options.subdirectory else made


def known(mount: Mount, data: tuple[str, ...], attributes: int, context: int | None = None) -> int:
    """A new file system; Failure when there is no such one in this kernel, or none at its source.

    `context`: see `mounts.new_filesystem`.
    """
    try:
        return mounts.new_filesystem(mount.type, mount.source or mount.type, data, attributes, context=context)
    except OSError as error:
        number = error.errno or 0
        if number == errno.ENODEV:
            why = f"this kernel knows no file system {mount.type}"
        elif is_hosts(mount, parse_options(mount.options)):
            why = f"{error.strerror} ({os.strerror(number).lower()})"
        else:
            raise
        raise Failure(
            f"cannot mount {mount.source or mount.type} at {mount.destination}: {why}", number=number
        ) from None


def is_layers(mount: Mount, options: Options) -> bool:
    """Whether a mount is an overlay of layers, as an image is shown."""
    return mount.type == "overlay" and any(option.startswith("lowerdir=") for option in options.data)


def _whole(mount: Mount, options: Options, maps: Maps | None) -> int:
    """With the option "loop", a file holds the file system."""
    if is_lent(mount):
        return lent(mount)
    if is_layers(mount, options):
        return _overlay(mount, options, maps)
    if "loop" not in options.data:
        return known(mount, options.data, options.attributes[0])
    data = [option for option in options.data if option != "loop"]
    try:
        return loop.mount(mount.type, mount.source, data, options.attributes[0])
    except OSError as error:
        raise Failure(f"cannot mount {mount.source}: {error.strerror}", number=error.errno or 0) from None


@contextmanager
def _namespace(mount: Mount, maps: Maps | None) -> Iterator[int]:
    """The user namespace that shifts a mount's owners: that of its own maps, or the container's."""
    uids, gids = mount.uid_mappings, mount.gid_mappings
    if maps is not None and ((not uids and not gids) or (uids, gids) == (maps.uids, maps.gids)):
        yield maps.namespace
    elif uids and gids:
        with idmaps.user_namespace(uids, gids) as namespace:
            yield namespace
    elif uids or gids:
        raise Failure("it needs both uidMappings and gidMappings")
    else:
        raise Failure("idmap needs uidMappings and gidMappings, or a user namespace of the container's own")


def root(spec: Spec, rootfs: Mount | None, maps: Maps | None = None) -> int:
    """The detached mount that becomes "/"."""
    if rootfs is None:
        if spec.root is None:
            raise Failure("the runtime spec names no root file system")
        return mounts.clone(syscalls.AT_FDCWD, os.path.abspath(spec.root.path), recursive=True)
    options = parse_options(rootfs.options)
    if rootfs.type == "overlay":
        return _overlay(rootfs, options, maps)
    if is_bind(rootfs, options):
        return bind(rootfs, options, maps)
    return mounts.new_filesystem(rootfs.type, rootfs.source, options.data)


def _overlay(rootfs: Mount, options: Options, maps: Maps | None) -> int:
    """An overlay from its options "lowerdir=TOP:…:BOTTOM", "upperdir=", "workdir=" and whatever else."""
    lower, upper, work, others = mounts.overlay_parts(options.data)
    if not rootfs.uid_mappings:
        return mounts.overlay(lower, upper, work, others)
    owner = idmaps.host_id(rootfs.uid_mappings, 0), idmaps.host_id(rootfs.gid_mappings, 0)
    with _namespace(rootfs, maps) as namespace:
        try:
            return idmapped.overlay(lower, upper, work, others, userns=namespace, owner=owner)
        except OSError as error:
            reason = error.strerror or os.strerror(error.errno or 0)
            raise Failure(
                f"cannot map the ids of the image's layers: {reason} (it needs kernel 5.19, and a file system that "
                "maps ids)",
                number=error.errno or 0,
            ) from None


def is_directory(fd: int) -> bool:
    """Whether what `fd` is can be mounted on a directory."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)
