"""Id-mapped mounts: files whose owners are shifted for whoever looks through the mount, unchanged on disk.

No policy. A user namespace (any descriptor of one) says how: what is owned by id N on disk belongs, through the
mount, to whatever id N of that namespace is outside of it (mount_setattr(2), MOUNT_ATTR_IDMAP, kernel 5.12).

An overlay cannot be id-mapped itself; its layers can (kernel 5.19), the writable one included: what a container's
root, id 100000 outside, writes through it is stored as root's. So nothing of an image is copied or changed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from cove.kernel import mounts, process, syscalls


def shift(mount_fd: int, userns: int, *, recursive: bool = False) -> None:
    """Make the detached mount `mount_fd` (with `recursive`, all of its tree) id-mapped; OSError if it can't."""
    flags = syscalls.AT_EMPTY_PATH | (syscalls.AT_RECURSIVE if recursive else 0)
    syscalls.mount_setattr(mount_fd, "", flags, attr_set=mounts.ATTR_IDMAP, userns_fd=userns)


def overlay(
    lower: Sequence[str], upper: str, work: str, data: Iterable[str], *, userns: int, owner: tuple[int, int]
) -> int:
    """A detached overlay on id-mapped layers, `lower` from top to bottom; without `upper` it is read-only.

    `owner`: uid and gid, outside, of the namespace's root. The kernel makes files of the overlay's own (its
    scratch directory, whiteouts) with the ids of the process that mounts, which must exist in the mapped mount.
    On older kernels this process is in a mount namespace of its own afterwards.
    """
    options = list(data)
    with ExitStack() as held:
        layers = [(path, _opened(held, path, userns)) for path in lower]
        writable: list[tuple[str, int]] = []
        if upper:
            above = os.path.commonpath([upper, work])
            layers.append((above, _opened(held, above, userns)))
            for key, path in (("upperdir", upper), ("workdir", work)):
                name = os.path.relpath(path, above)
                fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=layers[-1][1])
                held.callback(os.close, fd)
                writable.append((key, fd))
        pairs = [*(("lowerdir+", fd) for _, fd in layers[: len(lower)]), *writable]
        with _files_of(owner):
            try:
                return mounts.new_filesystem("overlay", "overlay", options, descriptors=pairs)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP):
                    raise
            return _by_path(list(lower), upper, work, options, layers)


def _opened(held: ExitStack, path: str, userns: int) -> int:
    """An id-mapped, detached copy of the mount at `path`, open as long as `held` is."""
    fd = mounts.clone(syscalls.AT_FDCWD, path)
    held.callback(os.close, fd)
    shift(fd, userns)
    return fd


def _by_path(lower: list[str], upper: str, work: str, options: list[str], layers: list[tuple[str, int]]) -> int:
    """Before kernel 6.13 layers are named: each copy covers its own directory, in a mount namespace for that."""
    syscalls.unshare(process.CLONE_NEWNS)
    syscalls.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    for path, fd in layers:
        place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mounts.attach(fd, place)
        os.close(place)
    return mounts.overlay(lower, upper, work, options)


@contextmanager
def _files_of(owner: tuple[int, int]) -> Iterator[None]:
    """Within, files that this process makes are `owner`'s, and its capabilities are what they were."""
    _, permitted, inheritable = syscalls.capget()
    syscalls.setfsid(*owner)
    syscalls.capset(permitted, permitted, inheritable)
    try:
        yield
    finally:
        syscalls.setfsid(os.geteuid(), os.getegid())
        syscalls.capset(permitted, permitted, inheritable)
